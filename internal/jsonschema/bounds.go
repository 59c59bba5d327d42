package jsonschema

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A place is the schema objects that judge the same value without a choice: a schema object and those that its $ref and
// its allOf lead to, in the order of their ids.
type place []*node

// A limit is a keyword and its value, as a fault names them.
type limit struct {
	node    *node
	keyword string
	value   string
}

// A bounds finds keywords that contradict each other, at the root of a schema and at the places that a value cannot avoid.
// These are the values of required names and the items of arrays.
type bounds struct {
	b        *builder
	links    *compiler       // resolves references
	seen     map[string]bool // the places that have been queued
	queue    []place
	budget   int // how many more schema objects may be joined, because places can be many more than schema objects
	reported map[string]bool
}

// contradictions refuses bounds that no value of their type can meet, and required names whose schema is false. A
// contradiction behind a choice, such as in a branch of an anyOf, is no fault. Nor is one of an optional property.
func (b *builder) contradictions() {
	c := &bounds{b: b, links: &compiler{prog: b.prog}, seen: map[string]bool{}, reported: map[string]bool{}, budget: 1<<16 + 64*len(b.prog.nodes)}
	c.add([]*node{b.prog.root})
	for len(c.queue) > 0 {
		p := c.queue[0]
		c.queue = c.queue[1:]
		c.check(p)
	}
}

// add queues the place that the schema objects make together.
func (c *bounds) add(nodes []*node) {
	if len(nodes) == 0 || c.budget < 0 {
		return
	}
	p := c.place(nodes)
	c.budget -= len(p)
	var key strings.Builder
	for _, n := range p {
		fmt.Fprintf(&key, "%d ", n.id)
	}
	if c.seen[key.String()] {
		return
	}
	c.seen[key.String()] = true
	c.queue = append(c.queue, p)
}

func (c *bounds) place(nodes []*node) place {
	in := map[*node]bool{}
	var p place
	var add func(n *node)
	add = func(n *node) {
		if in[n] {
			return
		}
		in[n] = true
		p = append(p, n)
		if !c.b.prog.context {
			for _, next := range c.links.inPlace(n) {
				add(next)
			}
			return
		}
		// Where a dynamic reference leads depends on the way to it.
		if n.ref != nil {
			add(n.ref)
		}
		for _, next := range n.allOf {
			add(next)
		}
	}
	for _, n := range nodes {
		add(n)
	}
	slices.SortFunc(p, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	return p
}

// check judges a place and queues the places of the members and items that it leads to. Keywords for a type that the place
// refuses say nothing there.
func (c *bounds) check(p place) {
	kinds, integer := uint8(allKinds), false
	for _, n := range p {
		if n.types != 0 {
			kinds &= n.types
		}
		integer = integer || n.integer
	}
	if kinds&(1<<isNumber) != 0 {
		c.numbers(p, integer)
	}
	if kinds&(1<<isString) != 0 {
		c.counts(p, "string", "minLength", "maxLength", func(n *node) (low, high int) { return n.minLen, n.maxLen })
	}
	if kinds&(1<<isArray) != 0 {
		c.counts(p, "array", "minItems", "maxItems", func(n *node) (low, high int) { return n.minItems, n.maxItems })
		c.items(p)
	}
	if kinds&(1<<isObject) != 0 {
		c.counts(p, "object", "minProperties", "maxProperties", func(n *node) (low, high int) { return n.minProps, n.maxProps })
		c.members(p)
	}
}

// counts compares the largest lower bound of a family that counts with the smallest upper bound.
func (c *bounds) counts(p place, kind, least, most string, of func(n *node) (low, high int)) {
	var from, to *node
	low, high := -1, -1
	for _, n := range p {
		l, h := of(n)
		if l > low {
			low, from = l, n
		}
		if h >= 0 && (high < 0 || h < high) {
			high, to = h, n
		}
	}
	if from != nil && to != nil && low > high {
		c.fault(kind, limit{from, least, itoa(low)}, limit{to, most, itoa(high)})
	}
}

// items queues the places of the items, and compares minItems with the number of items that uniqueItems and an enum allow.
func (c *bounds) items(p place) {
	most, unique, least := 0, (*node)(nil), (*node)(nil)
	for _, n := range p {
		most = max(most, len(n.prefix))
		if n.unique && unique == nil {
			unique = n
		}
		if least == nil || n.minItems > least.minItems {
			least = n
		}
	}
	for i := range most + 1 {
		var nodes []*node
		for _, n := range p {
			switch {
			case i < len(n.prefix):
				nodes = append(nodes, n.prefix[i])
			case n.rest == extraSchema:
				nodes = append(nodes, n.restItems)
			}
		}
		c.add(nodes)
		if most > 0 || unique == nil {
			continue
		}
		for _, n := range c.place(nodes) {
			if n.enum == nil {
				continue
			}
			if count := n.enum.distinct(); least.minItems > count {
				c.fault("array", limit{least, "minItems", itoa(least.minItems)}, limit{unique, "uniqueItems", ""}, limit{n, "enum", fmt.Sprintf("of %d values", count)})
				return
			}
		}
	}
}

// distinct returns how many different values the set has.
func (s *valueSet) distinct() int {
	count := 0
	for _, list := range s.byHash {
		for i := range list {
			again := slices.ContainsFunc(list[:i], func(v int32) bool { return s.tree.same(list[i], &s.tree, v, func(int) {}) })
			if !again {
				count++
			}
		}
	}
	return count
}

// members queues the places of the required names. It refuses required names that are too many or whose schema is false.
func (c *bounds) members(p place) {
	required := map[string]*node{} // by the name, the schema object that requires it
	var first, most *node
	for _, n := range p {
		if n.maxProps >= 0 && (most == nil || n.maxProps < most.maxProps) {
			most = n
		}
		for _, k := range sortedNames(n.names) {
			if n.names[k].required && required[k] == nil {
				required[k] = n
				first = cmp.Or(first, n)
			}
		}
	}
	if most != nil && len(required) > most.maxProps {
		c.fault("object", limit{first, "required", fmt.Sprintf("of %d names", len(required))}, limit{most, "maxProperties", itoa(most.maxProps)})
	}
	for _, k := range sortedNames(required) {
		c.member(p, k, required[k])
	}
}

func (c *bounds) member(p place, name string, by *node) {
	var nodes []*node
	for _, n := range p {
		declared := len(nodes)
		if m := n.names[name].node; m != nil {
			nodes = append(nodes, m)
		}
		for _, pp := range n.patternProps {
			if pp.matches(name) {
				nodes = append(nodes, pp.node)
			}
		}
		for _, m := range nodes[declared:] {
			if never(m) {
				c.report(m, "", fmt.Sprintf("no object is valid, because the name %q is required by %s and its schema is false", bound(name), by.location("required")))
			}
		}
		if len(nodes) == declared && n.extra == extraSchema {
			nodes = append(nodes, n.extraProps)
		}
	}
	c.add(nodes)
}

// never reports whether a schema is false, or a reference to one that is.
func never(n *node) bool {
	for n.ref != nil {
		n = n.ref
	}
	return n.always < 0
}

// fault reports limits that contradict each other. Its place is that of the first.
func (c *bounds) fault(kind string, limits ...limit) {
	var text []string
	for i, l := range limits {
		s := strings.TrimRight(l.keyword+" "+l.value, " ")
		if i > 0 && l.node != limits[0].node {
			s += " at " + l.node.location(l.keyword)
		}
		text = append(text, s)
	}
	last := len(text) - 1
	if len(text) > 8 {
		text = append(text[:6], ellipsis, text[last])
		last = len(text) - 1
	}
	c.report(limits[0].node, limits[0].keyword, fmt.Sprintf("no %s can meet %s and %s", kind, strings.Join(text[:last], ", "), text[last]))
}

func (c *bounds) report(n *node, keyword, reason string) {
	key := fmt.Sprint(n.id, keyword, reason)
	if c.reported[key] || len(c.b.l.faults) >= 64 {
		return
	}
	c.reported[key] = true
	resource, at := "", ""
	for s, m := range c.b.byV5 {
		if m == n {
			resource, at = locate(s.Location)
			break
		}
	}
	for _, d := range c.b.l.docs {
		if d.url == resource || d.key == resource {
			resource = d.name()
			break
		}
	}
	if keyword != "" {
		at += "/" + keyword
	}
	c.b.l.faults = append(c.b.l.faults, &SchemaFault{resource, sanitise(at), reason})
}
