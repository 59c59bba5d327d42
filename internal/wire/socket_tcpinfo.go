//go:build linux && !386 && !s390x

package wire

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// Of the kernel's struct tcp_info.
const (
	tcpInfoState = 0   // tcpi_state, one byte
	tcpInfoAcked = 120 // tcpi_bytes_acked, 8 bytes, since Linux 4.1
	tcpInfoBytes = 128
)

// Of the kernel's enum of the states of a TCP socket: those in which the peer's FIN or its
// reset has come.
const (
	tcpTimeWait  = 6
	tcpClose     = 7
	tcpCloseWait = 8
	tcpLastAck   = 9
	tcpClosing   = 11
)

func tcpInfo(fd int) (info [tcpInfoBytes]byte, n uint32) {
	n = tcpInfoBytes
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		n = 0
	}
	return info, n
}

func ackedBytes(fd int) (int64, bool) {
	info, n := tcpInfo(fd)
	return int64(binary.NativeEndian.Uint64(info[tcpInfoAcked:])), n == tcpInfoBytes
}

func peerClosed(fd int) bool {
	info, n := tcpInfo(fd)
	if n == 0 {
		return false
	}
	switch info[tcpInfoState] {
	case tcpTimeWait, tcpClose, tcpCloseWait, tcpLastAck, tcpClosing:
		return true
	}
	return false
}
