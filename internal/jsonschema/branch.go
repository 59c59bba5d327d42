package jsonschema

import (
	"bytes"
	"math/bits"
)

// A look is a check that needs to know where the value ends. It reads the same bytes again, and spends fuel.
type look struct {
	kind     lookKind
	kinds    uint8 // bits of the valueKinds that the look concerns
	err      *Error
	branches []branch
	choice   *choice
	step     *step
	then     *step // nil: no check
	els      *step
	name     int32 // the name that the object must have for lookDepend
	text     string
	min, max int // for lookContains; max -1: none
	minErr   *Error
	maxErr   *Error
	rule     *valueRule
	node     *node
	marks    bool  // for lookContains: the items that it finds are evaluated
	props    *step // judges the members that are left for unevaluatedProperties; nil: no check
	items    *step
}

type lookKind uint8

const (
	lookAny      lookKind = iota // anyOf
	lookOne                      // oneOf
	lookNot                      // not
	lookIf                       // if, then, else
	lookDepend                   // dependentSchemas
	lookContains                 // contains
	lookUnique                   // uniqueItems
	lookValue                    // enum and const of arrays and objects
	lookLeft                     // unevaluatedProperties, unevaluatedItems
	lookTree                     // a schema that the evaluator judges
)

// A branch is one schema of an anyOf or oneOf.
type branch struct {
	step *step
	need uint64 // bits of the names that the object must have, as the object's own rule numbers them
	only bool   // the branch has no other check
}

// A choice knows which branches are possible after the first byte of a value, or after one member of an object. If only
// one is possible, that branch and the rest of the step are judged in one pass.
type choice struct {
	byKind  [7][]int32
	key     string // the name of the member; "": there is none
	values  *nameSet
	byValue [][]int32
	other   []int32 // the branches that are possible after another string
	foreign []int32 // those after a value that is no string
	absent  []int32
	names   *presence // tells branches apart by the names of the object; nil: names do not tell them apart
	joined  []*step   // by branch: the step joined with the branch; nil: a look judges the branch
}

// A presence tells branches apart by the names that they require and the names that they refuse. A set of branches or of
// names is a word with a bit for each.
type presence struct {
	names    *nameSet
	refusing []uint64 // by name: the branches that refuse it
	strict   uint64   // the branches that refuse all other names
	needs    []uint64 // by branch: the names that it requires
	all      uint64
	single   [][]int32
}

// candidates returns the branches that are possible with the names of the object at i, if that is at most one, and the
// offset at which it has stopped.
func (p *presence) candidates(msg []byte, i int, all []int32) ([]int32, int) {
	alive, seen := p.all, uint64(0)
	j := skipSpace(msg, i+1)
	for j < len(msg) && msg[j] == '"' {
		end := skipString(msg, j)
		name := msg[j+1 : max(end-1, j+1)]
		if bytes.IndexByte(name, '\\') >= 0 {
			return all, j
		}
		if k := p.names.find(name); k >= 0 {
			seen |= 1 << k
			alive &^= p.refusing[k]
		} else {
			alive &^= p.strict
		}
		if alive&(alive-1) == 0 {
			break
		}
		if j = skipSpace(msg, end); j >= len(msg) || msg[j] != ':' {
			break
		}
		if j = skipSpace(msg, skipValue(msg, skipSpace(msg, j+1))); j >= len(msg) || msg[j] != ',' {
			break
		}
		j = skipSpace(msg, j+1)
	}
	if alive&(alive-1) != 0 {
		for rest := alive; rest != 0; rest &= rest - 1 {
			if b := bits.TrailingZeros64(rest); p.needs[b]&^seen != 0 {
				alive &^= 1 << b
			}
		}
	}
	switch {
	case alive == 0:
		return all[:0], j
	case alive&(alive-1) == 0:
		return p.single[bits.TrailingZeros64(alive)], j
	}
	return all, j
}

// candidates returns the branches that may accept the value.
func (c *choice) candidates(v *vm, i int, kind valueKind) (list []int32, ok bool) {
	if kind == isObject && c.names != nil {
		list, at := c.names.candidates(v.msg, i, c.byKind[kind])
		return list, v.charge((at - i) / 64)
	}
	if kind != isObject || c.key == "" {
		return c.byKind[kind], true
	}
	at := member(v.msg, i, c.key)
	if at < 0 {
		if at = -at; !v.charge((at - i) / 64) {
			return nil, false
		}
		return c.absent, true
	}
	if !v.charge((at - i) / 64) {
		return nil, false
	}
	if v.msg[at] != '"' {
		return c.foreign, true
	}
	end := skipString(v.msg, at)
	text := v.msg[at+1 : max(end-1, at+1)]
	for _, b := range text {
		if b == '\\' {
			if _, _, f := scanString(v.msg, at+1); f != faultNone {
				return c.other, true // the walk finds the fault
			}
			s := v.scratch()
			s.text = unescape(s.text[:0], text)
			text = s.text
			break
		}
	}
	if k := c.values.find(text); k >= 0 {
		return c.byValue[k], true
	}
	return c.other, true
}

// look judges a value that needs more than one pass, or a choice before the first pass.
func (v *vm) look(n *step, i int) int {
	if uint(i) >= uint(len(v.msg)) {
		return v.stop(faultSyntax, len(v.msg))
	}
	kind := kindOf[v.msg[i]]
	if kind == 0 {
		return v.stop(faultSyntax, i)
	}
	kind--
	if !n.memo || kind < isArray || v.collect == i+1 {
		return v.lookAt(n, i, kind)
	}
	key := uint64(n.id)<<32 | uint64(i)
	memo := v.scratch().memo
	if o, ok := memo[key]; ok {
		if o.end < 0 {
			v.fault = o.fault
		}
		return int(o.end)
	}
	r := v.lookAt(n, i, kind)
	if r != stopped && len(memo) < 1<<15 {
		o := outcome{end: int32(r)}
		if r < 0 {
			o.fault = v.fault
		}
		memo[key] = o
	}
	return r
}

func (v *vm) lookAt(n *step, i int, kind valueKind) int {
	if v.again && !v.charge(1) {
		return v.empty()
	}
	var list []int32
	if c := n.choice; c != nil {
		var ok bool
		if list, ok = c.candidates(v, i, kind); !ok {
			return v.empty()
		}
		if len(list) <= 1 {
			b := int32(0)
			if len(list) == 1 {
				b = list[0]
			} else if of := c.byKind[kind]; len(of) > 0 {
				b = of[0] // no branch accepts, and this one has the error
			}
			if s := c.joined[b]; s != nil {
				r := v.value(s, i)
				if r >= 0 && len(list) == 0 {
					return v.failed(n.looks[0].err, i, r)
				}
				return r
			}
		}
	}
	end := 0
	if v.again && n.idle {
		end = skipValue(v.msg, i)
	} else if end = v.own(n, i); end < 0 {
		return end
	}
	seen := v.seen
	was, depth, base := v.again, v.depth, v.base
	v.again, v.base = true, i
	for k := range n.looks {
		l := &n.looks[k]
		if l.kinds&(1<<kind) == 0 {
			continue
		}
		if l.choice == nil || l.choice != n.choice {
			list = nil
			if l.choice != nil {
				var ok bool
				if list, ok = l.choice.candidates(v, i, kind); !ok {
					return v.empty()
				}
			}
		}
		if r := v.ask(n, l, i, end, kind, seen, list); r < 0 {
			if r == refused && v.at < i {
				v.at = end
			}
			return r
		}
		v.depth, v.base = depth, i
	}
	v.again, v.base = was, base
	return end
}

// retry judges bytes that have been read before, and charges fuel for those that it reads.
func (v *vm) retry(s *step, i, end int) int {
	if s.free {
		return end
	}
	depth, words, names := v.depth, 0, 0
	if v.sc != nil {
		words, names = len(v.sc.words), len(v.sc.names)
	}
	r := v.value(s, i)
	v.depth = depth
	if r == stopped {
		return r
	}
	if v.sc != nil { // drop what a refused branch has left there
		v.sc.words, v.sc.names = v.sc.words[:words], v.sc.names[:names]
	}
	spent := 1
	if r >= 0 {
		spent += (end - i) / 16
	} else if v.at > i {
		spent += (v.at - i) / 16
	}
	if !v.charge(spent) {
		return v.empty()
	}
	return r
}

func (v *vm) ask(n *step, l *look, i, end int, kind valueKind, seen uint64, list []int32) int {
	switch l.kind {
	case lookAny, lookOne:
		return v.branches(l, i, end, kind, seen, list)
	case lookNot:
		collect := v.collect
		v.collect = 0
		r := v.retry(l.step, i, end)
		v.collect = collect
		if r >= 0 {
			return v.failed(l.err, i, end)
		}
		if r == refused {
			return end
		}
		return r
	case lookIf:
		r := v.attempt(l.step, i, end)
		next := l.then
		if r == stopped {
			return r
		} else if r == refused {
			next = l.els
		}
		if next == nil {
			return end
		}
		return v.retry(next, i, end)
	case lookDepend:
		if n.obj != nil && !n.obj.many {
			if seen&(1<<l.name) == 0 {
				return end
			}
		} else {
			at := member(v.msg, i, l.text)
			if !v.charge(1 + (end-i)/64) {
				return v.empty()
			}
			if at < 0 {
				return end
			}
		}
		return v.retry(l.step, i, end)
	case lookContains:
		return v.contains(l, i, end)
	case lookUnique:
		return v.unique(l, i, end)
	case lookValue:
		return v.among(l, i, end)
	case lookLeft:
		return v.left(l, i, end, kind)
	case lookTree:
		return v.tree(l.node, i, end)
	}
	return v.fail(errInternal, i)
}

// branches tries the branches of an anyOf or oneOf that are possible. If none accepts, it reports the fault that lies
// deepest, because the peer probably meant that branch.
func (v *vm) branches(l *look, i, end int, kind valueKind, seen uint64, list []int32) int {
	var best fault
	tried, ok, first := false, false, 0
	n := len(l.branches)
	if list != nil {
		n = len(list)
	}
	for k := range n {
		at := k
		if list != nil {
			at = int(list[k])
		}
		b := &l.branches[at]
		if !v.charge(1) {
			return v.empty()
		}
		if b.step.kinds&(1<<kind) == 0 {
			continue
		}
		pass := false
		if kind == isObject && b.need != 0 && b.need&^seen != 0 {
			continue
		}
		if kind == isObject && b.only {
			pass = true
		} else if r := v.attempt(b.step, i, end); r == stopped {
			return r
		} else if r >= 0 {
			pass = true
		} else if !tried || v.fault.depth > best.depth {
			best, tried = v.fault, true
		}
		if !pass {
			continue
		}
		if l.kind == lookAny {
			if v.collect != i+1 {
				return end
			}
			ok = true // try the others as well, because what they evaluate counts, too
			continue
		}
		if ok {
			if v.failed(l.err, i, end); v.explain {
				v.fault.more = &more{detail: twoBranches(first, at)}
			}
			return refused
		}
		ok, first = true, at
	}
	if ok {
		return end
	}
	if !tried {
		// No branch was possible, so none was tried. The first has the error.
		b := &l.branches[0]
		if len(list) > 0 {
			b = &l.branches[list[0]]
		}
		if r := v.retry(b.step, i, end); r < 0 {
			return r
		}
		return v.failed(l.err, i, end)
	}
	v.fault, v.at = best, end
	return refused
}

func (v *vm) contains(l *look, i, end int) int {
	matched := 0
	collect := l.marks && v.collect == i+1
	for j, n := firstItem(v.msg, i), 0; j >= 0; n++ {
		depth := v.depth
		v.depth++
		next := j
		r := v.retry(l.step, j, j)
		v.depth = depth
		switch {
		case r == stopped:
			return r
		case r >= 0:
			next = r
			matched++
			if collect {
				v.mark(n)
			}
			if l.max >= 0 && matched > l.max {
				return v.failed(l.maxErr, i, end)
			}
			if l.max < 0 && matched >= l.min && !collect {
				return end
			}
		}
		if r == refused || l.step.free {
			next = skipValue(v.msg, j)
		}
		if !v.charge((next - j) / 16) {
			return v.empty()
		}
		j = nextItem(v.msg, next)
	}
	if matched < l.min {
		return v.failed(l.minErr, i, end)
	}
	return end
}

// mark notes that the member or item of that number has been evaluated.
func (v *vm) mark(n int) { v.sc.words[v.marks+n>>6] |= 1 << (n & 63) }

// attempt is like retry for a branch that may fail. If the branch fails, attempt drops the marks that it has made.
func (v *vm) attempt(s *step, i, end int) int {
	if v.collect != i+1 {
		return v.retry(s, i, end)
	}
	sc, at, all := v.sc, len(v.sc.words), v.all
	sc.words = append(sc.words, sc.words[v.marks:v.marks+v.marked]...)
	r := v.retry(s, i, end)
	if r == refused {
		copy(sc.words[v.marks:v.marks+v.marked], sc.words[at:])
		v.all = all
	}
	if r != stopped {
		sc.words = sc.words[:at]
	}
	return r
}

// left judges the members of an object, or the items of an array, that a schema object and its branches have not
// evaluated. It reads the bytes by that schema object alone, and marks what is evaluated. Then it reads the bytes once
// more and judges what has no mark.
func (v *vm) left(l *look, i, end int, kind valueKind) int {
	var rest *step
	switch kind {
	case isObject:
		rest = l.props
	case isArray:
		rest = l.items
	}
	if rest == nil {
		return v.retry(l.step, i, end)
	}
	if !v.charge(1 + (end-i)/16) {
		return v.empty()
	}
	count := 0
	for j := firstItem(v.msg, i); j >= 0; j = nextItem(v.msg, v.pastMember(j, kind)) {
		count++
	}
	outer, marks, marked, all := v.collect, v.marks, v.marked, v.all
	v.marks = v.wordsFor(count)
	v.collect, v.marked, v.all = i+1, len(v.sc.words)-v.marks, false
	r := v.retry(l.step, i, end)
	v.collect = 0
	j, depth := firstItem(v.msg, i), v.depth
	v.depth++
	for n := 0; r >= 0 && j >= 0 && !v.all; n++ {
		at := j
		if kind == isObject {
			at = memberValue(v.msg, j)
		}
		next := skipValue(v.msg, at)
		if v.sc.words[v.marks+n>>6]&(1<<(n&63)) == 0 {
			r = v.retry(rest, at, next)
		}
		j = nextItem(v.msg, next)
	}
	if r == stopped {
		return r
	}
	v.depth = depth
	v.sc.words = v.sc.words[:v.marks]
	v.collect, v.marks, v.marked, v.all = outer, marks, marked, all
	if r < 0 {
		return r
	}
	if outer == i+1 {
		v.all = true
	}
	return end
}

// pastMember returns where the item at j ends, or the member whose name is there.
func (v *vm) pastMember(j int, kind valueKind) int {
	if kind == isObject {
		j = memberValue(v.msg, j)
	}
	return skipValue(v.msg, j)
}

// among compares an array or object with the values of an enum or const.
func (v *vm) among(l *look, i, end int) int {
	if v.msg[i] == '{' && l.rule.kinds&(1<<isObject) == 0 || v.msg[i] == '[' && l.rule.kinds&(1<<isArray) == 0 {
		return v.fail(l.rule.err, i)
	}
	return v.evaluate(func(e *evaluator) *fault {
		if e.parse(string(v.msg[i:end])); e.among(l.rule.set, 0) {
			return nil
		}
		return &fault{err: l.rule.err, off: int32(i), depth: int32(v.depth)}
	}, i, end)
}

// tree judges a value by a node of the tree, for keywords that the engine does not know.
func (v *vm) tree(n *node, i, end int) int {
	return v.evaluate(func(e *evaluator) *fault {
		e.parse(string(v.msg[i:end]))
		if e.eval(n, 0, nil, 1) {
			return nil
		}
		f := &e.fault
		bad := &fault{err: v.prog.refusal(f.node, f.keyword), off: int32(i), depth: int32(v.depth) + f.depth}
		if v.explain {
			bad.more = &more{e.pointer(f.val, nil), e.pointer(f.val, v.prog.names), e.detail(f)}
		}
		return bad
	}, i, end)
}

// refusal returns the error of a keyword for the evaluator. There is one for each place in the schema.
func (e *engine) refusal(n *node, keyword string) *Error {
	type place struct {
		id      int
		keyword string
	}
	key := place{n.id, keyword}
	if err, ok := e.refusals.Load(key); ok {
		return err.(*Error)
	}
	err, _ := e.refusals.LoadOrStore(key, newRefusal(n.location(keyword)))
	return err.(*Error)
}

// evaluate runs an evaluator with the fuel that is left.
func (v *vm) evaluate(f func(e *evaluator) *fault, i, end int) (r int) {
	e := evaluators.Get().(*evaluator)
	e.begin(v.prog.tree, v.fuel)
	defer func() {
		if p := recover(); p != nil { // the evaluator may be broken, so it is not used again
			v.fuel = e.fuel
			switch p {
			case stopFuel:
				r = v.empty()
			case stopLoop:
				r = v.stop(faultLoop, 0)
			case stopVariant:
				r = v.stop(faultCase, i)
			default:
				r = v.stop(faultPanic, 0)
			}
		}
	}()
	if !v.charge((end - i) / 16) {
		return v.empty()
	}
	e.fuel = v.fuel
	bad := f(e)
	v.fuel = e.fuel
	e.release()
	if bad != nil {
		v.fault, v.at = *bad, end
		return refused
	}
	return end
}
