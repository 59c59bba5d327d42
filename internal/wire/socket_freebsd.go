package wire

import (
	"syscall"
	"unsafe"
)

const fionWrite = 0x40046677 // FIONWRITE of sys/filio.h

// unsentBytes is FIONWRITE.
func unsentBytes(fd int) (int64, bool) {
	var n int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), fionWrite, uintptr(unsafe.Pointer(&n)))
	return int64(n), errno == 0
}
