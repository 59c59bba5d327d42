package jsonschema

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
)

// A step judges a value by all schema objects that apply to it without a choice. These are a schema object and all those
// that its $ref and allOf lead to, joined into one. A step is immutable, except for the order of names, which it learns.
type step struct {
	kinds  uint8 // bits of the valueKinds that pass
	free   bool  // every value of strict JSON passes
	plain  bool  // one pass over the value is enough
	texts  bool  // plain, and only strings pass
	lists  bool  // plain, and only arrays pass
	nums   bool  // plain, and only numbers pass
	types  []typeRule
	vals   []valueRule
	str    *stringRule
	num    *numberRule
	obj    *objectRule
	arr    *arrayRule
	choice *choice // branches of which the first bytes often leave only one; nil: none
	looks  []look  // the checks that read the same bytes again
	memo   bool    // the step is reached again from within itself in several ways, so its verdicts are kept
	id     int32
	idle   bool   // plain, but for choice and looks
	folds  *folds // the names that must not come in another letter case; nil: none
}

// A typeRule says which kinds one of the joined schemas accepts. The walk uses it only to find the error of a value that
// the step refuses.
type typeRule struct {
	kinds uint8
	err   *Error
}

type objectRule struct {
	props    []prop
	set      *nameSet
	first    atomic.Pointer[prop] // the name that came first in other messages
	simple   bool                 // none of the rare checks below is set
	all      bool                 // the rule evaluates every member
	many     bool                 // there are more than 64 names, so scratch.words has those that were seen
	required uint64               // the required names among the first 64
	needs    []int32              // the required names, in order
	minProps int
	maxProps int // -1: none
	minErr   *Error
	maxErr   *Error
	groups   []group
	closed   *Error // the error of each name that is not declared; nil: such names are judged by groups
	judged   bool   // names or regex judges the names as values
	names    []*step
	regex    *Error
	depends  []dependRule
}

// A prop is a name that the schema knows.
type prop struct {
	literal
	exact  bool // literal needs no escape in JSON, and is short enough for the limits
	simple bool // none of the rare checks below is set
	marks  bool // the rule evaluates the member
	bad    scanFault
	bit    uint64
	idx    int32
	step   *step
	more   []*step // further steps, if joining them with step costs too much
	deny   *Error
	needed *Error               // the error of a message without the name; nil: it is not required
	next   atomic.Pointer[prop] // the name that came next in other messages
}

// A group has the rules of one of the joined schemas for names that are not declared.
type group struct {
	pats []groupPattern
	kind extra
	step *step
	deny *Error
}

type groupPattern struct {
	*pattern
	step *step // judges the member; nil: the pattern only covers the name
}

type dependRule struct {
	idx  int32
	need []int32
	err  *Error
}

type arrayRule struct {
	all      bool // the rule evaluates all items
	marks    int  // how many items the rule evaluates
	prefix   []itemRule
	rest     itemRule
	minItems int
	maxItems int // -1: none
	minErr   *Error
	maxErr   *Error
}

type itemRule struct {
	step *step
	more []*step
	deny *Error
}

// A fault says what has refused a message. Its text is made only when it is needed.
type fault struct {
	err   *Error
	off   int32 // the offset at which the value or the name begins
	depth int32
	more  *more // set while explain is, and only if there is more to say
}

// more has what Explain says about a fault in addition to its place in the schema.
type more struct {
	path    string // the rest of the pointer, if the evaluator has judged
	logPath string // path without the peer's names
	detail  string // see Error.Detail
}

// A vm walks one message. It lives on the stack of Validate.
type vm struct {
	msg      []byte
	sc       *scratch
	prog     *engine
	limits   Limits
	seen     uint64 // the names of the object that has just ended
	fuel     int
	depth    int
	fault    fault
	at       int // how far the branch came that was refused last
	explain  bool
	collect  int  // the offset of the value whose evaluated members are marked, plus one; 0: none
	marks    int  // the index of the marks in scratch.words
	marked   int  // how many words the marks have
	all      bool // every member or item is evaluated
	base     int  // the offset of the value that the branches judge
	again    bool // these bytes have been read strictly before
	protos   bool
	controls bool
}

func (v *vm) stop(f scanFault, off int) int {
	v.fault = fault{err: scanErrors[f], off: int32(off)}
	return stopped
}

func (v *vm) fail(err *Error, off int) int {
	v.fault = fault{err: err, off: int32(off), depth: int32(v.depth)}
	v.at = off
	return refused
}

// failed is like fail, for a fault that was known only at the end of the value.
func (v *vm) failed(err *Error, off, end int) int {
	v.fail(err, off)
	v.at = end
	return refused
}

func (v *vm) charge(n int) bool {
	v.fuel -= n
	return v.fuel >= 0
}

func (v *vm) empty() int { v.fuel = 0; return v.stop(faultFuel, 0) }

// kindOf has the kind of a value plus one, by the first byte of the value.
var kindOf = func() (t [256]valueKind) {
	t['n'], t['f'], t['t'], t['"'], t['['], t['{'], t['-'] = isNull+1, isFalse+1, isTrue+1, isString+1, isArray+1, isObject+1, isNumber+1
	for c := '0'; c <= '9'; c++ {
		t[c] = isNumber + 1
	}
	return t
}()

// run judges the whole message.
func (v *vm) run(root *step) int {
	msg := v.msg
	if len(msg) > maxMessage {
		return v.stop(faultSize, 0)
	}
	if len(msg) >= 3 && msg[0] == 0xEF && msg[1] == 0xBB && msg[2] == 0xBF {
		return v.stop(faultBOM, 0)
	}
	i := skipSpace(msg, 0)
	if i == len(msg) {
		return v.stop(faultEmpty, i)
	}
	if i = v.value(root, i); i < 0 {
		return i
	}
	if i = skipSpace(msg, i); i < len(msg) {
		return v.stop(faultTrailing, i)
	}
	return i
}

// value judges the value that begins at i and returns where it ends, or refused or stopped.
func (v *vm) value(n *step, i int) int {
	if !n.plain {
		return v.look(n, i)
	}
	return v.own(n, i)
}

// own judges a value by the checks that need one pass only.
func (v *vm) own(n *step, i int) int {
	if uint(i) >= uint(len(v.msg)) {
		return v.stop(faultSyntax, len(v.msg))
	}
	switch v.msg[i] {
	case '"':
		if n.kinds&(1<<isString) == 0 {
			if end, _ := v.str(i); end < 0 {
				return end
			}
			return v.wrongKind(n, i, isString)
		}
		if n.str == nil {
			end, _ := v.str(i)
			return end
		}
		return v.text(n.str, i)
	case '{':
		if n.kinds&(1<<isObject) == 0 {
			return v.wrongKind(n, i, isObject)
		}
		if n.obj == nil {
			return v.anyObject(n, i)
		}
		return v.object(n, n.obj, i)
	case '[':
		if n.kinds&(1<<isArray) == 0 {
			return v.wrongKind(n, i, isArray)
		}
		return v.array(n.arr, i)
	case 't':
		if end := v.word(i, "true"); end < 0 || n.kinds&(1<<isTrue) != 0 {
			return end
		}
		return v.wrongKind(n, i, isTrue)
	case 'f':
		if end := v.word(i, "false"); end < 0 || n.kinds&(1<<isFalse) != 0 {
			return end
		}
		return v.wrongKind(n, i, isFalse)
	case 'n':
		if end := v.word(i, "null"); end < 0 || n.kinds&(1<<isNull) != 0 {
			return end
		}
		return v.wrongKind(n, i, isNull)
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		if n.kinds&(1<<isNumber) == 0 {
			if end, _ := v.num(i); end < 0 {
				return end
			}
			return v.wrongKind(n, i, isNumber)
		}
		return v.numeral(n, i)
	}
	return v.stop(faultSyntax, i)
}

// numeral judges the number at i.
func (v *vm) numeral(n *step, i int) int {
	// Most numbers have a few digits, perhaps a point, and a few more digits.
	if msg, r := v.msg, n.num; i+17 <= len(msg) && r != nil && r.whole && v.limits.NumberBytes > 16 {
		value, k := digits(load(msg, i))
		if k == 8 {
			more, m := digits(load(msg, i+8))
			value, k = value*pow10[m]+more, 8+m
		}
		if c := msg[i+k]; k > 0 && k < 16 && (k == 1 || msg[i] != '0') {
			if c == '.' && k < 8 && r.integer == nil {
				few, f := digits(load(msg, i+k+1))
				p := pow10[f]
				if a := int64(value*p + few); f > 0 && f <= 6 && a > r.low*int64(p) && a < r.high*int64(p) && msg[i+k+1+f]|0x20 != 'e' {
					return i + k + 1 + f
				}
			} else if c != '.' && c|0x20 != 'e' && int64(value) >= r.low && int64(value) <= r.high {
				return i + k
			}
		}
	}
	end, num := v.num(i)
	if end < 0 || n.num == nil {
		return end
	}
	return v.number(n.num, num, i, end)
}

// wrongKind finds the error for a value of this kind.
func (v *vm) wrongKind(n *step, i int, kind valueKind) int {
	for k := range n.types {
		if n.types[k].kinds&(1<<kind) == 0 {
			return v.fail(n.types[k].err, i)
		}
	}
	for k := range n.vals {
		if n.vals[k].kinds&(1<<kind) == 0 {
			return v.fail(n.vals[k].err, i)
		}
	}
	return v.fail(errInternal, i)
}

func (v *vm) array(r *arrayRule, i int) int {
	if v.depth >= v.limits.Depth {
		return v.stop(faultDepth, i)
	}
	v.depth++
	if r == nil {
		if v.again {
			v.depth--
			return skipValue(v.msg, i)
		}
		r = &anyArray
	}
	msg := v.msg
	j := i + 1
	if j < len(msg) && msg[j] <= ' ' {
		j = skipSpace(msg, j)
	}
	collect := v.collect == i+1
	if collect && r.all {
		v.all = true
	}
	n := 0
	if j < len(msg) && msg[j] == ']' {
		j++
	} else {
		for {
			if n == r.maxItems {
				if j >= len(msg) || kindOf[msg[j]] == 0 {
					return v.stop(faultSyntax, j)
				}
				v.depth--
				return v.fail(r.maxErr, i)
			}
			item := &r.rest
			if n < len(r.prefix) {
				item = &r.prefix[n]
			}
			start := j
			switch s := item.step; {
			case s.texts && j < len(msg) && msg[j] == '"':
				j = v.text(s.str, j)
			case s.nums && j < len(msg) && msg[j]-'0' <= 9:
				j = v.numeral(s, j)
			case s.lists && j < len(msg) && msg[j] == '[':
				j = v.array(s.arr, j)
			case item.deny != nil:
				if end := v.scalar(j); end < 0 {
					return end
				}
				return v.fail(item.deny, j)
			case s.plain:
				j = v.own(s, j)
			default:
				j = v.look(s, j)
			}
			if j < 0 {
				return j
			}
			if item.more != nil {
				if j = v.further(item.more, start, j); j < 0 {
					return j
				}
			}
			if collect && n < r.marks {
				v.mark(n)
			}
			n++
			if j < len(msg) && msg[j] <= ' ' {
				j = skipSpace(msg, j)
			}
			if j >= len(msg) {
				return v.stop(faultSyntax, j)
			}
			if msg[j] == ',' {
				if j++; j < len(msg) && msg[j] <= ' ' {
					j = skipSpace(msg, j)
				}
				continue
			}
			if msg[j] != ']' {
				return v.stop(faultSyntax, j)
			}
			j++
			break
		}
	}
	v.depth--
	if n < r.minItems {
		return v.failed(r.minErr, i, j)
	}
	return j
}

// scalar reads a value that is refused in any case, if it is no container. A fault of its syntax comes first.
func (v *vm) scalar(i int) int {
	if i < len(v.msg) && (v.msg[i] == '{' || v.msg[i] == '[') {
		return i
	}
	return v.own(anything, i)
}

// anyObject reads an object about which the schema says nothing. It keeps a few names on its stack, and more of them in
// scratch.
func (v *vm) anyObject(n *step, i int) int {
	if v.again {
		return skipValue(v.msg, i)
	}
	if n.folds != nil || v.controls || v.protos {
		return v.object(n, &anyObjectRule, i)
	}
	if v.depth >= v.limits.Depth {
		return v.stop(faultDepth, i)
	}
	v.depth++
	msg := v.msg
	j := i + 1
	if j < len(msg) && msg[j] <= ' ' {
		j = skipSpace(msg, j)
	}
	if j < len(msg) && msg[j] == '}' {
		v.depth--
		return j + 1
	}
	var few [8]keyEntry
	var bloom uint64
	var kf keyFrame
	for count := 0; ; count++ {
		key := j
		if j >= len(msg) || msg[j] != '"' {
			return v.stop(faultSyntax, j)
		}
		end, flags := 0, uint8(0)
		if j+9 <= len(msg) {
			if m := special(load(msg, j+1)); m != 0 {
				if end = j + 1 + bits.TrailingZeros64(m)>>3; msg[end] == '"' {
					end++
				} else {
					end = 0
				}
			}
		}
		if end == 0 {
			end, flags = v.str(j)
		}
		if end < 0 || flags&escaped != 0 || kf.first != 0 || count == len(few) || end-j-2 > v.limits.KeyBytes {
			if kf.first == 0 && end >= 0 {
				for k := range min(count, len(few)) {
					e := &few[k]
					v.track(&kf, msg[e.off:e.end], int(e.off), int(e.end), false)
				}
				v.open(&kf)
			}
			if end, _ = v.key(nil, &anyObjectRule, j, &kf); end < 0 {
				return end
			}
		} else {
			first, last := ends(msg[j+1 : end-1])
			h := first*mixKeys[0] ^ last*mixKeys[1]
			bit := uint64(1) << (h >> 58)
			if bloom&bit != 0 {
				for k := range count {
					if e := &few[k]; e.hash == h && string(msg[e.off:e.end]) == string(msg[j+1:end-1]) {
						return v.stop(faultDuplicate, j)
					}
				}
			}
			bloom |= bit
			few[count] = keyEntry{hash: h, off: int32(j + 1), end: int32(end - 1)}
		}
		if count >= v.limits.Keys {
			return v.stop(faultKeys, key)
		}
		if j = end; j < len(msg) && msg[j] == ':' {
			j++
		} else {
			if j = skipSpace(msg, j); j >= len(msg) || msg[j] != ':' {
				return v.stop(faultSyntax, j)
			}
			j++
		}
		if j < len(msg) && msg[j] <= ' ' {
			j = skipSpace(msg, j)
		}
		if j = v.own(anything, j); j < 0 {
			return j
		}
		if j < len(msg) && msg[j] <= ' ' {
			j = skipSpace(msg, j)
		}
		if j >= len(msg) {
			return v.stop(faultSyntax, j)
		}
		if msg[j] == ',' {
			if j++; j < len(msg) && msg[j] <= ' ' {
				j = skipSpace(msg, j)
			}
			continue
		}
		if msg[j] != '}' {
			return v.stop(faultSyntax, j)
		}
		break
	}
	v.depth--
	if kf.first != 0 {
		v.untrack(&kf)
	}
	return j + 1
}

func (v *vm) object(n *step, r *objectRule, i int) int {
	if v.depth >= v.limits.Depth {
		return v.stop(faultDepth, i)
	}
	v.depth++
	msg := v.msg
	j := i + 1
	if j < len(msg) && msg[j] <= ' ' {
		j = skipSpace(msg, j)
	}
	var seen uint64
	var kf keyFrame
	var last, guess *prop
	count := 0
	folds := n.folds
	if v.again && i == v.base {
		folds = nil // the names have been compared with all that any branch declares
	}
	words := -1
	collect := v.collect == i+1
	if collect && r.all {
		v.all = true
	}
	if r.many {
		words = v.wordsFor(len(r.props))
	}
	if j < len(msg) && msg[j] == '}' {
		j++
	} else {
		guess = r.first.Load()
		for {
			var p *prop
			key := j
			// Nearly always the name is the one that came next in the last message, and it needs no rare check.
			for r.simple && !collect && guess != nil && j < len(msg) && msg[j] == '"' && guess.at(msg, j+1) && seen&guess.bit == 0 {
				p = guess
				if j += 1 + len(p.text); j >= len(msg) || msg[j] != ':' || !p.simple {
					break
				}
				if j++; j < len(msg) && msg[j] <= ' ' {
					j = skipSpace(msg, j)
				}
				seen |= p.bit
				if count++; count > v.limits.Keys {
					return v.stop(faultKeys, key)
				}
				if s := p.step; s.texts && j < len(msg) && msg[j] == '"' {
					j = v.text(s.str, j)
				} else if s.nums && j < len(msg) && msg[j]-'0' <= 9 {
					j = v.numeral(s, j)
				} else if s.plain {
					j = v.own(s, j)
				} else {
					j = v.look(s, j)
				}
				if j < 0 {
					return j
				}
				guess, last = p.next.Load(), p
				if j < len(msg) && msg[j] == ',' {
					j++
				} else if j = skipSpace(msg, j); j < len(msg) && msg[j] == ',' {
					j++
				} else if j < len(msg) && msg[j] == '}' {
					j++
					goto end
				} else {
					return v.stop(faultSyntax, j)
				}
				if j < len(msg) && msg[j] <= ' ' {
					j = skipSpace(msg, j)
				}
				key, p = j, nil
			}
			j = key
			if guess != nil && j < len(msg) && msg[j] == '"' && guess.at(msg, j+1) {
				p = guess
				j += 1 + len(p.text)
			} else {
				var idx int
				if j, idx = v.key(folds, r, j, &kf); j < 0 {
					return j
				}
				if idx >= 0 {
					p = &r.props[idx]
					learn(r, last, p)
				}
			}
			count++
			if p != nil {
				if words < 0 {
					if seen&p.bit != 0 {
						return v.stop(faultDuplicate, key)
					}
					seen |= p.bit
				} else if v.noted(words, int(p.idx)) {
					return v.stop(faultDuplicate, key)
				}
				if p.bad != faultNone && !v.again {
					return v.stop(p.bad, key)
				}
			}
			if count > v.limits.Keys {
				return v.stop(faultKeys, key)
			}
			if count > r.maxProps && r.maxProps >= 0 {
				v.depth--
				return v.fail(r.maxErr, i)
			}
			if collect && p != nil && p.marks {
				v.mark(count - 1)
			}
			if p == nil {
				if r.closed != nil {
					return v.fail(r.closed, key)
				}
			} else if p.deny != nil {
				return v.fail(p.deny, key)
			}
			end := j
			if r.judged {
				if e := v.judgeName(r, key, end); e < 0 {
					return e
				}
			}
			if j < len(msg) && msg[j] == ':' {
				j++
			} else {
				if j = skipSpace(msg, j); j >= len(msg) || msg[j] != ':' {
					return v.stop(faultSyntax, j)
				}
				j++
			}
			if j < len(msg) && msg[j] <= ' ' {
				j = skipSpace(msg, j)
			}
			switch {
			case p != nil:
				start := j
				if s := p.step; s.texts && j < len(msg) && msg[j] == '"' {
					j = v.text(s.str, j)
				} else if s.nums && j < len(msg) && msg[j]-'0' <= 9 {
					j = v.numeral(s, j)
				} else if s.plain {
					j = v.own(s, j)
				} else {
					j = v.look(s, j)
				}
				if p.more != nil && j >= 0 {
					j = v.further(p.more, start, j)
				}
				guess, last = p.next.Load(), p
			case r.groups == nil:
				j = v.own(anything, j)
			case len(r.groups) == 1 && r.groups[0].pats == nil && r.groups[0].kind == extraSchema:
				j = v.value(r.groups[0].step, j)
			default:
				member := -1
				if collect {
					member = count - 1
				}
				j = v.unknown(r, key, end, j, member)
			}
			if j < 0 {
				return j
			}
			if j < len(msg) && msg[j] <= ' ' {
				j = skipSpace(msg, j)
			}
			if j >= len(msg) {
				return v.stop(faultSyntax, j)
			}
			if msg[j] == ',' {
				if j++; j < len(msg) && msg[j] <= ' ' {
					j = skipSpace(msg, j)
				}
				continue
			}
			if msg[j] != '}' {
				return v.stop(faultSyntax, j)
			}
			j++
			break
		}
	}
end:
	v.depth--
	if kf.first != 0 {
		v.untrack(&kf)
	}
	v.seen = seen
	if r.required&^seen != 0 || count < r.minProps || words >= 0 || r.depends != nil {
		return v.closing(r, i, j, seen, count, words)
	}
	return j
}

// closing runs the checks that need the whole object.
func (v *vm) closing(r *objectRule, i, j int, seen uint64, count, words int) int {
	has := func(idx int32) bool {
		if words < 0 {
			return seen&(1<<idx) != 0
		}
		return v.sc.words[words+int(idx>>6)]&(1<<(idx&63)) != 0
	}
	if count < r.minProps {
		return v.failed(r.minErr, i, j)
	}
	for _, idx := range r.needs {
		if !has(idx) {
			return v.missing(r, r.props[idx].needed, idx, i, j)
		}
	}
	for k := range r.depends {
		d := &r.depends[k]
		if !has(d.idx) {
			continue
		}
		for _, idx := range d.need {
			if !has(idx) {
				return v.missing(r, d.err, idx, i, j)
			}
		}
	}
	if words >= 0 {
		v.sc.words = v.sc.words[:words]
	}
	return j
}

// missing refuses an object that lacks a name.
func (v *vm) missing(r *objectRule, err *Error, idx int32, i, j int) int {
	if v.failed(err, i, j); v.explain {
		v.fault.more = &more{detail: missingName(r.set.names[idx])}
	}
	return refused
}

// wordsFor takes cleared words with a bit for each of the names, and returns the index of the first word.
func (v *vm) wordsFor(names int) int {
	s := v.scratch()
	at := len(s.words)
	for range (names + 63) / 64 {
		s.words = append(s.words, 0)
	}
	return at
}

func (v *vm) noted(words, idx int) (before bool) {
	w := &v.sc.words[words+idx>>6]
	before = *w&(1<<(idx&63)) != 0
	*w |= 1 << (idx & 63)
	return before
}

// learn notes that p came after last. A peer that mixes the order can only make others look names up by hash. learn
// writes seldom, so that such a peer cannot make the processors compete for the cache line.
func learn(r *objectRule, last, p *prop) {
	if !p.exact {
		return
	}
	at := &r.first
	if last != nil {
		at = &last.next
	}
	if at.Load() == nil || rand.Uint32()&15 == 0 {
		at.Store(p)
	}
}

// key reads the name at j, which is not the expected one. It returns where the name ends, and its index if the schema
// knows it. The index is -1 for another name, which key has noted.
func (v *vm) key(f *folds, r *objectRule, j int, kf *keyFrame) (int, int) {
	msg := v.msg
	if j >= len(msg) || msg[j] != '"' {
		return v.stop(faultSyntax, j), 0
	}
	end, flags := v.str(j)
	if end < 0 {
		// The first fault in byte order counts, and the name may have been too long before it was wrong.
		if at := int(v.fault.off); at > j && unescapedLen(msg[j+1:at], v.limits.KeyBytes) > v.limits.KeyBytes {
			return v.stop(faultKeyBytes, j), 0
		}
		return end, 0
	}
	name := msg[j+1 : end-1]
	own := false
	from, to := j+1, end-1
	if flags&escaped != 0 {
		if unescapedLen(name, v.limits.KeyBytes) > v.limits.KeyBytes {
			return v.stop(faultKeyBytes, j), 0
		}
		s := v.open(kf)
		own, from = true, len(s.names)
		s.names = unescape(s.names, name)
		to = len(s.names)
		name = s.names[from:]
	} else if len(name) > v.limits.KeyBytes {
		return v.stop(faultKeyBytes, j), 0
	}
	if r.set != nil {
		if idx := r.set.find(name); idx >= 0 {
			return end, idx
		}
	}
	if v.protos && !v.again && prototypeKey(name) {
		return v.stop(faultPrototype, j), 0
	}
	if f != nil && v.variant(f, name) {
		if v.again { // another branch may have declared it
			return v.fail(scanErrors[faultCase], j), 0
		}
		return v.stop(faultCase, j), 0
	}
	if v.again {
		return end, -1
	}
	if r.closed != nil {
		return end, -1 // the caller refuses it
	}
	if v.track(kf, name, from, to, own) {
		return v.stop(faultDuplicate, j), 0
	}
	return end, -1
}

func (v *vm) variant(f *folds, name []byte) (yes bool) {
	s := v.scratch()
	s.fold, yes = f.variant(s.fold, name)
	return yes
}

// unknown judges the value at j of a member whose name, msg[key:end], is not declared. If a pattern covers the name, it
// marks the member of that number, unless the number is negative.
func (v *vm) unknown(r *objectRule, key, end, j, member int) int {
	msg := v.msg
	name := msg[key+1 : end-1]
	for _, c := range name {
		if c == '\\' {
			s := v.scratch()
			s.text = unescape(s.text[:0], name)
			name = s.text
			break
		}
	}
	// Find the steps that apply before any of them runs, because judging the value may overwrite the name.
	var few [8]*step
	steps := few[:0]
	for k := range r.groups {
		g := &r.groups[k]
		covered := false
		for p := range g.pats {
			ok, spent := g.pats[p].match(name, v.fuel)
			if !v.charge(spent) {
				return v.empty()
			}
			if ok {
				if covered = true; member >= 0 {
					v.mark(member)
				}
				if s := g.pats[p].step; s != nil && !s.free {
					steps = append(steps, s)
				}
			}
		}
		if !covered {
			switch g.kind {
			case extraDenied:
				return v.fail(g.deny, key)
			case extraSchema:
				steps = append(steps, g.step)
			}
		}
	}
	if len(steps) == 0 {
		return v.value(anything, j)
	}
	stop := v.value(steps[0], j)
	if stop < 0 || len(steps) == 1 {
		return stop
	}
	return v.further(steps[1:], j, stop)
}

// further judges a value that one step has accepted by more steps.
func (v *vm) further(steps []*step, i, end int) int {
	was, depth := v.again, v.depth
	v.again = true
	for _, s := range steps {
		if r := v.retry(s, i, end); r < 0 {
			return r
		}
		v.depth = depth
	}
	v.again = was
	return end
}

// judgeName judges a name by propertyNames, as a string.
func (v *vm) judgeName(r *objectRule, key, end int) int {
	for _, s := range r.names {
		if e := v.value(s, key); e < 0 {
			return e
		}
	}
	if r.regex == nil {
		return end
	}
	name := unescape(nil, v.msg[key+1:end-1])
	if !v.charge(regexFormat.price(len(name))) {
		return v.empty()
	}
	if !regexFormat.ok(name) {
		return v.fail(r.regex, key)
	}
	return end
}
