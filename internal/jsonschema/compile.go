package jsonschema

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
)

// An engine is a program over bytes, made from the tree of nodes.
type engine struct {
	root     *step
	tree     *program
	refusals sync.Map        // the errors of the evaluator
	names    map[string]bool // the names that stand anywhere in the schema's sources
}

// learn adds the names of a source.
func (e *engine) learn(doc any) {
	switch doc := doc.(type) {
	case map[string]any:
		for name, v := range doc {
			e.names[name] = true
			e.learn(v)
		}
	case []any:
		for _, v := range doc {
			e.learn(v)
		}
	}
}

const allKinds = 1<<(isObject+1) - 1

var anything = &step{kinds: allKinds, free: true, plain: true}

var (
	anyArray      = arrayRule{rest: itemRule{step: anything}, maxItems: -1}
	anyObjectRule = objectRule{maxProps: -1}
)

// A part is a schema object that is joined into a step.
type part struct {
	n     *node
	drop  uint8 // the keywords of the object that another part of the program judges
	left  bool  // the object is judged apart, together with what it leaves unevaluated
	whole bool  // the evaluator judges the object
}

// apart reports whether a part is judged outside of the one pass.
func (p *part) apart() bool { return p.left || p.whole }

const (
	dropAny = 1 << iota
	dropOne
	dropLeft // unevaluatedProperties and unevaluatedItems
)

type compiler struct {
	prog   *program
	opt    *Options
	limits Limits
	byKey  map[string]*step
	steps  []*step
	errs   map[string]*Error
	marks  bool // the schema has unevaluatedProperties or unevaluatedItems
	budget int  // how many more steps may join schema objects that stand in different places of the schema
}

func compileEngine(p *program, opt *Options, limits Limits) *engine {
	c := &compiler{prog: p, opt: opt, limits: limits, byKey: map[string]*step{}, errs: map[string]*Error{}, budget: 256 + 8*len(p.nodes)}
	e := &engine{tree: p}
	for _, n := range p.nodes {
		c.marks = c.marks || n.unevaluatedProps != nil || n.unevaluatedItems != nil
	}
	if opt.RefuseCaseVariants {
		p.folds = make([]*folds, len(p.nodes))
		for i, n := range p.nodes {
			p.folds[i] = newFolds(n)
		}
	}
	if p.context {
		// The meaning of a dynamic reference depends on the way to it, which a step does not know.
		e.root = c.join(part{n: p.root, whole: true})
	} else {
		e.root = c.join(part{n: p.root})
	}
	if c.endless() {
		// No schema is known that gets here. But a walk without an end would end the process. Without joins, the steps
		// lead only where the tree does, and the tree has no way back.
		for _, s := range c.steps {
			s.choice = nil
		}
		if c.endless() {
			panic("a step leads back to itself without going into the value")
		}
	}
	c.recursion()
	return e
}

// error returns the error of a keyword. There is one for each place in the schema.
func (c *compiler) error(n *node, keyword string) *Error {
	loc := n.location(keyword)
	if c.errs[loc] == nil {
		c.errs[loc] = newRefusal(loc)
	}
	return c.errs[loc]
}

func newRefusal(loc string) *Error {
	return &Error{Kind: KindSchema, Token: TokenSchema, Offset: -1, KeywordLocation: loc}
}

// inPlace returns the schema objects that the references and the allOf of a schema object apply to the same value.
func (c *compiler) inPlace(n *node) []*node {
	var list []*node
	if n.ref != nil {
		list = append(list, n.ref)
	}
	if n.recursiveRef != nil {
		list = append(list, c.recursive(n))
	}
	if n.dynamicRef != nil {
		list = append(list, c.dynamic(n))
	}
	return append(list, n.allOf...)
}

// recursive and dynamic resolve dynamic references for which the way makes no difference. The evaluator resolves the
// others.
func (c *compiler) recursive(n *node) *node {
	if n.recursiveRef.res.recursive == n.recursiveRef && c.prog.root.res.recursive != nil {
		return c.prog.root.res.recursive
	}
	return n.recursiveRef
}

func (c *compiler) dynamic(n *node) *node {
	if n.dynamicName != "" {
		if t := c.prog.root.res.dynamic[n.dynamicName]; t != nil {
			return t
		}
	}
	return n.dynamicRef
}

// flatten returns the parts that judge the same value without a choice.
func (c *compiler) flatten(parts []part) []part {
	var flat []part
	added, drops := map[int]bool{}, map[int]uint8{}
	for _, p := range parts {
		drops[p.n.id] |= p.drop
	}
	var add func(p part)
	add = func(p part) {
		if p.n.always > 0 || added[p.n.id] {
			return
		}
		p.drop = drops[p.n.id]
		if !p.whole && p.drop&dropLeft == 0 && (p.n.unevaluatedProps != nil || p.n.unevaluatedItems != nil) && !c.static(p.n) {
			p.left = true
		}
		added[p.n.id] = true
		flat = append(flat, p)
		if p.apart() {
			return
		}
		for _, child := range c.inPlace(p.n) {
			add(part{n: child})
		}
	}
	for _, p := range parts {
		add(p)
	}
	// Remember the dropped objects, so that no other part leads to them again.
	return slices.DeleteFunc(flat, func(p part) bool { return !p.apart() && p.drop == 0 && p.n.silent(0) })
}

// static reports whether the schema alone says what n leaves unevaluated.
func (c *compiler) static(n *node) bool {
	seen := map[int]bool{}
	var walk func(u *node) bool
	walk = func(u *node) bool {
		if seen[u.id] {
			return true
		}
		seen[u.id] = true
		if len(u.anyOf)+len(u.oneOf) > 0 || u.ifs != nil || u.contains != nil && u.containsMarks && n.unevaluatedItems != nil {
			return false
		}
		for i := range u.depends {
			if u.depends[i].node != nil {
				return false
			}
		}
		for _, child := range c.inPlace(u) {
			if !walk(child) {
				return false
			}
		}
		return true
	}
	return walk(n)
}

// beside returns n and the schema objects that judge the same value without a choice.
func (c *compiler) beside(n *node) []*node {
	var list []*node
	var walk func(u *node)
	walk = func(u *node) {
		if slices.Contains(list, u) {
			return
		}
		list = append(list, u)
		for _, child := range c.inPlace(u) {
			walk(child)
		}
	}
	walk(n)
	return list
}

// silent reports whether n itself refuses no value.
func (n *node) silent(drop uint8) bool {
	return n.always == 0 && n.types == 0 && n.constant == nil && n.enum == nil && n.minLen < 0 && n.maxLen < 0 && n.pattern == nil &&
		n.format == nil && !n.base64 && !n.json && n.min == nil && n.max == nil && n.exMin == nil && n.exMax == nil && n.multipleOf == nil && n.numeric == nil &&
		!n.object && !n.array && n.not == nil && n.ifs == nil && (len(n.anyOf) == 0 || drop&dropAny != 0) &&
		(len(n.oneOf) == 0 || drop&dropOne != 0) && (n.unevaluatedProps == nil && n.unevaluatedItems == nil || drop&dropLeft != 0)
}

// bare reports whether n checks names and types, and nothing else.
func (n *node) bare() bool {
	m := *n
	m.types, m.names, m.object = 0, nil, false
	for _, p := range n.names {
		if p.node != nil {
			return false
		}
	}
	return n.always == 0 && !n.integer && m.silent(0) && n.minProps < 0 && n.maxProps < 0 && len(n.patternProps) == 0 &&
		n.extra == extraUnsaid && n.propertyNames == nil && !n.regexNames && len(n.depends) == 0
}

func key(flat []part) string {
	var b strings.Builder
	for _, p := range flat {
		fmt.Fprintf(&b, "%d.%d.%t.%t ", p.n.id, p.drop, p.left, p.whole)
	}
	return b.String()
}

// join makes one step of several parts.
func (c *compiler) join(parts ...part) *step {
	flat := c.flatten(parts)
	if len(flat) == 0 {
		return anything
	}
	k := key(flat)
	if s := c.byKey[k]; s != nil {
		return s
	}
	s := &step{kinds: allKinds, id: int32(len(c.steps))}
	c.byKey[k] = s
	c.steps = append(c.steps, s)
	c.build(s, flat)
	return s
}

// joined makes one step of schemas that stand in different places and judge the same value. If there are too many such
// steps already, it makes several steps.
func (c *compiler) joined(nodes []*node) (*step, []*step) {
	parts := make([]part, len(nodes))
	for i, n := range nodes {
		parts[i] = part{n: n}
	}
	if len(nodes) > 1 && c.byKey[key(c.flatten(parts))] == nil {
		if c.budget--; c.budget < 0 {
			var more []*step
			for _, p := range parts[1:] {
				more = append(more, c.join(p))
			}
			return c.join(parts[0]), more
		}
	}
	return c.join(parts...), nil
}

func (c *compiler) build(s *step, flat []part) {
	for _, p := range flat {
		n := p.n
		switch {
		case p.whole:
			s.looks = append(s.looks, look{kind: lookTree, kinds: allKinds, node: n})
			continue
		case p.left:
			l := look{kind: lookLeft, kinds: allKinds, step: c.join(part{n: n, drop: p.drop | dropLeft})}
			if n.unevaluatedProps != nil {
				l.props = c.join(part{n: n.unevaluatedProps})
			}
			if n.unevaluatedItems != nil {
				l.items = c.join(part{n: n.unevaluatedItems})
			}
			s.looks = append(s.looks, l)
			continue
		case n.always < 0:
			s.types = append(s.types, typeRule{0, c.error(n, "")})
		case n.types != 0:
			s.types = append(s.types, typeRule{n.types, c.error(n, "type")})
		}
		if n.constant != nil {
			s.vals = append(s.vals, newValueRule(n.constant, c.error(n, "const")))
		}
		if n.enum != nil {
			s.vals = append(s.vals, newValueRule(n.enum, c.error(n, "enum")))
		}
	}
	for _, t := range s.types {
		s.kinds &= t.kinds
	}
	for i := range s.vals {
		r := &s.vals[i]
		s.kinds &= r.kinds
		if r.kinds&(1<<isArray|1<<isObject) != 0 {
			s.looks = append(s.looks, look{kind: lookValue, kinds: 1<<isArray | 1<<isObject, rule: r})
		}
	}
	s.str, s.num = c.strings(s, flat), c.numbers(s, flat)
	c.branches(s, flat)
	c.object(s, flat)
	s.arr = c.array(flat)
	c.needs(s)
	for i := range s.looks {
		if l := &s.looks[i]; l.kind == lookAny || l.kind == lookOne {
			l.choice = newChoice(l.branches)
		}
	}
	c.choose(s, flat)
	if c.opt.RefuseCaseVariants {
		var nodes []*node
		for _, p := range flat {
			nodes = append(nodes, p.n)
		}
		s.folds = newFolds(nodes...)
	}
	s.plain = s.choice == nil && len(s.looks) == 0
	rules := s.kinds != allKinds || s.str != nil || s.num != nil || s.obj != nil || s.arr != nil
	s.free = s.plain && !rules && s.folds == nil
	s.idle = !s.plain && !rules
	s.lists = s.plain && s.kinds == 1<<isArray
	s.nums = s.plain && s.kinds == 1<<isNumber
	s.texts = s.plain && s.kinds == 1<<isString && s.str != nil
}

func newValueRule(set *valueSet, err *Error) valueRule {
	r := valueRule{kinds: set.kinds, err: err, set: set}
	var text []string
	for _, list := range set.byHash {
		for _, i := range list {
			switch v := &set.tree.vals[i]; v.kind {
			case isString:
				if !slices.Contains(text, v.s) {
					text = append(text, v.s)
				}
			case isNumber:
				d := parseDecimal(nil, v.s)
				if n := numberOf(&d); n.small {
					r.few = append(r.few, n.shortest())
				} else {
					r.long = append(r.long, d)
				}
			}
		}
	}
	if len(text) > 0 {
		slices.Sort(text)
		r.strings = newNameSet(text)
	}
	if len(r.few) > 4 {
		r.numbers = map[number]bool{}
		for _, n := range r.few {
			r.numbers[n] = true
		}
		r.few = nil
	}
	return r
}

func (c *compiler) strings(s *step, flat []part) *stringRule {
	if s.kinds&(1<<isString) == 0 {
		return nil
	}
	r := &stringRule{max: math.MaxInt, vals: s.vals}
	bounded := false
	for _, p := range flat {
		n := p.n
		if p.apart() {
			continue
		}
		if n.minLen > r.min {
			r.min, r.minErr, bounded = n.minLen, c.error(n, "minLength"), true
		}
		if n.maxLen >= 0 && n.maxLen < r.max {
			r.max, r.maxErr, bounded = n.maxLen, c.error(n, "maxLength"), true
		}
		if n.pattern != nil {
			r.checks = append(r.checks, textRule{pattern: n.pattern, err: c.error(n, "pattern")})
		}
		if n.format != nil {
			r.checks = append(r.checks, textRule{format: n.format, err: c.error(n, "format")})
		}
		if n.base64 {
			r.checks = append(r.checks, textRule{content: func(b []byte) bool { return decodes(b, true, false) }, err: c.error(n, "contentEncoding")})
		}
		if n.json {
			r.checks = append(r.checks, textRule{content: func(b []byte) bool { return decodes(b, n.base64, true) }, err: c.error(n, "contentMediaType")})
		}
	}
	r.lengths = r.vals == nil && r.checks == nil
	if r.lengths && !bounded && s.kinds != 1<<isString {
		return nil
	}
	r.differs = r.vals != nil || r.checks != nil
	if len(r.vals) == 1 && len(r.vals[0].strings.names) == 1 && r.checks == nil && !bounded && plainText(r.vals[0].strings.names[0]) {
		l := newLiteral(r.vals[0].strings.names[0])
		if text := []byte(l.text); !c.limits.RefuseControls || controlAt(text, 0, len(text)) < 0 {
			r.only = &l
		}
	}
	return r
}

func (c *compiler) numbers(s *step, flat []part) *numberRule {
	if s.kinds&(1<<isNumber) == 0 {
		return nil
	}
	r := &numberRule{vals: s.vals}
	for _, p := range flat {
		n := p.n
		if p.apart() {
			continue
		}
		if n.integer && r.integer == nil {
			r.integer = c.error(n, "type")
		}
		bound := func(d *decimal, keyword string, fails [3]bool) {
			if d != nil {
				r.bounds = append(r.bounds, boundRule{numberOf(d), *d, fails, c.error(n, keyword)})
			}
		}
		bound(n.min, "minimum", [3]bool{true, false, false})
		bound(n.exMin, "exclusiveMinimum", [3]bool{true, true, false})
		bound(n.max, "maximum", [3]bool{false, false, true})
		bound(n.exMax, "exclusiveMaximum", [3]bool{false, true, true})
		if f := n.numeric; f != nil {
			bound(&f.low, "format", [3]bool{true, false, false})
			bound(&f.high, "format", [3]bool{false, false, true})
			if f.whole && r.integer == nil {
				r.integer = c.error(n, "format")
			}
		}
		if n.multipleOf != nil {
			r.multiples = append(r.multiples, boundRule{number: numberOf(n.multipleOf), exact: *n.multipleOf, err: c.error(n, "multipleOf")})
		}
	}
	if r.integer == nil && r.vals == nil && r.bounds == nil && r.multiples == nil && s.kinds != 1<<isNumber {
		return nil
	}
	r.narrow()
	r.whole = r.whole && r.ranged
	return r
}

// narrow finds a range of whole numbers that pass the bounds. It leaves ranged false if the bounds leave no whole number,
// and if one of them is a fraction or too large.
func (r *numberRule) narrow() {
	const most = 1 << 42 // a million times as much still fits an int64
	r.low, r.high, r.ranged = -most, most, true
	r.whole = r.vals == nil && r.multiples == nil
	for k := range r.bounds {
		b := &r.bounds[k]
		n := b.number
		for ; n.exp > 0 && n.mant < most; n.exp-- {
			n.mant *= 10
		}
		if wide := b.exact.neg == b.fails[0] && len(b.exact.dig)+b.exact.exp > 13; wide {
			continue // no number of the range exceeds it
		}
		if !n.small || n.exp != 0 || n.mant >= most {
			r.ranged = false
			return
		}
		at := int64(n.mant)
		if n.neg {
			at = -at
		}
		if b.fails[0] { // a lower bound
			if b.fails[1] {
				at++
			}
			r.low = max(r.low, at)
		} else {
			if b.fails[1] {
				at--
			}
			r.high = min(r.high, at)
		}
	}
	// The ends of an empty or crossed range do not pass its bounds.
	r.ranged = r.low <= r.high
}

// A cover has the rules of one of the joined schemas for the members of an object.
type cover struct {
	names map[string]name
	pats  []patternProp
	kind  extra
	node  *node
	deny  *Error
	marks bool // the names and patterns only cover members, and their schemas are judged elsewhere
}

func (c *compiler) covers(flat []part) []cover {
	var list []cover
	for _, p := range flat {
		n := p.n
		if p.apart() {
			continue
		}
		if n.object {
			list = append(list, cover{names: n.names, pats: n.patternProps, kind: n.extra, node: n.extraProps, deny: c.error(n, "additionalProperties")})
		}
		if n.unevaluatedProps == nil || p.drop&dropLeft != 0 {
			continue
		}
		u := cover{names: map[string]name{}, kind: extraSchema, node: n.unevaluatedProps, marks: true}
		for _, o := range c.beside(n) {
			for k, v := range o.names {
				if v.node != nil {
					u.names[k] = v
				}
			}
			u.pats = append(u.pats, o.patternProps...)
			if o.extra != extraUnsaid || o != n && o.unevaluatedProps != nil {
				u.kind = extraAllowed
			}
		}
		list = append(list, u)
	}
	return list
}

func (c *compiler) object(s *step, flat []part) {
	if s.kinds&(1<<isObject) == 0 {
		return
	}
	covers := c.covers(flat)
	index := map[string]bool{}
	for _, v := range covers {
		for k := range v.names {
			index[k] = true
		}
	}
	for _, p := range flat {
		if p.apart() {
			continue
		}
		for i := range p.n.depends {
			d := &p.n.depends[i]
			index[d.name] = true
			for _, k := range d.required {
				index[k] = true
			}
		}
	}
	// Number the names that branches require, if there is room, so that they are known before a branch is tried.
	asked := c.asked(s)
	if len(index)+len(asked) <= 64 {
		for _, k := range asked {
			index[k] = true
		}
	}
	r := &objectRule{maxProps: -1}
	names := sortedNames(index)
	r.many = len(names) > 64
	if r.props = make([]prop, len(names)); len(names) > 0 {
		r.set = newNameSet(names)
	}
	at := make(map[string]int32, len(names))
	for i, k := range names {
		at[k] = int32(i)
		p := &r.props[i]
		p.literal, p.idx, p.exact = newLiteral(k), int32(i), plainText(k)
		if i < 64 {
			p.bit = 1 << i
		}
		switch {
		case len(k) > c.limits.KeyBytes:
			p.bad = faultKeyBytes
		case c.limits.RefusePrototypeKeys && prototypeKey([]byte(k)):
			p.bad = faultPrototype
		}
		if c.limits.RefuseControls {
			if q := []byte(k); p.exact && controlAt(q, 0, len(q)) >= 0 {
				p.bad = faultControlInString
			}
		}
		p.exact = p.exact && p.bad == faultNone
		var nodes []*node
		for _, v := range covers {
			covered := false
			if n := v.names[k].node; n != nil {
				covered = true
				if !v.marks {
					nodes = append(nodes, n)
				}
			}
			for _, pp := range v.pats {
				if pp.matches(k) {
					covered = true
					if !v.marks {
						nodes = append(nodes, pp.node)
					}
				}
			}
			p.marks = p.marks || covered || v.kind != extraUnsaid
			switch {
			case covered:
			case v.kind == extraDenied && p.deny == nil:
				p.deny = v.deny
			case v.kind == extraSchema:
				nodes = append(nodes, v.node)
			}
		}
		p.step, p.more = c.joined(nodes)
		p.simple = p.exact && p.deny == nil && p.more == nil
	}
	for _, p := range flat {
		n := p.n
		if p.apart() || !n.object {
			continue
		}
		if n.minProps > r.minProps {
			r.minProps, r.minErr = n.minProps, c.error(n, "minProperties")
		}
		if n.maxProps >= 0 && (r.maxProps < 0 || n.maxProps < r.maxProps) {
			r.maxProps, r.maxErr = n.maxProps, c.error(n, "maxProperties")
		}
		for _, k := range sortedNames(n.names) {
			if q := &r.props[at[k]]; n.names[k].required && q.needed == nil {
				q.needed = c.error(n, "required")
				r.needs = append(r.needs, q.idx)
				r.required |= q.bit
			}
		}
		if n.propertyNames != nil {
			r.judged, r.names = true, append(r.names, c.join(part{n: n.propertyNames}))
		}
		if n.regexNames {
			r.judged, r.regex = true, c.error(n, "patternProperties")
		}
		for i := range n.depends {
			d := &n.depends[i]
			if d.required == nil {
				continue
			}
			rule := dependRule{idx: at[d.name], err: c.error(n, d.keyword)}
			for _, k := range d.required {
				rule.need = append(rule.need, at[k])
			}
			r.depends = append(r.depends, rule)
		}
	}
	for _, v := range covers {
		r.all = r.all || v.kind != extraUnsaid
		g := group{kind: v.kind, deny: v.deny}
		if v.kind == extraSchema {
			if g.step = c.join(part{n: v.node}); g.step.free {
				g.kind = extraAllowed
			}
		}
		for _, pp := range v.pats {
			q := groupPattern{pattern: pp.pattern}
			if !v.marks {
				q.step = c.join(part{n: pp.node})
			}
			g.pats = append(g.pats, q)
		}
		if g.pats == nil && g.kind == extraDenied && r.closed == nil {
			r.closed = g.deny
		}
		if g.pats != nil || g.kind == extraDenied || g.kind == extraSchema {
			r.groups = append(r.groups, g)
		}
	}
	for i := range s.looks {
		if l := &s.looks[i]; l.kind == lookDepend {
			l.name = at[l.text]
		}
	}
	if r.simple = !r.many && r.maxProps < 0 && !r.judged; len(covers) > 0 || len(names) > 0 {
		s.obj = r
	}
}

func (c *compiler) array(flat []part) *arrayRule {
	r := &arrayRule{maxItems: -1}
	most, said := 0, false
	for _, p := range flat {
		n := p.n
		if p.apart() || !n.array && (n.unevaluatedItems == nil || p.drop&dropLeft != 0) {
			continue
		}
		said = true
		most = max(most, len(n.prefix))
		r.all = r.all || n.rest != extraUnsaid || n.unevaluatedItems != nil && p.drop&dropLeft == 0
		if n.minItems > r.minItems {
			r.minItems, r.minErr = n.minItems, c.error(n, "minItems")
		}
		if n.maxItems >= 0 && (r.maxItems < 0 || n.maxItems < r.maxItems) {
			r.maxItems, r.maxErr = n.maxItems, c.error(n, "maxItems")
		}
	}
	if !said {
		return nil
	}
	item := func(i int) (rule itemRule) {
		var nodes []*node
		for _, p := range flat {
			n := p.n
			switch {
			case p.apart():
				continue
			case i < len(n.prefix):
				nodes = append(nodes, n.prefix[i])
			case n.rest == extraDenied && rule.deny == nil:
				rule.deny = c.error(n, "additionalItems")
			case n.rest == extraSchema:
				nodes = append(nodes, n.restItems)
			}
			if n.unevaluatedItems == nil || p.drop&dropLeft != 0 {
				continue
			}
			covered := false
			for _, o := range c.beside(n) {
				covered = covered || i < len(o.prefix) || o.rest != extraUnsaid || o != n && o.unevaluatedItems != nil
			}
			if !covered {
				nodes = append(nodes, n.unevaluatedItems)
			}
		}
		if rule.step, rule.more = c.joined(nodes); rule.deny != nil {
			rule.step, rule.more = anything, nil
		}
		return rule
	}
	for i := range most {
		r.prefix = append(r.prefix, item(i))
	}
	r.marks = most
	r.rest = item(math.MaxInt)
	return r
}

// branches adds the looks of a schema object, which read the same bytes again.
func (c *compiler) branches(s *step, flat []part) {
	add := func(l look) { s.looks = append(s.looks, l) }
	for _, p := range flat {
		n := p.n
		if p.apart() {
			continue
		}
		if n.contains != nil {
			add(look{kind: lookContains, kinds: 1 << isArray, step: c.join(part{n: n.contains}), min: n.minContains, max: n.maxContains,
				marks: n.containsMarks, minErr: c.error(n, "contains"), maxErr: c.error(n, "maxContains")})
		}
		if n.unique {
			add(look{kind: lookUnique, kinds: 1 << isArray, err: c.error(n, "uniqueItems")})
		}
		for i := range n.depends {
			if d := &n.depends[i]; d.node != nil {
				add(look{kind: lookDepend, kinds: 1 << isObject, step: c.join(part{n: d.node}), text: d.name})
			}
		}
		if n.not != nil {
			add(look{kind: lookNot, kinds: allKinds, step: c.join(part{n: n.not}), err: c.error(n, "not")})
		}
		if len(n.anyOf) > 0 && p.drop&dropAny == 0 {
			add(look{kind: lookAny, kinds: allKinds, node: n, branches: c.ways(n.anyOf), err: c.error(n, "anyOf")})
		}
		if len(n.oneOf) > 0 && p.drop&dropOne == 0 {
			add(look{kind: lookOne, kinds: allKinds, node: n, branches: c.ways(n.oneOf), err: c.error(n, "oneOf")})
		}
		if n.ifs != nil && (n.then != nil || n.els != nil || c.marks) { // an if alone only marks what it evaluates
			l := look{kind: lookIf, kinds: allKinds, step: c.join(part{n: n.ifs})}
			if n.then != nil {
				l.then = c.join(part{n: n.then})
			}
			if n.els != nil {
				l.els = c.join(part{n: n.els})
			}
			add(l)
		}
	}
}

func (c *compiler) ways(nodes []*node) []branch {
	list := make([]branch, len(nodes))
	for i, n := range nodes {
		list[i].step = c.join(part{n: n})
	}
	return list
}

// wanted returns the names without which a branch accepts no object, and whether the branch has any other check of one.
func (c *compiler) wanted(n *node) (names []string, only bool) {
	only = true
	for _, p := range c.flatten([]part{{n: n}}) {
		only = only && !p.apart() && p.n.bare()
		if p.apart() {
			continue
		}
		for _, k := range sortedNames(p.n.names) {
			if p.n.names[k].required {
				names = append(names, k)
			}
		}
	}
	return names, only
}

func (c *compiler) asked(s *step) (names []string) {
	for i := range s.looks {
		l := &s.looks[i]
		for _, b := range l.nodes() {
			w, _ := c.wanted(b)
			names = append(names, w...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// nodes returns the branches of an anyOf or oneOf as they stand in the tree.
func (l *look) nodes() []*node {
	switch l.kind {
	case lookAny:
		return l.node.anyOf
	case lookOne:
		return l.node.oneOf
	}
	return nil
}

func (c *compiler) needs(s *step) {
	if s.obj == nil || s.obj.many || s.obj.set == nil {
		return
	}
	for i := range s.looks {
		l := &s.looks[i]
		for k, n := range l.nodes() {
			names, only := c.wanted(n)
			b := &l.branches[k]
			b.only = only && len(names) > 0
			for _, name := range names {
				if at := s.obj.set.find([]byte(name)); at >= 0 {
					b.need |= s.obj.props[at].bit
				} else {
					b.only = false
				}
			}
		}
	}
}

// newChoice finds out how branches can be told apart beforehand, or returns nil.
func newChoice(branches []branch) *choice {
	c := &choice{}
	useful := false
	for kind := range c.byKind {
		c.byKind[kind] = []int32{}
		for i := range branches {
			if branches[i].step.kinds&(1<<kind) != 0 {
				c.byKind[kind] = append(c.byKind[kind], int32(i))
			}
		}
		useful = useful || len(c.byKind[kind]) < len(branches)
	}
	// The member whose value leaves the fewest branches decides.
	keys := map[string]bool{}
	for _, i := range c.byKind[isObject] {
		if r := branches[i].step.obj; r != nil {
			for k := range r.props {
				if r.props[k].tells() != nil {
					keys[r.set.names[k]] = true
				}
			}
		}
	}
	best := float64(len(c.byKind[isObject]))
	for _, k := range sortedNames(keys) {
		d := &choice{key: k, byKind: c.byKind}
		if left := d.divide(branches); left < best-0.01 {
			best = left
			c, useful = d, true
		}
	}
	if best > 1.01 {
		if p, left := newPresence(branches, c.byKind[isObject]); p != nil && left < best-0.01 {
			c, useful = &choice{names: p, byKind: c.byKind}, true
		}
	}
	if !useful {
		return nil
	}
	return c
}

// newPresence finds out whether names tell branches apart, and about how many branches are possible on average.
func newPresence(branches []branch, objects []int32) (p *presence, left float64) {
	index := map[string]bool{}
	for _, i := range objects {
		if r := branches[i].step.obj; r != nil && r.set != nil {
			for _, k := range r.set.names {
				index[k] = true
			}
		}
	}
	names := sortedNames(index)
	if len(objects) < 2 || len(branches) > 64 || len(names) == 0 || len(names) > 64 {
		return nil, 0
	}
	p = &presence{names: newNameSet(names), refusing: make([]uint64, len(names)), needs: make([]uint64, len(branches)), single: make([][]int32, len(branches))}
	for _, i := range objects {
		p.all |= 1 << i
		p.single[i] = []int32{i}
		r := branches[i].step.obj
		if r == nil {
			continue
		}
		if r.closed != nil {
			p.strict |= 1 << i
		}
		for k, name := range names {
			at := -1
			if r.set != nil {
				at = r.set.find([]byte(name))
			}
			switch {
			case at < 0:
				if r.closed != nil {
					p.refusing[k] |= 1 << i
				}
			case r.props[at].deny != nil || r.props[at].step.kinds == 0:
				p.refusing[k] |= 1 << i
			case r.props[at].needed != nil:
				p.needs[i] |= 1 << k
			}
		}
	}
	// Two branches exclude each other if one requires a name that the other refuses.
	together := 0
	for x, a := range objects {
		for _, b := range objects[:x] {
			apart := false
			for k := range names {
				apart = apart || p.needs[a]&(1<<k) != 0 && p.refusing[k]&(1<<b) != 0 || p.needs[b]&(1<<k) != 0 && p.refusing[k]&(1<<a) != 0
			}
			if !apart {
				together++
			}
		}
	}
	return p, 1 + 2*float64(together)/float64(len(objects))
}

// tells returns the strings that a member may have, or nil if it may have another value.
func (p *prop) tells() []string {
	if p.step == nil || p.step.kinds != 1<<isString || p.step.str == nil || len(p.step.str.vals) == 0 {
		return nil
	}
	return p.step.str.vals[0].strings.names
}

// divide sorts the branches by the values of the key, and returns how many are possible on average.
func (c *choice) divide(branches []branch) float64 {
	values := map[string]int{}
	var names []string
	told := make([]*prop, len(branches))
	for _, i := range c.byKind[isObject] {
		if r := branches[i].step.obj; r != nil && r.set != nil {
			if k := r.set.find([]byte(c.key)); k >= 0 && r.props[k].tells() != nil {
				told[i] = &r.props[k]
				for _, text := range told[i].tells() {
					if _, ok := values[text]; !ok {
						values[text] = len(names)
						names = append(names, text)
					}
				}
			}
		}
	}
	c.values = newNameSet(names)
	c.byValue = make([][]int32, len(names))
	c.other, c.foreign, c.absent = []int32{}, []int32{}, []int32{}
	for i := range c.byValue {
		c.byValue[i] = []int32{}
	}
	for _, i := range c.byKind[isObject] {
		p := told[i]
		if p == nil {
			for k := range c.byValue {
				c.byValue[k] = append(c.byValue[k], i)
			}
			c.other, c.foreign, c.absent = append(c.other, i), append(c.foreign, i), append(c.absent, i)
			continue
		}
		for _, text := range p.tells() {
			c.byValue[values[text]] = append(c.byValue[values[text]], i)
		}
		if p.needed == nil {
			c.absent = append(c.absent, i)
		}
	}
	sum := 0
	for _, list := range c.byValue {
		sum += len(list)
	}
	return float64(sum) / float64(len(names))
}

// choose joins the rest of a step with each branch of its choice, so that one pass is enough.
func (c *compiler) choose(s *step, flat []part) {
	for k := range s.looks {
		l := &s.looks[k]
		if l.choice == nil {
			continue
		}
		rest := slices.Clone(flat)
		for i := range rest {
			if rest[i].n == l.node {
				if l.kind == lookAny {
					rest[i].drop |= dropAny
				} else {
					rest[i].drop |= dropOne
				}
			}
		}
		l.choice.joined = make([]*step, len(l.branches))
		for i, n := range l.nodes() {
			if c.budget--; c.budget < 0 {
				break
			}
			l.choice.joined[i] = c.join(append(slices.Clone(rest), part{n: n})...)
		}
		s.choice = l.choice
		// The look of the choice comes first, so that its candidates are found only once.
		s.looks[0], s.looks[k] = s.looks[k], s.looks[0]
		return
	}
}

// next returns the steps that a step leads to.
func (s *step) next(yield func(*step)) {
	each := func(list ...*step) {
		for _, t := range list {
			if t != nil {
				yield(t)
			}
		}
	}
	if r := s.obj; r != nil {
		for i := range r.props {
			each(r.props[i].step)
			each(r.props[i].more...)
		}
		for i := range r.groups {
			each(r.groups[i].step)
			for k := range r.groups[i].pats {
				each(r.groups[i].pats[k].step)
			}
		}
		each(r.names...)
	}
	if r := s.arr; r != nil {
		each(r.rest.step)
		each(r.rest.more...)
		for i := range r.prefix {
			each(r.prefix[i].step)
			each(r.prefix[i].more...)
		}
	}
	for i := range s.looks {
		l := &s.looks[i]
		each(l.step, l.then, l.els, l.props, l.items)
		for k := range l.branches {
			each(l.branches[k].step)
		}
	}
	if s.choice != nil {
		each(s.choice.joined...)
	}
}

// endless reports whether a step leads back to itself for the same value.
func (c *compiler) endless() bool {
	const open, closed = 1, 2
	state := make([]uint8, len(c.steps))
	var visit func(s *step) bool
	visit = func(s *step) bool {
		if s == nil || s == anything || state[s.id] == closed {
			return false
		}
		if state[s.id] == open {
			return true
		}
		state[s.id] = open
		if s.choice != nil && slices.ContainsFunc(s.choice.joined, visit) {
			return true
		}
		for i := range s.looks {
			l := &s.looks[i]
			if l.kind != lookContains && visit(l.step) || visit(l.then) || visit(l.els) ||
				slices.ContainsFunc(l.branches, func(b branch) bool { return visit(b.step) }) {
				return true
			}
		}
		state[s.id] = closed
		return false
	}
	return slices.ContainsFunc(c.steps, visit)
}

// recursion marks the steps that have looks and are reached from within themselves (Tarjan's strongly connected
// components). Their verdicts are kept. Otherwise each level of a message would multiply the work of the next.
func (c *compiler) recursion() {
	n := len(c.steps)
	index, low, on := make([]int, n), make([]int, n), make([]bool, n)
	var stack []*step
	count := 0
	var visit func(s *step)
	visit = func(s *step) {
		count++
		index[s.id], low[s.id], on[s.id] = count, count, true
		stack = append(stack, s)
		self := false
		s.next(func(t *step) {
			switch {
			case t == anything:
			case t == s:
				self = true
			case index[t.id] == 0:
				visit(t)
				low[s.id] = min(low[s.id], low[t.id])
			case on[t.id]:
				low[s.id] = min(low[s.id], index[t.id])
			}
		})
		if low[s.id] != index[s.id] {
			return
		}
		for first := true; ; first = false {
			t := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			on[t.id] = false
			t.memo = len(t.looks) > 0 && (!first || t != s || self)
			if t == s {
				return
			}
		}
	}
	for _, s := range c.steps {
		if index[s.id] == 0 {
			visit(s)
		}
	}
}
