package jsonschema

import (
	"encoding/json"
	"hash/maphash"
	"slices"
	"sort"
)

type valueKind uint8

const (
	isNull valueKind = iota
	isFalse
	isTrue
	isNumber
	isString
	isArray
	isObject
)

// A value is one JSON value in a tree. Values know their parents, so that a fault needs to remember only its value. The
// walk builds no text of the peer's keys.
type value struct {
	s      string // a string's text, or a number as it was written
	key    string // the name, in an object
	hash   uint64 // 0: not worked out yet
	parent int32  // -1: the root
	next   int32  // the next sibling, or -1
	first  int32  // the first child, or -1
	n      int32  // number of children
	idx    int32  // place among the siblings
	asText int32  // the key as a value of its own, for propertyNames; 0: none yet
	depth  int32
	kind   valueKind
}

type tree struct {
	vals []value
	text []byte // scratch for unescaping
	digA []byte // scratch for decimals
	digB []byte
	idx  []hashed // scratch for uniqueItems
}

type hashed struct {
	hash uint64
	val  int32
}

// parse reads a text that scan has accepted. Strings without escapes share its memory.
func (t *tree) parse(text string) {
	t.vals = t.vals[:0]
	t.value(text, skip(text, 0), -1, 0)
}

func skip(s string, i int) int {
	for i < len(s) && s[i] <= ' ' {
		i++
	}
	return i
}

func (t *tree) value(s string, i int, parent, depth int32) int {
	me := int32(len(t.vals))
	t.vals = append(t.vals, value{parent: parent, next: -1, first: -1, depth: depth})
	switch s[i] {
	case 'n':
		return i + 4
	case 't':
		t.vals[me].kind = isTrue
		return i + 4
	case 'f':
		t.vals[me].kind = isFalse
		return i + 5
	case '"':
		t.vals[me].kind = isString
		t.vals[me].s, i = t.str(s, i)
		return i
	case '[', '{':
		object := s[i] == '{'
		t.vals[me].kind = isArray
		if object {
			t.vals[me].kind = isObject
		}
		last := int32(-1)
		i = skip(s, i+1)
		for s[i] != ']' && s[i] != '}' {
			if s[i] == ',' {
				i = skip(s, i+1)
			}
			var key string
			if object {
				key, i = t.str(s, i)
				i = skip(s, skip(s, i)+1)
			}
			child := int32(len(t.vals))
			i = skip(s, t.value(s, i, me, depth+1))
			c := &t.vals[child]
			c.key, c.idx = key, t.vals[me].n
			if last < 0 {
				t.vals[me].first = child
			} else {
				t.vals[last].next = child
			}
			t.vals[me].n++
			last = child
		}
		return i + 1
	}
	start := i
	for i < len(s) && (s[i]-'0' <= 9 || s[i] == '-' || s[i] == '+' || s[i] == '.' || s[i]|0x20 == 'e') {
		i++
	}
	t.vals[me].kind, t.vals[me].s = isNumber, s[start:i]
	return i
}

func (t *tree) str(s string, i int) (string, int) {
	start := i + 1
	escaped := false
	for i = start; s[i] != '"'; i++ {
		if s[i] == '\\' {
			escaped = true
			i++
		}
	}
	if !escaped {
		return s[start:i], i + 1
	}
	t.text = unescape(t.text[:0], []byte(s[start:i]))
	return string(t.text), i + 1
}

// graft adds a value that encoding/json has decoded with UseNumber. It is a const or an enum value of a schema.
func (t *tree) graft(v any) int32 {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // not reached, because v comes from a decoder
	}
	other := tree{}
	other.parse(string(b))
	base := int32(len(t.vals))
	for _, o := range other.vals {
		for _, p := range []*int32{&o.parent, &o.next, &o.first} {
			if *p >= 0 {
				*p += base
			}
		}
		t.vals = append(t.vals, o)
	}
	return base
}

// find returns the member of that name, or -1.
func (t *tree) find(object int32, name string) int32 {
	for c := t.vals[object].first; c >= 0; c = t.vals[c].next {
		if t.vals[c].key == name {
			return c
		}
	}
	return -1
}

// hashOf hashes the meaning of a value. 1 and 1.0 have the same hash, and so have objects whose members are in another
// order. The value keeps its hash, so that hashing each level of a tree stays linear. hashOf calls spend with its cost.
func (t *tree) hashOf(i int32, spend func(int)) uint64 {
	if h := t.vals[i].hash; h != 0 {
		return h
	}
	v := t.vals[i]
	var h uint64
	switch v.kind {
	case isNumber:
		spend(1 + len(v.s)/16)
		d := parseDecimal(t.digA, v.s)
		t.digA = d.dig[:0]
		h = mix(maphash.Bytes(seed, d.dig), uint64(d.exp))
		if d.neg {
			h = mix(h, 1)
		}
	case isString:
		spend(1 + len(v.s)/64)
		h = maphash.String(seed, v.s)
	case isArray:
		spend(1)
		for c := v.first; c >= 0; c = t.vals[c].next {
			h = mix(h, t.hashOf(c, spend))
		}
	case isObject:
		spend(1)
		for c := v.first; c >= 0; c = t.vals[c].next {
			h += mix(maphash.String(seed, t.vals[c].key), t.hashOf(c, spend))
		}
	}
	if h = mix(h, uint64(v.kind)+0x51); h == 0 {
		h = 1
	}
	t.vals[i].hash = h
	return h
}

// mix folds b into a. Its constants are drawn with the process's seed.
func mix(a, b uint64) uint64 {
	h := (a ^ mixKeys[0]) * 0x9E3779B97F4A7C15
	h ^= h >> 29
	h = (h + b) * mixKeys[1]
	return h ^ h>>32
}

// same reports whether two values mean the same. a is in t, b in o, which may be t.
func (t *tree) same(a int32, o *tree, b int32, spend func(int)) bool {
	x, y := &t.vals[a], &o.vals[b]
	spend(1)
	if x.kind != y.kind {
		return false
	}
	switch x.kind {
	case isNumber:
		if x.s == y.s {
			return true
		}
		p := parseDecimal(t.digA, x.s)
		q := parseDecimal(t.digB, y.s)
		t.digA, t.digB = p.dig[:0], q.dig[:0]
		return p.cmp(q) == 0
	case isString:
		spend(len(x.s) / 64)
		return x.s == y.s
	case isArray:
		if x.n != y.n {
			return false
		}
		for c, d := x.first, y.first; c >= 0; c, d = t.vals[c].next, o.vals[d].next {
			if !t.same(c, o, d, spend) {
				return false
			}
		}
	case isObject:
		if x.n != y.n {
			return false
		}
		left, right := t.members(a), o.members(b)
		spend(int(x.n))
		for i := range left {
			if t.vals[left[i]].key != o.vals[right[i]].key {
				return false
			}
		}
		for i := range left {
			if !t.same(left[i], o, right[i], spend) {
				return false
			}
		}
	}
	return true
}

// members returns an object's members, sorted by name.
func (t *tree) members(object int32) []int32 {
	m := make([]int32, 0, t.vals[object].n)
	for c := t.vals[object].first; c >= 0; c = t.vals[c].next {
		m = append(m, c)
	}
	sort.Slice(m, func(i, j int) bool { return t.vals[m[i]].key < t.vals[m[j]].key })
	return m
}

// unique reports whether no two items of an array mean the same, or returns the indexes of two that do. It compares items
// whose hashes are equal. The hash is seeded, so that happens once for an array with a duplicate, and almost never
// otherwise.
func (t *tree) unique(array int32, spend func(int)) (a, b int32, ok bool) {
	t.idx = t.idx[:0]
	for c := t.vals[array].first; c >= 0; c = t.vals[c].next {
		t.idx = append(t.idx, hashed{t.hashOf(c, spend), c})
	}
	spend(2 * len(t.idx))
	slices.SortFunc(t.idx, func(a, b hashed) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return int(a.val - b.val)
	})
	for i := range t.idx {
		for j := i + 1; j < len(t.idx) && t.idx[j].hash == t.idx[i].hash; j++ {
			if t.same(t.idx[i].val, t, t.idx[j].val, spend) {
				return t.vals[t.idx[i].val].idx, t.vals[t.idx[j].val].idx, false
			}
		}
	}
	return 0, 0, true
}

// pointer writes the JSON pointer of a value, sanitised and bounded, like the method pointer of a way.
func (t *tree) pointer(i int32, known map[string]bool) string {
	var path []int32
	for ; i >= 0 && t.vals[i].parent >= 0; i = t.vals[i].parent {
		path = append(path, i)
	}
	b := bounded{known: known}
	for k := len(path) - 1; k >= 0 && !b.full; k-- {
		v := &t.vals[path[k]]
		if t.vals[v.parent].kind == isObject {
			b.pointerName(v.key)
		} else {
			b.add("/" + itoa(int(v.idx)))
		}
	}
	return string(b.b)
}
