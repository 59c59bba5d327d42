package wire

import "syscall"

const soNWrite = 0x1024 // SO_NWRITE of sys/socket.h

// unsentBytes is SO_NWRITE.
func unsentBytes(fd int) (int64, bool) {
	n, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, soNWrite)
	return int64(n), err == nil
}
