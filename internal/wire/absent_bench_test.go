package wire

import (
	"net"
	"testing"
)

// A look that finds nothing.
func BenchmarkLook(b *testing.B) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"socket":  func(nc net.Conn) net.Conn { return nc },
		"wrapped": func(nc net.Conn) net.Conn { return shown{nc} },
	} {
		b.Run(name, func(b *testing.B) {
			here, _ := tcpPair(b)
			c := newConn(wrap(here), nil, &Config{WriteTimeout: 1})
			c.Look(true)
			b.ReportAllocs()
			for b.Loop() {
				if c.Look(false) {
					b.Fatal("slow")
				}
			}
		})
	}
}
