package jsonschema

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"unicode/utf8"
)

// Limits bounds what a message may cost before anything is built from it. In each field 0 means the default and a
// negative number means no cap.
type Limits struct {
	Depth       int // nested arrays and objects; default 64, at most 10,000
	Keys        int // names in one object; default 256
	KeyBytes    int // bytes of one name after unescaping; default 256
	NumberBytes int // characters of one number; default 64
	Exponent    int // absolute value of a written exponent, whatever its leading zeros; default 400
}

// DefaultLimits returns the caps that apply where nothing else is said.
func DefaultLimits() Limits {
	return Limits{Depth: 64, Keys: 256, KeyBytes: 256, NumberBytes: 64, Exponent: 400}
}

// maxExponent is where exponents saturate. Comparing two of them needs no power of ten, so the cap can be high.
const maxExponent = 1 << 30

// maxDepth is that of encoding/json. Trees are walked by recursion, and Go ends a process whose stack overflows.
const maxDepth = 10000

// maxMessage keeps offsets within 31 bits.
const maxMessage = 1 << 30

func (l *Limits) resolve() Limits {
	d := DefaultLimits()
	if l == nil {
		return d
	}
	pick := func(v, def, most int) int {
		switch {
		case v == 0:
			return def
		case v < 0 || v > most:
			return most
		}
		return v
	}
	return Limits{
		Depth:       pick(l.Depth, d.Depth, maxDepth),
		Keys:        pick(l.Keys, d.Keys, math.MaxInt32),
		KeyBytes:    pick(l.KeyBytes, d.KeyBytes, math.MaxInt32),
		NumberBytes: pick(l.NumberBytes, d.NumberBytes, math.MaxInt32),
		Exponent:    pick(l.Exponent, d.Exponent, maxExponent-1),
	}
}

// Scan reports whether msg is one JSON value that every parser reads in the same way: RFC 8259 to the letter, UTF-8
// without a byte order mark, no name twice in an object after unescaping, no lone surrogate, nothing after the value,
// and within lim (nil means the defaults). A NUL is refused like every raw control character; the escape \u0000 is valid
// JSON and passes. It returns nil or an *Error for the first fault in byte order, and allocates nothing on accept.
func Scan(msg []byte, lim *Limits) error {
	l := lim.resolve()
	if off, f := scan(msg, &l); f != faultNone {
		return f.error(off)
	}
	return nil
}

type scanFault uint8

const (
	faultNone scanFault = iota
	faultEmpty
	faultBOM
	faultSyntax
	faultTrailing
	faultControl
	faultUTF8
	faultSurrogate
	faultDuplicate
	faultSize
	faultDepth
	faultKeys
	faultKeyBytes
	faultNumberBytes
	faultExponent
)

var scanTokens = [...]string{"", TokenEmpty, TokenBOM, TokenSyntax, TokenTrailing, TokenControl, TokenUTF8, TokenSurrogate,
	TokenDuplicate, TokenSize, TokenDepth, TokenKeys, TokenKeyBytes, TokenNumberBytes, TokenExponent}

func (f scanFault) error(off int) *Error {
	e := &Error{Kind: KindSyntax, Token: scanTokens[f], Offset: off}
	if f >= faultSize {
		e.Kind = KindLimit
	}
	return e
}

// A scanner holds the names of the objects that are open. They form a stack, and each is also in a hash chain, newest
// first; an object that ends takes its names off in the reverse order, so a chain head only ever goes back to what it
// was. The hash is seeded per process and mixed with the depth: no peer can fill one chain.
type scanner struct {
	frames []frame
	keys   []keyEntry
	heads  []int32 // index+1 of the newest name with these hash bits
	names  []byte  // names that had to be unescaped
}

type frame struct {
	object bool
	first  int32 // index of the object's first name in keys
	names  int32 // length of scanner.names when the object began
}

type keyEntry struct {
	hash     uint64
	off, end int32 // in the message, or in names
	next     int32
	depth    int32
	own      bool // in names
}

var scanners = sync.Pool{New: func() any {
	return &scanner{frames: make([]frame, 0, 64), keys: make([]keyEntry, 0, 64), heads: make([]int32, 128)}
}}

var seed = maphash.MakeSeed()

func scan(msg []byte, l *Limits) (int, scanFault) {
	if len(msg) > maxMessage {
		return 0, faultSize
	}
	s := scanners.Get().(*scanner)
	off, f := s.run(msg, l)
	s.pop(0)
	s.frames, s.names = s.frames[:0], s.names[:0]
	if cap(s.keys) <= 1<<14 && cap(s.frames) <= 1<<12 && cap(s.names) <= 1<<16 {
		scanners.Put(s)
	}
	return off, f
}

func skipSpace(msg []byte, i int) int {
	for i < len(msg) && (msg[i] == ' ' || msg[i] == '\n' || msg[i] == '\r' || msg[i] == '\t') {
		i++
	}
	return i
}

func (s *scanner) run(msg []byte, l *Limits) (int, scanFault) {
	if len(msg) >= 3 && msg[0] == 0xEF && msg[1] == 0xBB && msg[2] == 0xBF {
		return 0, faultBOM
	}
	i := skipSpace(msg, 0)
	if i == len(msg) {
		return i, faultEmpty
	}
	var f scanFault
	for { // each turn begins at a value
		if i == len(msg) {
			return i, faultSyntax
		}
		switch c := msg[i]; c {
		case '{', '[':
			if len(s.frames) >= l.Depth {
				return i, faultDepth
			}
			s.frames = append(s.frames, frame{object: c == '{', first: int32(len(s.keys)), names: int32(len(s.names))})
			i = skipSpace(msg, i+1)
			if i < len(msg) && msg[i] == c+2 { // ']' and '}' are two after '[' and '{'
				break // the container ends below
			}
			if c == '{' {
				if i, f = s.key(msg, i, l); f != faultNone {
					return i, f
				}
			}
			continue
		case '"':
			if i, _, f = scanString(msg, i); f != faultNone {
				return i, f
			}
		case 't':
			if i, f = scanWord(msg, i, "true"); f != faultNone {
				return i, f
			}
		case 'f':
			if i, f = scanWord(msg, i, "false"); f != faultNone {
				return i, f
			}
		case 'n':
			if i, f = scanWord(msg, i, "null"); f != faultNone {
				return i, f
			}
		default:
			if c != '-' && (c < '0' || c > '9') {
				return i, faultSyntax
			}
			if i, f = scanNumber(msg, i, l); f != faultNone {
				return i, f
			}
		}
		// A value has ended, or stands before its closing bracket.
		for {
			i = skipSpace(msg, i)
			if len(s.frames) == 0 {
				if i < len(msg) {
					return i, faultTrailing
				}
				return i, faultNone
			}
			if i == len(msg) {
				return i, faultSyntax
			}
			top := &s.frames[len(s.frames)-1]
			c := msg[i]
			if c == ',' {
				i = skipSpace(msg, i+1)
				if top.object {
					if i, f = s.key(msg, i, l); f != faultNone {
						return i, f
					}
				}
				break
			}
			if top.object && c != '}' || !top.object && c != ']' {
				return i, faultSyntax
			}
			i++
			s.pop(int(top.first))
			s.names = s.names[:top.names]
			s.frames = s.frames[:len(s.frames)-1]
		}
	}
}

// key reads a name and its colon, and returns where the value begins.
func (s *scanner) key(msg []byte, i int, l *Limits) (int, scanFault) {
	if i == len(msg) || msg[i] != '"' {
		return i, faultSyntax
	}
	start := i
	i, escaped, f := scanString(msg, start)
	if f != faultNone {
		// The first fault in byte order wins, and the name may have been too long before it was wrong.
		if unescapedLen(msg[start+1:i], l.KeyBytes) > l.KeyBytes {
			return start, faultKeyBytes
		}
		return i, f
	}
	top := &s.frames[len(s.frames)-1]
	e := keyEntry{off: int32(start + 1), end: int32(i - 1), depth: int32(len(s.frames))}
	if escaped {
		if unescapedLen(msg[start+1:i-1], l.KeyBytes) > l.KeyBytes {
			return start, faultKeyBytes
		}
		e.own, e.off = true, int32(len(s.names))
		s.names = unescape(s.names, msg[start+1:i-1])
		e.end = int32(len(s.names))
	} else if i-start-2 > l.KeyBytes {
		return start, faultKeyBytes
	}
	if len(s.keys)-int(top.first) >= l.Keys {
		return start, faultKeys
	}
	name := s.name(msg, &e)
	e.hash = maphash.Bytes(seed, name) + uint64(e.depth)*0x9E3779B97F4A7C15
	for k := s.heads[e.hash&uint64(len(s.heads)-1)]; k != 0; {
		o := &s.keys[k-1]
		if o.hash == e.hash && o.depth == e.depth && string(s.name(msg, o)) == string(name) {
			return start, faultDuplicate
		}
		k = o.next
	}
	s.push(e)
	if i = skipSpace(msg, i); i == len(msg) || msg[i] != ':' {
		return i, faultSyntax
	}
	return skipSpace(msg, i+1), faultNone
}

func (s *scanner) name(msg []byte, e *keyEntry) []byte {
	if e.own {
		return s.names[e.off:e.end]
	}
	return msg[e.off:e.end]
}

func (s *scanner) push(e keyEntry) {
	if len(s.keys) >= len(s.heads) {
		s.heads = make([]int32, 4*len(s.heads))
		for i := range s.keys {
			s.link(i)
		}
	}
	s.keys = append(s.keys, e)
	s.link(len(s.keys) - 1)
}

func (s *scanner) link(i int) {
	h := &s.heads[s.keys[i].hash&uint64(len(s.heads)-1)]
	s.keys[i].next, *h = *h, int32(i+1)
}

func (s *scanner) pop(to int) {
	for i := len(s.keys) - 1; i >= to; i-- {
		s.heads[s.keys[i].hash&uint64(len(s.heads)-1)] = s.keys[i].next
	}
	s.keys = s.keys[:to]
}

func scanWord(msg []byte, i int, word string) (int, scanFault) {
	for k := 0; k < len(word); k++ {
		if i+k == len(msg) || msg[i+k] != word[k] {
			return i + k, faultSyntax
		}
	}
	return i + len(word), faultNone
}

func scanNumber(msg []byte, i int, l *Limits) (int, scanFault) {
	start := i
	digits := func() bool {
		from := i
		for i < len(msg) && msg[i]-'0' <= 9 {
			i++
		}
		return i > from
	}
	bad := func() (int, scanFault) {
		if i-start >= l.NumberBytes {
			return start, faultNumberBytes
		}
		return i, faultSyntax
	}
	if msg[i] == '-' {
		i++
	}
	if i < len(msg) && msg[i] == '0' {
		if i++; i < len(msg) && msg[i]-'0' <= 9 {
			return bad()
		}
	} else if !digits() {
		return bad()
	}
	if i < len(msg) && msg[i] == '.' {
		if i++; !digits() {
			return bad()
		}
	}
	exp := 0
	if i < len(msg) && (msg[i] == 'e' || msg[i] == 'E') {
		if i++; i < len(msg) && (msg[i] == '+' || msg[i] == '-') {
			i++
		}
		from := i
		if !digits() {
			return bad()
		}
		for _, c := range msg[from:i] {
			exp = min(exp*10+int(c-'0'), maxExponent)
		}
	}
	if i-start > l.NumberBytes {
		return start, faultNumberBytes
	}
	if exp > l.Exponent {
		return start, faultExponent
	}
	return i, faultNone
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// scanString reads the string whose quote stands at i. It returns the offset after the closing quote, or of the fault.
func scanString(msg []byte, i int) (end int, escaped bool, f scanFault) {
	i++
	for {
		// Eight bytes at a time, as long as none is a quote, a backslash, a control or outside ASCII. The lowest bit
		// of each term is exact; a borrow can only spoil the bits above it.
		for i+8 <= len(msg) {
			w := binary.LittleEndian.Uint64(msg[i:])
			q, b := w^ones*'"', w^ones*'\\'
			m := ((w-ones*0x20)&^w | (q-ones)&^q | (b-ones)&^b | w) & highs
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) / 8
			break
		}
		if i >= len(msg) {
			return len(msg), escaped, faultSyntax
		}
		switch c := msg[i]; {
		case c == '"':
			return i + 1, escaped, faultNone
		case c == '\\':
			escaped = true
			if i+1 == len(msg) {
				return i + 1, escaped, faultSyntax
			}
			switch msg[i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				r, bad := hex4(msg, i+2)
				if bad >= 0 {
					return bad, escaped, faultSyntax
				}
				if r < 0xD800 || r > 0xDFFF {
					i += 6
					break
				}
				if r >= 0xDC00 || i+7 >= len(msg) || msg[i+6] != '\\' || msg[i+7] != 'u' {
					return i, escaped, faultSurrogate
				}
				low, bad := hex4(msg, i+8)
				if bad >= 0 || low < 0xDC00 || low > 0xDFFF {
					return i, escaped, faultSurrogate
				}
				i += 12
			default:
				return i + 1, escaped, faultSyntax
			}
		case c < 0x20:
			return i, escaped, faultControl
		case c < utf8.RuneSelf:
			i++
		default:
			for i < len(msg) && msg[i] >= utf8.RuneSelf {
				r, size := utf8.DecodeRune(msg[i:])
				if r == utf8.RuneError && size == 1 {
					return i, escaped, faultUTF8
				}
				i += size
			}
		}
	}
}

// hex4 reads four hexadecimal digits at i; bad is the offset of what is none, or -1.
func hex4(msg []byte, i int) (r rune, bad int) {
	for k := i; k < i+4; k++ {
		if k >= len(msg) {
			return 0, len(msg)
		}
		c := msg[k]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, k
		}
		r = r<<4 | rune(c)
	}
	return r, -1
}

// unescape appends the text of a JSON string's inside, which scanString has accepted.
func unescape(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' {
			dst = append(dst, c)
			i++
			continue
		}
		switch c = raw[i+1]; c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r, _ := hex4(raw, i+2)
			i += 6
			if r >= 0xD800 && r <= 0xDBFF {
				low, _ := hex4(raw, i+2)
				r = (r-0xD800)<<10 + (low - 0xDC00) + 0x10000
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
		i += 2
	}
	return dst
}

// unescapedLen returns how many bytes raw has after unescaping, and stops counting beyond most. An escape that is cut
// short at the end of raw counts as one byte.
func unescapedLen(raw []byte, most int) int {
	n := 0
	for i := 0; i < len(raw) && n <= most; n++ {
		if raw[i] != '\\' {
			i++
			continue
		}
		if i+1 >= len(raw) || raw[i+1] != 'u' {
			i += 2
			continue
		}
		r, bad := hex4(raw, i+2)
		i += 6
		switch {
		case bad >= 0 || r < 0x80:
		case r < 0x800:
			n++
		case r >= 0xD800 && r <= 0xDBFF:
			n += 3
			i += 6
		default:
			n += 2
		}
	}
	return n
}
