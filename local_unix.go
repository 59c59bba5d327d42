//go:build unix

package wsguard

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// openFlags make the opening of a symbolic link fail, and that of a named pipe return at once.
const openFlags = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// exposed returns why users other than that of this process can use a file, and what to do
// about it. It returns "" if they cannot.
func exposed(info fs.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != uint32(os.Geteuid()) {
		return fmt.Sprintf("belongs to the user %d, and this process is of the user %d: name a file of this user", st.Uid, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Sprintf("has the mode %04o, so that others may have read or written it: delete it, and the server creates one with a new token; or set the mode 0600 if nobody has", mode)
	}
	return ""
}
