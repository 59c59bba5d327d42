package jsonschema

import (
	"encoding/binary"
	"math/bits"
	"unicode"
	"unicode/utf8"
)

// A nameSet finds a name among those of a schema. The names are known beforehand, so each has a place of its own. A look-up
// is one multiplication and one comparison, and no name of a peer makes it more.
type nameSet struct {
	names []string
	table []uint16 // index+1
	mul   uint64
	shift uint8
	byMap map[string]int // has the names if their ends and lengths do not tell all of them apart; nil otherwise
}

// ends has the first and the last eight bytes of a name, and its length. They tell most names apart.
func ends(b []byte) (first, last uint64) {
	n := len(b)
	switch {
	case n >= 8:
		first, last = load(b, 0), load(b, n-8)
	case n >= 4:
		first = uint64(binary.LittleEndian.Uint32(b))
		last = uint64(binary.LittleEndian.Uint32(b[n-4:]))
	case n > 0:
		first = uint64(b[0]) | uint64(b[n/2])<<8 | uint64(b[n-1])<<16
	}
	return first, last + uint64(n)<<56
}

func (s *nameSet) hash(first, last uint64) uint64 {
	return (first ^ bits.RotateLeft64(last*0x9E3779B97F4A7C15, 23)) * s.mul
}

func newNameSet(names []string) *nameSet {
	s := &nameSet{names: names}
	if len(names) > 0 && len(names) < 1<<14 {
		size := 2
		for size < 2*len(names) {
			size *= 2
		}
		for range 4 {
			s.table = make([]uint16, size)
			s.shift = uint8(64 - bits.TrailingZeros(uint(size)))
			s.mul = 0xD6E8FEB86659FD93
			for range 256 {
				s.mul = s.mul*0xDA942042E4DD58B5 | 1
				if s.place() {
					return s
				}
			}
			size *= 4
		}
	}
	s.table = nil
	s.byMap = make(map[string]int, len(names))
	for i, name := range names {
		s.byMap[name] = i
	}
	return s
}

func (s *nameSet) place() bool {
	clear(s.table)
	for i, name := range s.names {
		slot := &s.table[s.hash(ends([]byte(name)))>>s.shift]
		if *slot != 0 {
			return false
		}
		*slot = uint16(i + 1)
	}
	return true
}

// find returns the index of a name, or -1.
func (s *nameSet) find(b []byte) int {
	if s.byMap != nil {
		if i, ok := s.byMap[string(b)]; ok {
			return i
		}
		return -1
	}
	if i := int(s.table[s.hash(ends(b))>>s.shift]) - 1; i >= 0 && string(b) == s.names[i] {
		return i
	}
	return -1
}

// A literal is a string of a schema that is compared with the bytes of a message.
type literal struct {
	text  string // with its closing quote
	word  uint64 // its first eight bytes
	mask  uint64
	short bool // word has all of text
}

func newLiteral(s string) literal {
	l := literal{text: s + `"`, short: len(s) < 8}
	var b [8]byte
	n := copy(b[:], l.text)
	l.word = binary.LittleEndian.Uint64(b[:])
	l.mask = ^uint64(0) >> (64 - 8*n)
	return l
}

// plainText reports whether s needs no escape in JSON.
func plainText(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return utf8.ValidString(s)
}

// at reports whether the string whose inside begins at i is this one, written without escapes.
func (l *literal) at(msg []byte, i int) bool {
	if i+8 <= len(msg) {
		if (load(msg, i)^l.word)&l.mask != 0 {
			return false
		}
		if l.short {
			return true
		}
	}
	return i+len(l.text) <= len(msg) && string(msg[i:i+len(l.text)]) == l.text
}

// foldName appends a name. It replaces each letter by the least of those that encoding/json takes for the same.
func foldName(dst, name []byte) []byte {
	for i := 0; i < len(name); {
		c := name[i]
		if c < utf8.RuneSelf {
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			dst = append(dst, c)
			i++
			continue
		}
		r, size := utf8.DecodeRune(name[i:])
		i += size
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				r = next // the least letter of the orbit
				break
			}
			r = next
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// folds has the names that an object's schema declares, in any branch.
type folds struct {
	set      *nameSet // the names, folded
	declared *nameSet // the names as they are written
}

// newFolds returns nil if the schema declares no names.
func newFolds(nodes ...*node) *folds {
	seen := map[*node]bool{}
	names := map[string]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		for k, p := range n.names {
			if p.node != nil {
				names[k] = true
			}
		}
		n.again(walk)
	}
	for _, n := range nodes {
		walk(n)
	}
	if len(names) == 0 {
		return nil
	}
	folded := map[string]bool{}
	for k := range names {
		folded[string(foldName(nil, []byte(k)))] = true
	}
	return &folds{newNameSet(sortedNames(folded)), newNameSet(sortedNames(names))}
}

// variant reports whether a name differs only in letter case from one that is declared, and is not declared itself.
func (f *folds) variant(buf, name []byte) ([]byte, bool) {
	buf = foldName(buf[:0], name)
	return buf, f.set.find(buf) >= 0 && f.declared.find(name) < 0
}

// prototypeKey reports whether a name leads to an object's prototype in JavaScript.
func prototypeKey(name []byte) bool {
	switch len(name) {
	case 9:
		return string(name) == "__proto__" || string(name) == "prototype"
	case 11:
		return string(name) == "constructor"
	}
	return false
}

// controlAt returns the offset of the first control character between from and to, or -1. Control characters are C0 except
// tab and line ends, DEL, C1, and the marks that turn the direction of text. They may be escaped or not.
func controlAt(msg []byte, from, to int) int {
	for i := from; i < to; {
		c := msg[i]
		start := i
		r := rune(c)
		switch {
		case c == '\\':
			switch msg[i+1] {
			case 'b', 'f':
				return i
			case 'u':
				r, _ = hex4(msg, i+2)
				i += 6
			default:
				i += 2
				continue
			}
		case c < utf8.RuneSelf:
			i++
		default:
			var size int
			r, size = utf8.DecodeRune(msg[i:to])
			i += size
		}
		if unwanted(r) {
			return start
		}
	}
	return -1
}

func unwanted(r rune) bool {
	switch {
	case r < 0x20:
		return r != '\t' && r != '\n' && r != '\r'
	case r < 0x7F:
		return false
	case r <= 0x9F:
		return true
	}
	return r == 0x061C || r == 0x200E || r == 0x200F || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069
}
