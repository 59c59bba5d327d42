package jsonschema

import "unicode/utf8"

// A stop ends a walk from any depth. A limit is no verdict. Inside not or anyOf it must never count as "no match".
type stop uint8

const (
	stopFuel stop = iota
	stopLoop
	stopVariant
)

// maxFrames bounds the stack of a walk if the limit of the depth is raised.
const maxFrames = 1 << 16

type treeFault struct {
	node    *node
	val     int32
	depth   int32
	keyword string
	twins   [2]int32 // the branches that accept the value, or the items that are equal
}

type verdict struct {
	fault treeFault
	ok    bool
}

// An evaluator walks one message at a time. It is used again for other messages.
type evaluator struct {
	tree
	prog   *program
	fuel   int
	frames int
	fault  treeFault
	scope  []*schemaResource // the resources on the way to the current node, the outermost first
	memo   map[uint64]verdict
	words  []uint64 // memory for marks
	spend  func(int)
}

func (e *evaluator) charge(n int) {
	if e.fuel -= n; e.fuel < 0 {
		e.fuel = 0
		panic(stopFuel)
	}
}

func (e *evaluator) begin(p *program, fuel int) {
	e.prog, e.frames, e.scope, e.fuel = p, 0, append(e.scope[:0], p.root.res), fuel
	if e.spend == nil {
		e.spend = e.charge
		e.memo = map[uint64]verdict{}
	}
}

// location returns the place of a keyword of the node in the schema.
func (n *node) location(keyword string) string {
	if keyword == "" {
		return n.loc
	}
	var b bounded
	b.add(n.loc)
	b.add("/" + keyword)
	return string(b.b)
}

// release gives the evaluator back to the pool without any part of the message, unless it has grown too large to keep.
func (e *evaluator) release() {
	if cap(e.vals) > 1<<13 || len(e.memo) > 1<<10 || cap(e.tree.text) > 1<<16 || cap(e.idx) > 1<<13 {
		return
	}
	clear(e.vals) // earlier messages have cleared the values beyond its length
	if len(e.memo) > 0 {
		clear(e.memo)
	}
	clear(e.scope[:cap(e.scope)])
	e.prog, e.fault = nil, treeFault{}
	evaluators.Put(e)
}

func (e *evaluator) fail(n *node, val int32, keyword string) bool {
	e.fault = treeFault{node: n, val: val, depth: e.vals[val].depth, keyword: keyword}
	return false
}

// marks has the members or items that a schema has evaluated, for unevaluatedProperties and unevaluatedItems.
type marks struct {
	bits []uint64
	all  bool
}

func (m *marks) set(i int32) {
	if m != nil && !m.all {
		m.bits[i>>6] |= 1 << (i & 63)
	}
}

func (m *marks) has(i int32) bool { return m.all || m.bits[i>>6]&(1<<(i&63)) != 0 }

func (m *marks) merge(o *marks) {
	if o.all {
		m.all = true
	}
	if !m.all {
		for i, w := range o.bits {
			m.bits[i] |= w
		}
	}
}

func (e *evaluator) newMarks(val int32) *marks {
	n := (int(e.vals[val].n) + 63) / 64
	e.charge(1 + n/8)
	if len(e.words) < n {
		e.words = make([]uint64, max(n, 256))
	}
	m := &marks{bits: e.words[:n:n]}
	e.words = e.words[n:]
	clear(m.bits)
	return m
}

// eval judges value val by n. If m is not nil, it is empty and gets marks for what n evaluates. again counts how many
// times in a row nodes have passed the same value to each other.
func (e *evaluator) eval(n *node, val int32, m *marks, again int) bool {
	e.charge(1)
	if n.always != 0 {
		return n.always > 0 || e.fail(n, val, "")
	}
	if again > len(e.prog.nodes)+1 {
		panic(stopLoop) // more nodes than there are have judged this value, so one has judged it twice
	}
	if e.frames++; e.frames > maxFrames {
		panic(stopFuel)
	}
	entered := false
	if e.prog.context && e.scope[len(e.scope)-1] != n.res {
		e.scope = append(e.scope, n.res)
		entered = true
	}
	ok := false
	if n.memo && m == nil && !e.prog.context && e.vals[val].kind >= isArray {
		ok = e.remembered(n, val, again)
	} else {
		ok = e.body(n, val, m, again)
	}
	if entered {
		e.scope = e.scope[:len(e.scope)-1]
	}
	e.frames--
	return ok
}

// remembered keeps the verdict of a recursive node on a value. Without it, each level of an expression that several
// branches try would multiply the work of the next, and ordinary messages would run out of fuel.
func (e *evaluator) remembered(n *node, val int32, again int) bool {
	key := uint64(n.id)<<32 | uint64(uint32(val))
	if v, ok := e.memo[key]; ok {
		if !v.ok {
			e.fault = v.fault
		}
		return v.ok
	}
	e.charge(2)
	v := verdict{ok: e.body(n, val, nil, again)}
	if !v.ok {
		v.fault = e.fault
	}
	e.memo[key] = v
	return v.ok
}

func (e *evaluator) body(n *node, val int32, m *marks, again int) bool {
	kind := e.vals[val].kind
	if n.types != 0 {
		if n.types&(1<<kind) == 0 || n.integer && kind == isNumber && !e.isInt(val) {
			return e.fail(n, val, "type")
		}
	}
	if n.constant != nil && !e.among(n.constant, val) {
		return e.fail(n, val, "const")
	}
	if n.enum != nil && !e.among(n.enum, val) {
		return e.fail(n, val, "enum")
	}
	switch kind {
	case isString:
		if keyword := e.judgeText(n, val); keyword != "" {
			return e.fail(n, val, keyword)
		}
	case isNumber:
		if keyword := e.judgeNumber(n, val); keyword != "" {
			return e.fail(n, val, keyword)
		}
	case isObject:
		if e.prog.folds != nil && again == 0 && e.prog.folds[n.id] != nil {
			e.variants(e.prog.folds[n.id], val)
		}
		if m == nil && n.unevaluatedProps != nil {
			m = e.newMarks(val)
		}
		if n.object && !e.object(n, val, m, again) {
			return false
		}
	case isArray:
		if m == nil && n.unevaluatedItems != nil {
			m = e.newMarks(val)
		}
		if n.array && !e.array(n, val, m) {
			return false
		}
	}
	if !e.reapply(n, val, m, again) {
		return false
	}
	var left *node
	switch kind {
	case isObject:
		left = n.unevaluatedProps
	case isArray:
		left = n.unevaluatedItems
	}
	if left != nil {
		for c := e.vals[val].first; c >= 0; c = e.vals[c].next {
			e.charge(1)
			if !m.has(e.vals[c].idx) && !e.eval(left, c, nil, 0) {
				return false
			}
		}
		m.all = true
	}
	return true
}

// variants stops at a name that differs only in letter case from one that is declared. It is not called for the value that
// the engine has passed to the evaluator, because the engine has compared the names of that value.
func (e *evaluator) variants(f *folds, val int32) {
	for c := e.vals[val].first; c >= 0; c = e.vals[c].next {
		e.charge(1)
		var yes bool
		if e.text, yes = f.variant(e.text, []byte(e.vals[c].key)); yes {
			panic(stopVariant)
		}
	}
}

func (e *evaluator) isInt(val int32) bool {
	s := e.vals[val].s
	for i := 0; i < len(s); i++ {
		if s[i] == '.' || s[i]|0x20 == 'e' {
			e.charge(1)
			d := parseDecimal(e.digA, s)
			e.digA = d.dig[:0]
			return d.isInt()
		}
	}
	return true
}

func (e *evaluator) among(set *valueSet, val int32) bool {
	if set.kinds&(1<<e.vals[val].kind) == 0 {
		return false
	}
	for _, i := range set.byHash[e.hashOf(val, e.spend)] {
		if e.same(val, &set.tree, i, e.spend) {
			return true
		}
	}
	return false
}

// matches runs a pattern, and does not use its table.
func (e *evaluator) matches(p *pattern, s string) bool {
	e.charge(p.cost(len(s)))
	return p.matches(s)
}

// judgeText returns the keyword that refuses a string, or "".
func (e *evaluator) judgeText(n *node, val int32) string {
	s := e.vals[val].s
	if n.minLen >= 0 || n.maxLen >= 0 {
		e.charge(len(s) / 64)
		length := utf8.RuneCountInString(s)
		if n.minLen >= 0 && length < n.minLen {
			return "minLength"
		}
		if n.maxLen >= 0 && length > n.maxLen {
			return "maxLength"
		}
	}
	if n.pattern != nil && !e.matches(n.pattern, s) {
		return "pattern"
	}
	if n.format != nil {
		e.charge(n.format.price(len(s)))
		if !n.format.ok([]byte(s)) {
			return "format"
		}
	}
	if n.base64 || n.json {
		e.charge(2 + len(s)/8)
		switch {
		case n.base64 && !decodes([]byte(s), true, false):
			return "contentEncoding"
		case n.json && !decodes([]byte(s), n.base64, true):
			return "contentMediaType"
		}
	}
	return ""
}

// judgeNumber returns the keyword that refuses a number, or "".
func (e *evaluator) judgeNumber(n *node, val int32) string {
	if n.min == nil && n.max == nil && n.exMin == nil && n.exMax == nil && n.multipleOf == nil && n.numeric == nil {
		return ""
	}
	s := e.vals[val].s
	e.charge(1 + len(s)/16)
	d := parseDecimal(e.digA, s)
	e.digA = d.dig[:0]
	switch {
	case n.min != nil && d.cmp(*n.min) < 0:
		return "minimum"
	case n.exMin != nil && d.cmp(*n.exMin) <= 0:
		return "exclusiveMinimum"
	case n.max != nil && d.cmp(*n.max) > 0:
		return "maximum"
	case n.exMax != nil && d.cmp(*n.exMax) >= 0:
		return "exclusiveMaximum"
	case n.numeric != nil && !n.numeric.holds(d):
		return "format"
	case n.multipleOf != nil:
		if e.charge(2 + len(n.multipleOf.dig)*len(s)/64); !d.multipleOf(*n.multipleOf) {
			return "multipleOf"
		}
	}
	return ""
}

func (e *evaluator) object(n *node, val int32, m *marks, again int) bool {
	count := int(e.vals[val].n)
	if n.minProps >= 0 && count < n.minProps {
		return e.fail(n, val, "minProperties")
	}
	if n.maxProps >= 0 && count > n.maxProps {
		return e.fail(n, val, "maxProperties")
	}
	required := 0
	for c := e.vals[val].first; c >= 0; c = e.vals[c].next {
		e.charge(1)
		key, idx := e.vals[c].key, e.vals[c].idx
		if n.propertyNames != nil && !e.eval(n.propertyNames, e.keyValue(c), nil, 0) {
			return false
		}
		if n.regexNames {
			if e.charge(regexFormat.price(len(key))); !regexFormat.ok([]byte(key)) {
				return e.fail(n, c, "patternProperties")
			}
		}
		p := n.names[key]
		covered := p.node != nil
		if p.required {
			required++
		}
		if covered && !e.eval(p.node, c, nil, 0) {
			return false
		}
		for i := range n.patternProps {
			if pp := &n.patternProps[i]; e.matches(pp.pattern, key) {
				covered = true
				if !e.eval(pp.node, c, nil, 0) {
					return false
				}
			}
		}
		if covered || n.extra != extraUnsaid {
			m.set(idx)
		}
		if covered {
			continue
		}
		switch n.extra {
		case extraDenied:
			return e.fail(n, c, "additionalProperties")
		case extraSchema:
			if !e.eval(n.extraProps, c, nil, 0) {
				return false
			}
		}
	}
	if required < n.required {
		return e.fail(n, val, "required")
	}
	for i := range n.depends {
		d := &n.depends[i]
		e.charge(1 + count/16)
		if e.find(val, d.name) < 0 {
			continue
		}
		for _, name := range d.required {
			if e.charge(1 + count/16); e.find(val, name) < 0 {
				return e.fail(n, val, d.keyword)
			}
		}
		if d.node != nil && !e.hand(d.node, val, m, again) {
			return false
		}
	}
	return true
}

// keyValue returns a member's name as a value.
func (e *evaluator) keyValue(c int32) int32 {
	if k := e.vals[c].asText; k != 0 {
		return k
	}
	v := e.vals[c]
	k := int32(len(e.vals))
	e.vals = append(e.vals, value{s: v.key, key: v.key, parent: v.parent, next: -1, first: -1, idx: v.idx, depth: v.depth, kind: isString})
	e.vals[c].asText = k
	return k
}

func (e *evaluator) array(n *node, val int32, m *marks) bool {
	count := int(e.vals[val].n)
	if n.minItems >= 0 && count < n.minItems {
		return e.fail(n, val, "minItems")
	}
	if n.maxItems >= 0 && count > n.maxItems {
		return e.fail(n, val, "maxItems")
	}
	if len(n.prefix) > 0 || n.rest != extraUnsaid {
		for c := e.vals[val].first; c >= 0; c = e.vals[c].next {
			idx := e.vals[c].idx
			if int(idx) < len(n.prefix) {
				if !e.eval(n.prefix[idx], c, nil, 0) {
					return false
				}
				m.set(idx)
				continue
			}
			if n.rest == extraDenied {
				return e.fail(n, c, "additionalItems")
			}
			if n.rest == extraSchema {
				if !e.eval(n.restItems, c, nil, 0) {
					return false
				}
				continue
			}
			break
		}
		if m != nil && n.rest != extraUnsaid {
			m.all = true
		}
	}
	if n.contains != nil {
		matched := 0
		for c := e.vals[val].first; c >= 0; c = e.vals[c].next {
			if e.eval(n.contains, c, nil, 0) {
				matched++
				if n.containsMarks {
					m.set(e.vals[c].idx)
				}
				if n.maxContains >= 0 && matched > n.maxContains {
					return e.fail(n, val, "maxContains")
				}
				if m == nil && n.maxContains < 0 && matched >= n.minContains {
					break
				}
			}
		}
		if matched < n.minContains {
			return e.fail(n, val, "contains")
		}
	}
	if n.unique {
		if a, b, ok := e.unique(val, e.spend); !ok {
			e.fail(n, val, "uniqueItems")
			e.fault.twins = [2]int32{a, b}
			return false
		}
	}
	return true
}

// hand passes the same value to another node. It keeps the marks of that node only if the node accepts the value.
func (e *evaluator) hand(n *node, val int32, m *marks, again int) bool {
	if m == nil {
		return e.eval(n, val, nil, again+1)
	}
	own := e.newMarks(val)
	if !e.eval(n, val, own, again+1) {
		return false
	}
	m.merge(own)
	return true
}

// reapply runs the keywords that judge the same value again.
func (e *evaluator) reapply(n *node, val int32, m *marks, again int) bool {
	if n.ref != nil && !e.hand(n.ref, val, m, again) {
		return false
	}
	if n.recursiveRef != nil && !e.hand(e.recursive(n), val, m, again) {
		return false
	}
	if n.dynamicRef != nil && !e.hand(e.dynamic(n), val, m, again) {
		return false
	}
	for _, c := range n.allOf {
		if !e.hand(c, val, m, again) {
			return false
		}
	}
	if n.not != nil && e.eval(n.not, val, nil, again+1) {
		return e.fail(n, val, "not")
	}
	if len(n.anyOf) > 0 {
		var best treeFault
		ok := false
		for i, c := range n.anyOf {
			if e.hand(c, val, m, again) {
				ok = true
				if m == nil {
					break
				}
			} else if i == 0 || e.fault.depth > best.depth {
				best = e.fault
			}
		}
		if !ok {
			e.fault = best
			return false
		}
	}
	if len(n.oneOf) > 0 {
		var best treeFault
		ok, first := false, 0
		for i, c := range n.oneOf {
			if e.hand(c, val, m, again) {
				if ok {
					e.fail(n, val, "oneOf")
					e.fault.twins = [2]int32{int32(first), int32(i)}
					return false
				}
				ok, first = true, i
			} else if i == 0 || e.fault.depth > best.depth {
				best = e.fault
			}
		}
		if !ok {
			e.fault = best
			return false
		}
	}
	if n.ifs != nil {
		branch := n.els
		if e.hand(n.ifs, val, m, again) {
			branch = n.then
		}
		if branch != nil && !e.hand(branch, val, m, again) {
			return false
		}
	}
	return true
}

// dynamic follows $dynamicRef. If the reference leads to a dynamic anchor, the outermost resource on the way that has this
// anchor decides.
func (e *evaluator) dynamic(n *node) *node {
	if n.dynamicName != "" {
		for _, r := range e.scope {
			e.charge(1)
			if t := r.dynamic[n.dynamicName]; t != nil {
				return t
			}
		}
	}
	return n.dynamicRef
}

// recursive follows $recursiveRef of 2019-09, which has one anchor without a name.
func (e *evaluator) recursive(n *node) *node {
	if n.recursiveRef.res.recursive == n.recursiveRef {
		for _, r := range e.scope {
			e.charge(1)
			if r.recursive != nil {
				return r.recursive
			}
		}
	}
	return n.recursiveRef
}
