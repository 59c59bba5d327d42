package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

// verdict is what the oracle says of the front of a client's frame header.
type verdict int

const (
	undecided verdict = iota // legal so far, more bytes are needed
	complete
	illegal // no byte that may follow makes it legal
)

// headerOracle judges b by RFC 6455 §5 in another way than parseHeader: it asks
// whether any completion of b is legal.
func headerOracle(b []byte, open bool) (v verdict, op byte, fin bool, length uint64, size int) {
	if len(b) == 0 {
		return undecided, 0, false, 0, 0
	}
	fin, op = b[0] >= 0x80, b[0]&0xf
	legalFirst := map[byte]bool{}
	for _, data := range []byte{0x0, 0x1, 0x2} {
		if (data == 0) == open { // a continuation belongs to an open message, nothing else does
			legalFirst[data], legalFirst[0x80|data] = true, true
		}
	}
	for _, control := range []byte{0x88, 0x89, 0x8a} {
		legalFirst[control] = true
	}
	if !legalFirst[b[0]] {
		return illegal, 0, false, 0, 0
	}
	if len(b) == 1 {
		return undecided, 0, false, 0, 0
	}
	if b[1] < 0x80 || op >= 8 && b[1] > 0x80+125 {
		return illegal, 0, false, 0, 0
	}
	// The extended length lies between low and high, whatever follows.
	size = 2
	length = uint64(b[1] - 0x80)
	if ext := map[uint64]int{126: 2, 127: 8}[length]; ext > 0 {
		var low, high uint64
		for i := range ext {
			l, h := byte(0), byte(0xff)
			if 2+i < len(b) {
				l, h = b[2+i], b[2+i]
			}
			low, high = low<<8|uint64(l), high<<8|uint64(h)
		}
		least, most := uint64(126), uint64(0xffff)
		if ext == 8 {
			least, most = 0x10000, math.MaxInt64
		}
		if high < least || low > most {
			return illegal, 0, false, 0, 0
		}
		length = low
		size += ext
	}
	if size += 4; len(b) < size {
		return undecided, 0, false, 0, 0
	}
	return complete, op, fin, length, size
}

func headerSeeds() [][]byte {
	var seeds [][]byte
	mask := "\xa1\xb2\xc3\xd4"
	for b0 := range 256 {
		seeds = append(seeds, []byte{byte(b0), 0x85, 1, 2, 3, 4})
	}
	for b1 := range 256 {
		seeds = append(seeds, append([]byte{0x81, byte(b1)}, "\x01\x02\x03\x04\x05\x06\x07\x08"+mask...))
		seeds = append(seeds, append([]byte{0x89, byte(b1)}, "\x01\x02\x03\x04\x05\x06\x07\x08"+mask...))
		seeds = append(seeds, append([]byte{0x80, byte(b1)}, "\x00\x00\x00\x00\x00\x01\x00\x00"+mask...))
	}
	for _, n := range []uint16{0, 1, 125, 126, 127, 255, 256, 65535} {
		seeds = append(seeds, append(binary.BigEndian.AppendUint16([]byte{0x82, 0xfe}, n), mask...))
	}
	for _, n := range []uint64{0, 125, 126, 65535, 65536, 1 << 20, 1 << 40, math.MaxInt64, 1 << 63, math.MaxUint64} {
		seeds = append(seeds, append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, n), mask...))
	}
	return seeds
}

// checkHeader gives b to parseHeader byte by byte and all at once. strict wants
// each illegal form refused at the first byte that shows it.
func checkHeader(t *testing.T, b []byte, open, strict bool) {
	t.Helper()
	decided := ""
	for n := range len(b) + 1 {
		h, size, fault := parseHeader(b[:n], open)
		v, op, fin, length, want := headerOracle(b[:n], open)
		got := fmt.Sprintf("n=%d fault=%q h=%+v", size, fault, h)
		switch {
		case decided != "":
			// What is decided stays so, whatever follows.
			if got != decided {
				t.Fatalf("% x, open %t: after %d bytes %s, before %s", b, open, n, got, decided)
			}
			continue
		case fault != "" && size != 0:
			t.Fatalf("% x: both a fault and a length: %s", b[:n], got)
		case fault != "" && v != illegal:
			t.Fatalf("% x, open %t: refused although it may become legal: %s", b[:n], open, got)
		case size != 0 && v != complete:
			t.Fatalf("% x, open %t: accepted, the oracle says %d", b[:n], open, v)
		case v == complete:
			if size != want || h.op != op || h.fin != fin || uint64(h.length) != length || !bytes.Equal(h.mask[:], b[want-4:want]) {
				t.Fatalf("% x: %s, want op %d fin %t length %d size %d", b[:n], got, op, fin, length, want)
			}
		case v == illegal && fault == "" && (strict || n == len(b) && n >= 14):
			t.Fatalf("% x, open %t: not refused after %d bytes, which no byte can make legal", b, open, n)
		}
		if fault != "" || size != 0 {
			decided = got
		}
	}
}

func TestParseHeader(t *testing.T) {
	for _, b := range headerSeeds() {
		checkHeader(t, b, false, false)
		checkHeader(t, b, true, false)
	}
}

func TestParseHeaderRefusesAtFirstByte(t *testing.T) {
	for _, b := range headerSeeds() {
		checkHeader(t, b, false, true)
		checkHeader(t, b, true, true)
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, b := range headerSeeds() {
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, open bool) {
		if len(b) > 20 {
			b = b[:20]
		}
		checkHeader(t, b, open, false)
	})
}

// The length is known, and must be given, before the masking key is there: the
// meter refuses what is too big at once.
func TestParseHeaderLengthBeforeMask(t *testing.T) {
	for _, n := range []uint64{126, 300, 65535, 65536, 1 << 40, math.MaxInt64} {
		b := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, n)
		if n <= 0xffff {
			b = binary.BigEndian.AppendUint16([]byte{0x82, 0xfe}, uint16(n))
		}
		if h, size, fault := parseHeader(b, false); uint64(h.length) != n || size != 0 || fault != "" {
			t.Errorf("% x: length %d, size %d, fault %q", b, h.length, size, fault)
		}
	}
}

func TestAppendHeader(t *testing.T) {
	for n, want := range map[int]string{
		0: "\x81\x00", 1: "\x81\x01", 125: "\x81\x7d", 126: "\x81\x7e\x00\x7e", 127: "\x81\x7e\x00\x7f",
		65535: "\x81\x7e\xff\xff", 65536: "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 16 << 20: "\x81\x7f\x00\x00\x00\x00\x01\x00\x00\x00",
	} {
		if got := string(appendHeader(nil, opText, n)); got != want {
			t.Errorf("%d: % x, want % x", n, got, want)
		}
	}
}

func TestCloseCodes(t *testing.T) {
	for code := range 1 << 16 {
		// RFC 6455 §7.4.1, and the IANA registry for 1012 to 1014.
		legal := code >= 3000 && code <= 4999
		for _, c := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014} {
			legal = legal || c == code
		}
		got, _, fault, _ := parseClose(binary.BigEndian.AppendUint16(nil, uint16(code)))
		if legal && (fault != FaultNone || got != code) || !legal && fault != FaultProtocol {
			t.Errorf("%d received: code %d, fault %d", code, got, fault)
		}
		if want := legal && code != 1010; Sendable(code) != want {
			t.Errorf("Sendable(%d) is %t", code, !want)
		}
	}
	for _, code := range []int{-1, -1000, 1 << 16, 1<<16 + 1000, math.MaxInt, math.MinInt} {
		if Sendable(code) {
			t.Errorf("Sendable(%d)", code)
		}
	}
}

func TestParseClose(t *testing.T) {
	tests := []struct {
		payload string
		code    int
		reason  string
		fault   Fault
	}{
		{"", 1005, "", FaultNone},
		{"\x03", 0, "", FaultProtocol},
		{"\x03\xe8", 1000, "", FaultNone},
		{"\x03\xe8bye", 1000, "bye", FaultNone},
		{"\x03\xe8" + strings.Repeat("é", 61) + "x", 1000, strings.Repeat("é", 61) + "x", FaultNone},
		{"\x03\xe8\x00", 1000, "\x00", FaultNone},
		{"\x03\xe8\xff", 0, "", FaultReason},
		{"\x03\xe8\xed\xa0\x80", 0, "", FaultReason}, // a surrogate
		{"\x03\xe8\xc3", 0, "", FaultReason},         // half a rune
		{"\x03\xed\xff", 0, "", FaultProtocol},       // 1005, before its reason
		{"\x00\x00", 0, "", FaultProtocol},
		{"\xff\xff", 0, "", FaultProtocol},
	}
	for _, tt := range tests {
		code, reason, fault, _ := parseClose([]byte(tt.payload))
		if code != tt.code || reason != tt.reason || fault != tt.fault {
			t.Errorf("%q: %d %q %d, want %d %q %d", tt.payload, code, reason, fault, tt.code, tt.reason, tt.fault)
		}
	}
}

func FuzzTrimReason(f *testing.F) {
	for _, s := range []string{
		"", "bye", strings.Repeat("x", 122), strings.Repeat("x", 123), strings.Repeat("x", 124), strings.Repeat("é", 62), strings.Repeat("€", 50),
		strings.Repeat("x", 122) + "é", strings.Repeat("x", 120) + "😀", "\xff", strings.Repeat("\xff", 123), "\xed\xa0\x80", "ab\xc3", strings.Repeat("x", 121) + "\xff", "a\x00b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := TrimReason(s)
		if len(got) > 123 || !utf8.ValidString(got) {
			t.Fatalf("%q: %q, %d bytes", s, got, len(got))
		}
		whole := string([]rune(s)) // each bad byte is U+FFFD
		if !strings.HasPrefix(whole, got) {
			t.Fatalf("%q: %q is no front of it", s, got)
		}
		if rest := whole[len(got):]; rest != "" {
			if r, _ := utf8.DecodeRuneInString(rest); len(got)+utf8.RuneLen(r) <= 123 {
				t.Fatalf("%q: %q could be longer", s, got)
			}
		}
		if p := appendClose(nil, 4000, s); len(p) > 125 || string(p[2:]) != got {
			t.Fatalf("%q: payload %q", s, p)
		}
	})
}

func TestUnmask(t *testing.T) {
	for n := range 126 {
		p, key := make([]byte, n), [4]byte{0x80, 0x01, 0xff, 0x37}
		for i := range p {
			p[i] = byte(i*7) ^ key[i%4]
		}
		mask(p, header{mask: key}.key())
		for i := range p {
			if p[i] != byte(i*7) {
				t.Fatalf("%d bytes: byte %d is %#x", n, i, p[i])
			}
		}
	}
}
