package jsonschema

import (
	"bytes"
	"slices"
)

// An itemHash is an item of an array under uniqueItems.
type itemHash struct {
	hash     uint64
	off, end int32
}

// unique reports whether no two items of the array at i mean the same. It compares items whose hashes are equal. The hash
// is seeded, so that happens once for an array with a duplicate, and almost never otherwise.
func (v *vm) unique(l *look, i, end int) int {
	if !v.charge(1 + (end-i)/8) {
		return v.empty()
	}
	s := v.scratch()
	base := len(s.items)
	for j := firstItem(v.msg, i); j >= 0; {
		h, next := v.hash(j)
		s.items = append(s.items, itemHash{h, int32(j), int32(next)})
		j = nextItem(v.msg, next)
	}
	items := s.items[base:]
	same := func(a, b *itemHash) bool {
		x, y := v.msg[a.off:a.end], v.msg[b.off:b.end]
		if bytes.Equal(x, y) {
			return true
		}
		return v.same(x, y)
	}
	r := end
	var twin [2]*itemHash
	if len(items) <= 16 {
		for a := range items {
			for b := range a {
				if items[a].hash == items[b].hash && same(&items[a], &items[b]) {
					r, twin = refused, [2]*itemHash{&items[b], &items[a]}
				}
			}
		}
	} else {
		slices.SortFunc(items, func(a, b itemHash) int {
			switch {
			case a.hash < b.hash:
				return -1
			case a.hash > b.hash:
				return 1
			}
			return int(a.off - b.off)
		})
		for a := 1; a < len(items) && r >= 0; a++ {
			for b := a - 1; b >= 0 && items[a].hash == items[b].hash; b-- {
				if same(&items[a], &items[b]) {
					r, twin = refused, [2]*itemHash{&items[b], &items[a]}
					break
				}
			}
		}
	}
	if r < 0 {
		if v.failed(l.err, i, end); v.explain {
			v.fault.more = &more{detail: twinItems(order(items, twin[0]), order(items, twin[1]))}
		}
	}
	s.items = s.items[:base]
	return r
}

// order returns the index in the array of an item, which may stand elsewhere in items.
func order(items []itemHash, of *itemHash) (n int) {
	for i := range items {
		if items[i].off < of.off {
			n++
		}
	}
	return n
}

// same compares two values that are written in different ways, which is rare.
func (v *vm) same(x, y []byte) bool {
	kind := kindOf[x[0]]
	switch {
	case kind != kindOf[y[0]]:
		return false
	case kind == isNumber+1:
		var a, b [64]byte
		return parseDecimal(a[:], x).cmp(parseDecimal(b[:], y)) == 0
	case kind == isString+1:
		s := v.scratch()
		s.text = unescape(s.text[:0], x)
		s.fold = unescape(s.fold[:0], y)
		return string(s.text) == string(s.fold)
	}
	var t tree
	t.parse(string(x))
	n := int32(len(t.vals))
	t.value(string(y), 0, -1, 0)
	return t.same(0, &t, n, func(int) {})
}

// hash hashes the meaning of the value at i, and returns where the value ends. 1 and 1.0 have the same hash, and so have
// strings that are escaped differently and objects whose members are in another order.
func (v *vm) hash(i int) (uint64, int) {
	msg := v.msg
	switch c := msg[i]; c {
	case '"':
		end, flags, _ := scanString(msg, i+1)
		text := msg[i+1 : end-1]
		if flags&escaped != 0 {
			s := v.scratch()
			s.text = unescape(s.text[:0], text)
			text = s.text
		}
		return mix(hashBytes(text), uint64(isString)), end
	case '[', '{':
		h := uint64(c)
		j := skipSpace(msg, i+1)
		for msg[j] != ']' && msg[j] != '}' {
			if msg[j] == ',' {
				j = skipSpace(msg, j+1)
			}
			var name, value uint64
			if c == '{' {
				name, j = v.hash(j)
				j = skipSpace(msg, skipSpace(msg, j)+1)
			}
			if value, j = v.hash(j); c == '{' {
				h += mix(name, value)
			} else {
				h = mix(h, value)
			}
			j = skipSpace(msg, j)
		}
		return mix(h, uint64(c)), j + 1
	case 't', 'f', 'n':
		return mix(uint64(c), 0), skipValue(msg, i)
	}
	end, n := v.num(i)
	if !n.small {
		var buf [64]byte
		d := parseDecimal(buf[:], msg[i:end])
		if n = numberOf(&d); !n.small {
			n.mant = hashBytes(d.dig)
		}
	}
	if n.small {
		n = n.shortest()
	}
	h := mix(n.mant, uint64(n.exp))
	if n.neg {
		h = mix(h, 1)
	}
	return mix(h, uint64(isNumber)), end
}
