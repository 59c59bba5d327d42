package wire

import (
	"encoding/binary"
	"math/bits"
)

// mask applies a masking key in place (RFC 6455 §5.3) and returns the key turned to the
// next byte, so that a payload can be masked in pieces.
func mask(p []byte, key uint32) uint32 {
	if len(p) >= 8 {
		key64 := uint64(key)<<32 | uint64(key)
		for len(p) >= 32 {
			q := p[:32]
			binary.LittleEndian.PutUint64(q, binary.LittleEndian.Uint64(q)^key64)
			binary.LittleEndian.PutUint64(q[8:], binary.LittleEndian.Uint64(q[8:])^key64)
			binary.LittleEndian.PutUint64(q[16:], binary.LittleEndian.Uint64(q[16:])^key64)
			binary.LittleEndian.PutUint64(q[24:], binary.LittleEndian.Uint64(q[24:])^key64)
			p = p[32:]
		}
		for len(p) >= 8 {
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key64)
			p = p[8:]
		}
	}
	for i := range p {
		p[i] ^= byte(key)
		key = bits.RotateLeft32(key, -8)
	}
	return key
}

// maskTo is mask from src to dst, which must be as long. The copy costs less than a loop
// over both.
func maskTo(dst, src []byte, key uint32) uint32 { return mask(dst[:copy(dst, src)], key) }

// key is the frame's masking key as mask takes it.
func (h header) key() uint32 { return binary.LittleEndian.Uint32(h.mask[:]) }
