package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// mask and maskTo do what RFC 6455 §5.3 says byte by byte, in whatever pieces the payload
// comes, and touch nothing beyond it.
func TestMask(t *testing.T) {
	for range 2000 {
		key := [4]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())}
		n := rand.N(300)
		p := make([]byte, n+8)
		want := make([]byte, n+8)
		for i := range p {
			p[i] = byte(rand.Uint32())
			want[i] = p[i]
			if i < n {
				want[i] ^= key[i%4]
			}
		}
		src := bytes.Clone(p)
		turn, turnTo := binary.LittleEndian.Uint32(key[:]), binary.LittleEndian.Uint32(key[:])
		dst := bytes.Clone(p)
		for at := 0; at < n; {
			k := 1 + rand.N(n-at)
			turn = mask(p[at:at+k], turn)
			turnTo = maskTo(dst[at:], src[at:at+k], turnTo)
			at += k
		}
		if !bytes.Equal(p, want) || !bytes.Equal(dst, want) {
			t.Fatalf("%d bytes with key % x", n, key)
		}
	}
}

func BenchmarkMask(b *testing.B) {
	p := make([]byte, 4096)
	b.SetBytes(4096)
	for b.Loop() {
		mask(p, 0x12345678)
	}
}
