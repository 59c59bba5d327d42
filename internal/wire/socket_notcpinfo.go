//go:build unix && (!linux || 386 || s390x)

package wire

func ackedBytes(int) (int64, bool) { return 0, false }

func peerClosed(int) bool { return false }
