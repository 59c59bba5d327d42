package wire

import (
	"syscall"
	"unsafe"
)

// unsentBytes is SIOCOUTQ.
func unsentBytes(fd int) (int64, bool) {
	var n int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int64(n), errno == 0
}
