package jsonschema

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// A node is one schema object. It is made from v5's once and never changed afterwards, and it stays close to v5's tree. The
// engine over raw bytes is compiled from nodes. The evaluator walks the nodes that the engine cannot judge.
type node struct {
	id     int
	loc    string // its place in the schema, for errors
	always int8   // 1: it accepts everything; -1: it accepts nothing; 0: the other fields say what it accepts
	memo   bool   // a reference leads back to it from within, so its verdicts are kept

	types    uint8 // bits of the valueKinds that it accepts; 0: all
	integer  bool  // it accepts no number that is not an integer
	constant *valueSet
	enum     *valueSet

	// Keywords for strings.
	minLen, maxLen int // -1: none
	pattern        *pattern
	format         *format
	base64, json   bool // contentEncoding and contentMediaType, if Options.AssertContent is set

	// Keywords for numbers.
	min, max, exMin, exMax, multipleOf *decimal
	numeric                            *numericFormat

	// Keywords for objects.
	object             bool
	minProps, maxProps int // -1: none
	names              map[string]name
	required           int
	patternProps       []patternProp
	extra              extra // what happens to members that neither a name nor a pattern covers
	extraProps         *node
	propertyNames      *node
	regexNames         bool
	depends            []depend

	// Keywords for arrays.
	array              bool
	minItems, maxItems int // -1: none
	unique             bool
	prefix             []*node
	rest               extra
	restItems          *node
	contains           *node
	minContains        int
	maxContains        int // -1: none
	containsMarks      bool

	// Keywords that judge the same value again.
	ref, not, ifs, then, els *node
	allOf, anyOf, oneOf      []*node
	recursiveRef             *node
	dynamicRef               *node
	dynamicName              string // the anchor that $dynamicRef looks for; "": it is a plain reference

	unevaluatedProps, unevaluatedItems *node

	res *schemaResource
}

type extra uint8

const (
	extraUnsaid extra = iota // the member is accepted, and not evaluated
	extraAllowed
	extraDenied
	extraSchema
)

type name struct {
	node     *node // judges the member; nil: the member is only required
	required bool
}

type patternProp struct {
	*pattern
	node *node
}

// A depend says what an object with a member must fulfil.
type depend struct {
	name     string
	keyword  string
	required []string
	node     *node
}

// A valueSet reports whether a value is one of those of an enum. The time does not depend on how many values there are.
type valueSet struct {
	tree   tree
	byHash map[uint64][]int32
	kinds  uint8
}

func newValueSet(values []any) *valueSet {
	s := &valueSet{byHash: map[uint64][]int32{}}
	for _, v := range values {
		i := s.tree.graft(v)
		h := s.tree.hashOf(i, func(int) {})
		s.byHash[h] = append(s.byHash[h], i)
		s.kinds |= 1 << s.tree.vals[i].kind
	}
	return s
}

// A schemaResource is a document, or a part of one that has an $id of its own. Dynamic references distinguish resources.
type schemaResource struct {
	id        int
	dynamic   map[string]*node // the nodes by their $dynamicAnchor
	recursive *node            // the root of the resource, if it has $recursiveAnchor: true; nil otherwise
}

type program struct {
	root      *node
	nodes     []*node
	resources []*schemaResource
	dynamic   bool     // there are references that depend on the way to them
	folds     []*folds // by node; nil: variants of names are not refused
	context   bool     // dynamic, and the way makes a difference because there are several resources
}

// A source is attached to every node that v5 compiles. It has the parts of the schema that v5 does not export.
type source struct{ keywords map[string]any }

func (source) Validate(v5.ValidationContext, any) error { return nil }

type sources struct{}

const extensionName = "wsguard"

func (sources) Compile(_ v5.CompilerContext, m map[string]any) (v5.ExtSchema, error) {
	return source{m}, nil
}

type builder struct {
	l       *linter
	c       *v5.Compiler
	prog    *program
	byV5    map[*v5.Schema]*node
	byRes   map[position]*schemaResource
	touched map[string]bool // URLs of documents that the program reaches
	onPath  map[*node]bool
	rootURL string
}

// locate normalises a location of v5, whose fragment is percent-encoded.
func locate(loc string) (base, pointer string) {
	u, frag, _ := strings.Cut(loc, "#")
	if p, err := url.PathUnescape(frag); err == nil {
		frag = p
	}
	return u, frag
}

func (b *builder) resourceOf(s *v5.Schema) (*schemaResource, bool) {
	u, at := locate(b.l.unmask(s.Location))
	b.touched[u] = true
	pos, own := u+"#", at == ""
	for p := at; ; p = p[:strings.LastIndexByte(p, '/')] {
		if res, ok := b.l.resource[u+"#"+p]; ok {
			pos, own = res, res == u+"#"+at
			break
		}
		if p == "" {
			break
		}
	}
	r := b.byRes[pos]
	if r == nil {
		r = &schemaResource{id: len(b.prog.resources), dynamic: map[string]*node{}}
		b.byRes[pos] = r
		b.prog.resources = append(b.prog.resources, r)
	}
	return r, own
}

func kindsOf(types []string) (bits uint8, integer bool) {
	integer = true
	for _, t := range types {
		switch t {
		case "null":
			bits |= 1 << isNull
		case "boolean":
			bits |= 1<<isFalse | 1<<isTrue
		case "number":
			bits |= 1 << isNumber
			integer = false
		case "integer":
			bits |= 1 << isNumber
		case "string":
			bits |= 1 << isString
		case "array":
			bits |= 1 << isArray
		case "object":
			bits |= 1 << isObject
		}
	}
	return bits, integer && bits&(1<<isNumber) != 0
}

// node turns a schema of v5 into a node, once.
func (b *builder) node(s *v5.Schema) *node {
	if s == nil {
		return nil
	}
	if n := b.byV5[s]; n != nil {
		if b.onPath[n] {
			n.memo = true
		}
		return n
	}
	loc := b.l.unmask(s.Location)
	if rest, ok := strings.CutPrefix(loc, b.rootURL); ok && strings.HasPrefix(rest, "#") {
		loc = rest
	}
	loc = strings.TrimPrefix(loc, filesURL)
	n := &node{id: len(b.prog.nodes), loc: sanitise(loc), minLen: -1, maxLen: -1, minProps: -1, maxProps: -1, minItems: -1, maxItems: -1,
		maxContains: -1}
	b.byV5[s] = n
	b.prog.nodes = append(b.prog.nodes, n)
	b.onPath[n] = true
	defer delete(b.onPath, n)
	var own bool
	n.res, own = b.resourceOf(s)
	if s.Always != nil {
		n.always = -1
		if *s.Always {
			n.always = 1
		}
		return n
	}
	src, sourced := s.Extensions[extensionName].(source)
	if s.DynamicAnchor != "" && n.res.dynamic[s.DynamicAnchor] == nil {
		n.res.dynamic[s.DynamicAnchor] = n
	}
	if s.RecursiveAnchor && own {
		n.res.recursive = n
	}

	if len(s.Types) > 0 {
		n.types, n.integer = kindsOf(s.Types)
	}
	b.l.vocab.widen(n, s, src.keywords)
	if len(s.Constant) > 0 {
		n.constant = newValueSet(s.Constant[:1])
	}
	if len(s.Enum) > 0 {
		n.enum = newValueSet(s.Enum)
	}
	b.strings(n, s, sourced)
	n.min, n.max = decimalOf(s.Minimum), decimalOf(s.Maximum)
	n.exMin, n.exMax, n.multipleOf = decimalOf(s.ExclusiveMinimum), decimalOf(s.ExclusiveMaximum), decimalOf(s.MultipleOf)
	b.objects(n, s)
	b.arrays(n, s)

	n.ref, n.not = b.node(s.Ref), b.node(s.Not)
	n.ifs, n.then, n.els = b.node(s.If), b.node(s.Then), b.node(s.Else)
	n.allOf, n.anyOf, n.oneOf = b.list(s.AllOf), b.list(s.AnyOf), b.list(s.OneOf)
	if n.recursiveRef = b.node(s.RecursiveRef); n.recursiveRef != nil {
		b.prog.dynamic = true
	}
	if n.dynamicRef = b.node(s.DynamicRef); n.dynamicRef != nil {
		text := "#" + s.DynamicRef.DynamicAnchor
		if sourced {
			text, _ = src.keywords["$dynamicRef"].(string)
		}
		if _, frag, _ := strings.Cut(text, "#"); frag != "" && frag[0] != '/' && frag == s.DynamicRef.DynamicAnchor {
			n.dynamicName = frag
			b.prog.dynamic = true
		}
	}
	n.unevaluatedProps, n.unevaluatedItems = b.node(s.UnevaluatedProperties), b.node(s.UnevaluatedItems)
	return n
}

func (b *builder) list(schemas []*v5.Schema) []*node {
	nodes := make([]*node, len(schemas))
	for i, s := range schemas {
		nodes[i] = b.node(s)
	}
	return nodes
}

func (b *builder) strings(n *node, s *v5.Schema, sourced bool) {
	n.minLen, n.maxLen = s.MinLength, s.MaxLength
	n.pattern = b.pattern(s.Location, s.Pattern)
	if s.Format != "" && b.assertsFormat(s, sourced) {
		b.l.vocab.annotated(n, s.Format)
	}
	if b.l.opt.AssertContent {
		n.base64 = s.ContentEncoding == "base64"
		// A content type is not checked if the content has an encoding that is not decoded.
		n.json = s.ContentMediaType == "application/json" && (n.base64 || s.ContentEncoding == "")
	}
}

func (b *builder) assertsFormat(s *v5.Schema, sourced bool) bool {
	if !b.l.opt.AnnotateFormat || !sourced { // the metaschemas of v5 assert formats
		return true
	}
	if s.Draft != v5.Draft2019 && s.Draft != v5.Draft2020 {
		return true
	}
	u, _ := locate(s.Location)
	for _, d := range b.l.docs {
		if d.url == u {
			return d.assertsFormat
		}
	}
	return false
}

func decodes(content []byte, asBase64, asJSON bool) bool {
	if asBase64 {
		text := content
		content = make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Decode(content, text)
		if err != nil {
			return false
		}
		content = content[:n]
	}
	return !asJSON || json.Valid(content)
}

func (b *builder) objects(n *node, s *v5.Schema) {
	n.minProps, n.maxProps = s.MinProperties, s.MaxProperties
	if len(s.Properties)+len(s.Required) > 0 {
		n.names = map[string]name{}
	}
	for _, k := range sortedNames(s.Properties) {
		n.names[k] = name{node: b.node(s.Properties[k])}
	}
	for _, k := range s.Required {
		p := n.names[k]
		if !p.required {
			n.required++
		}
		p.required = true
		n.names[k] = p
	}
	for re, sub := range s.PatternProperties {
		if p := b.pattern(s.Location, re); p != nil {
			n.patternProps = append(n.patternProps, patternProp{p, b.node(sub)})
		}
	}
	slices.SortFunc(n.patternProps, func(a, b patternProp) int { return strings.Compare(a.text, b.text) })
	n.extra, n.extraProps = b.extra(s.AdditionalProperties)
	n.propertyNames, n.regexNames = b.node(s.PropertyNames), s.RegexProperties
	for _, k := range sortedNames(s.Dependencies) {
		switch v := s.Dependencies[k].(type) {
		case []string:
			n.depends = append(n.depends, depend{name: k, keyword: "dependencies", required: v})
		case *v5.Schema:
			n.depends = append(n.depends, depend{name: k, keyword: "dependencies", node: b.node(v)})
		}
	}
	for _, k := range sortedNames(s.DependentRequired) {
		n.depends = append(n.depends, depend{name: k, keyword: "dependentRequired", required: s.DependentRequired[k]})
	}
	for _, k := range sortedNames(s.DependentSchemas) {
		n.depends = append(n.depends, depend{name: k, keyword: "dependentSchemas", node: b.node(s.DependentSchemas[k])})
	}
	n.object = n.names != nil || n.minProps >= 0 || n.maxProps >= 0 || len(n.patternProps) > 0 || n.extra != extraUnsaid ||
		n.propertyNames != nil || n.regexNames || len(n.depends) > 0
}

func (b *builder) extra(v any) (extra, *node) {
	switch v := v.(type) {
	case bool:
		if v {
			return extraAllowed, nil
		}
		return extraDenied, nil
	case *v5.Schema:
		return extraSchema, b.node(v)
	}
	return extraUnsaid, nil
}

func (b *builder) arrays(n *node, s *v5.Schema) {
	n.minItems, n.maxItems, n.unique = s.MinItems, s.MaxItems, s.UniqueItems
	switch items := s.Items.(type) {
	case *v5.Schema:
		n.rest, n.restItems = extraSchema, b.node(items)
	case []*v5.Schema:
		n.prefix = b.list(items)
		n.rest, n.restItems = b.extra(s.AdditionalItems)
	}
	if s.Items == nil {
		n.prefix = b.list(s.PrefixItems)
		if s.Items2020 != nil {
			n.rest, n.restItems = extraSchema, b.node(s.Items2020)
		}
	}
	if s.MinContains != -1 || s.MaxContains != -1 {
		n.contains, n.minContains, n.maxContains, n.containsMarks = b.node(s.Contains), s.MinContains, s.MaxContains, s.ContainsEval
	}
	n.array = n.minItems >= 0 || n.maxItems >= 0 || n.unique || len(n.prefix) > 0 || n.rest != extraUnsaid || n.contains != nil
}

func sortedNames[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// anchors compiles the nodes to which only a dynamic reference leads, until there are no new ones.
func (b *builder) anchors() error {
	for done := map[anchor]bool{}; b.prog.dynamic; {
		found := false
		for _, a := range b.l.anchors {
			if done[a] || !b.touched[a.doc.url] {
				continue
			}
			done[a], found = true, true
			s, err := b.c.Compile(a.doc.key + "#" + escapePointer(b.l.maskPointer(a.doc, "", a.at)))
			if err != nil {
				return err
			}
			b.node(s)
		}
		if !found {
			return nil
		}
	}
	return nil
}

// escapePointer writes a pointer as v5 writes it in a fragment.
func escapePointer(at string) string {
	parts := strings.Split(at, "/")
	for i, p := range parts {
		if !strings.HasPrefix(p, "$") { // v5 escapes names but no keywords, and PathEscape escapes no $
			parts[i] = url.PathEscape(p)
		}
	}
	return strings.Join(parts, "/")
}

// again returns the nodes to which n passes the same value.
func (n *node) again(yield func(*node)) {
	each := func(list ...*node) {
		for _, c := range list {
			if c != nil {
				yield(c)
			}
		}
	}
	each(n.ref, n.recursiveRef, n.dynamicRef, n.not, n.ifs, n.then, n.els)
	each(n.allOf...)
	each(n.anyOf...)
	each(n.oneOf...)
	for i := range n.depends {
		each(n.depends[i].node)
	}
}

// loop returns a node that leads back to itself for the same value, or nil. v5 finds most of these nodes, but not all.
func (p *program) loop() *node {
	const open, closed = 1, 2
	state := make([]uint8, len(p.nodes))
	var found *node
	var visit func(n *node)
	visit = func(n *node) {
		state[n.id] = open
		n.again(func(c *node) {
			switch state[c.id] {
			case 0:
				visit(c)
			case open:
				found = c
			}
		})
		state[n.id] = closed
	}
	for _, n := range p.nodes {
		if state[n.id] == 0 && found == nil {
			visit(n)
		}
	}
	return found
}
