//go:build unix && !linux && !darwin && !freebsd

package wire

func unsentBytes(int) (int64, bool) { return 0, false }
