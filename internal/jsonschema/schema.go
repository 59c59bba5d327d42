package jsonschema

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// Options says how a schema is read. The zero value is the strict reading.
type Options struct {
	// Resources are the further schemas that references may lead to, by absolute URL without a fragment. Nothing else
	// is ever loaded, neither from a file nor from the network.
	Resources map[string][]byte

	// Files are schemas that references may lead to, by URL as FileURL spells it. Unlike Resources, only those to which a
	// reference leads are read.
	Files map[string][]byte

	// IDs has the URLs of files by the absolute $id that they have. A reference may use either.
	IDs map[string]string

	// Base is the URL of the schema itself, which is absolute and has no fragment. "" is a URL that no reference leads out
	// of.
	Base string

	// Presets says which tools have written the schemas.
	Presets Preset

	// Annotations are words that say nothing, besides those of the dialect and those that start with x-. A word that ends
	// with * stands for all words that begin so.
	Annotations []string

	// FormatAnnotations are names of formats that say nothing.
	FormatAnnotations []string

	// Formats are formats of the application, for strings. They also replace formats of the specifications. A panic of one
	// refuses the message with KindInternal.
	Formats map[string]func(string) bool

	// Limits bounds the messages that Validate accepts.
	Limits Limits

	// Fuel bounds what judging one message may cost; see DefaultFuel. 0 means DefaultFuel(len(msg)).
	Fuel int

	// DefaultDialect is the $schema of sources that have none. "" means 2020-12.
	DefaultDialect string

	// RefuseCaseVariants refuses a name that differs only in letter case from one that the object's schema declares.
	// encoding/json compares names without case. So it would write "ADMIN" into the field of "admin", and the schema of
	// "admin" would not have judged that value. A name that any branch of an anyOf or the like declares for the same
	// object is declared, and is accepted as it is.
	RefuseCaseVariants bool

	// AssertContent checks the content of strings, as far as contentEncoding is base64 and contentMediaType is
	// application/json. Otherwise these keywords are annotations. Drafts before 7 do not have them.
	AssertContent bool

	// The following fields accept everything that the specifications allow. They are for the official test suite.

	AnnotateFormat       bool // format checks nothing in 2019-09 and 2020-12, unless the metaschema asserts it
	AllowUnknownKeywords bool // keywords may be unknown, of another draft, or hidden by a $ref
	AllowUnknownFormats  bool // a format may be unknown, and then accepts everything
	AllowMetaschemas     bool // $schema may name one of Resources
}

// DefaultFuel is how much judging a message of n bytes may cost before it is refused with TokenFuel. The one pass that
// every message gets is free. A unit is a branch tried, 16 bytes read again for it, 32 bytes run through a simple
// pattern, fewer through one that needs RE2, or a step of the evaluator.
//
// The base lets a small message run a large schema. The slope is what a large message has in addition. Both are far above
// what ordinary schemas use. Most branches are never tried, a branch that fails ends early, verdicts of recursive steps
// are kept, and the size of an enum costs nothing. A message runs out of fuel if a thousand branches are tried for each of
// thousands of items, or if slow patterns run on long strings. A unit takes 5 to 90 ns. So a message of 32 KiB, which may
// use 2,162,688 units, is judged within about 0.2 s. DefaultFuel is at most maxFuel.
func DefaultFuel(n int) int { return int(min(64<<10+64*int64(n), maxFuel)) }

const (
	// maxFuel is the largest default. Twice as much fits an int, so that a sum of costs cannot overflow.
	maxFuel = math.MaxInt / 4
	// maxCost is where a single cost saturates. It is more than any message has.
	maxCost = math.MaxInt / 2
)

// sixteenths returns the fuel for n bytes at each sixteenths of a unit, and saturates at maxCost. On a 32-bit platform
// the product of a large text and a slow pattern does not fit an int.
func sixteenths(n, each int) int { return int(min(int64(n)*int64(each)/16, maxCost)) }

// A Schema judges messages. It is immutable and safe for concurrent use.
type Schema struct {
	prog   *engine
	limits Limits
	fuel   int
}

// Compile reads a JSON Schema. It refuses everything that would make the schema mean something else than it seems to, or
// that would do harm later:
//   - sources that are not strict JSON, or not valid against their metaschema
//   - unknown dialects, keywords and formats
//   - an empty enum
//   - bounds that no value of their type can meet, such as a minimum above the maximum, and required names whose schema is
//     false (see contradictions)
//   - numbers of more than 64 characters, or with an exponent above 400
//   - references to a schema that is not among Options.Resources, or to something that is no schema
//   - references that lead back to themselves
//
// The error joins one *SchemaFault for each fault.
func Compile(src []byte, opt Options) (s *Schema, err error) {
	l := &linter{opt: &opt, vocab: newVocabulary(&opt), resource: map[position]position{}, bases: map[string]bool{},
		homes: map[string]anchor{}, patterns: map[string]compiledPattern{}}
	// v5 panics at some schemas that its own tests do not cover. A program may compile schemas that others wrote.
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, errors.Join(append(l.faults, &SchemaFault{Reason: bound(fmt.Sprintf("cannot be compiled: %v", r))})...)
		}
	}()
	prog := l.compile(src)
	if len(l.faults) > 0 {
		return nil, errors.Join(l.faults...)
	}
	s = &Schema{limits: opt.Limits.resolve(), fuel: opt.Fuel}
	s.prog = compileEngine(prog, &opt, s.limits)
	s.prog.names = map[string]bool{}
	for _, d := range l.docs {
		s.prog.learn(d.doc)
	}
	return s, nil
}

func (l *linter) compile(src []byte) *program {
	def, base := draft2020, rootURL
	if l.opt.Base != "" {
		base = l.opt.Base
	}
	if l.vocab.openapi == "3.0" {
		def = dialectOf("http://json-schema.org/draft-04/schema") // that of OpenAPI 3.0 adds only what the preset has
	}
	if u := l.opt.DefaultDialect; u != "" {
		if def = dialectOf(u); def == nil {
			l.fatally(&document{key: rootURL}, "", "unknown default dialect %q", bound(u))
			return nil
		}
	}
	root := l.read(base, src, def)
	if root != nil && !root.custom {
		def = root.dialect // a resource that names no dialect is read like the schema that refers to it
	}
	for _, key := range sortedNames(l.opt.Resources) {
		if u, err := url.Parse(key); err != nil || !u.IsAbs() || strings.Contains(key, "#") {
			l.fatally(&document{key: bound(key)}, "", "a resource's URL is absolute and has no fragment")
			continue
		}
		l.read(key, l.opt.Resources[key], def)
	}
	for _, d := range l.docs {
		if d.custom {
			l.adopt(d)
		}
	}
	for _, d := range l.docs {
		l.bases[d.key], l.bases[d.url] = true, true
		l.homes[d.key], l.homes[d.url] = anchor{d, ""}, anchor{d, ""}
	}
	for i := 0; i < len(l.docs); i++ { // references add documents
		d, refs := l.docs[i], len(l.refs)
		l.document(d)
		l.open(l.refs[refs:], def)
	}
	l.check()
	if !l.opt.AllowUnknownKeywords {
		l.references()
	}
	if l.fatal {
		return nil // v5 would panic, hang or report the same faults again
	}
	if root.custom {
		def = root.dialect
	}
	return l.build(root, def)
}

func (l *linter) build(root *document, def *dialect) *program {
	c := v5.NewCompiler()
	c.Draft = def.draft
	c.LoadURL = func(u string) (io.ReadCloser, error) {
		return nil, fmt.Errorf("%s is not among the resources; nothing is loaded from a file or the network", bound(u))
	}
	c.RegisterExtension(extensionName, nil, sources{})
	for _, d := range l.docs {
		src, err := l.forV5(d)
		if err != nil {
			l.fault(d, "", "%s", bound(err.Error()))
			return nil
		}
		for _, u := range l.names(d) {
			if err := c.AddResource(u, strings.NewReader(src)); err != nil {
				l.fault(d, "", "%s", bound(err.Error()))
				return nil
			}
		}
	}
	compiled, err := c.Compile(root.key)
	if err != nil {
		l.fromV5(root, err)
		return nil
	}
	b := &builder{l: l, c: c, prog: &program{}, byV5: map[*v5.Schema]*node{}, byRes: map[position]*schemaResource{},
		touched: map[string]bool{}, onPath: map[*node]bool{}}
	b.rootURL, _, _ = strings.Cut(compiled.Location, "#")
	b.prog.root = b.node(compiled)
	if err := b.anchors(); err != nil {
		l.fromV5(root, err)
		return nil
	}
	if n := b.prog.loop(); n != nil {
		at, _ := strings.CutPrefix(n.loc, "#")
		l.faults = append(l.faults, &SchemaFault{Pointer: at, Reason: "leads back to itself without going into the value: an infinite loop"})
		return nil
	}
	b.schemasOnly()
	b.prog.context = b.prog.dynamic && len(b.prog.resources) > 1
	b.contradictions()
	return b.prog
}

// schemasOnly refuses references into an enum, an example or a map of schemas, because nothing has checked the values
// there.
func (b *builder) schemasOnly() {
	if b.l.opt.AllowUnknownKeywords {
		return
	}
	seen := map[string]bool{}
	for s := range b.byV5 {
		u, at := locate(b.l.unmask(s.Location))
		for _, d := range b.l.docs {
			if _, ok := b.l.resource[u+"#"+at]; d.url == u && !ok && !seen[u+at] {
				seen[u+at] = true
				b.l.fault(d, at, "a reference leads here, and here is no schema")
			}
		}
	}
}

// fromV5 turns an error of v5 into faults, without those that are known already.
func (l *linter) fromV5(root *document, err error) {
	var se *v5.SchemaError
	if errors.As(err, &se) {
		err = se.Err
	}
	var ve *v5.ValidationError
	if !errors.As(err, &ve) {
		if len(l.faults) == 0 {
			text := strings.ReplaceAll(strings.TrimPrefix(l.unmask(err.Error()), "jsonschema: "), rootURL, "")
			text = strings.ReplaceAll(text, filesURL, "")
			l.fault(root, "", "%s", bound(text))
		}
		return
	}
	var leaves []*SchemaFault
	var walk func(e *v5.ValidationError)
	walk = func(e *v5.ValidationError) {
		if len(e.Causes) > 0 {
			for _, c := range e.Causes {
				walk(c)
			}
			return
		}
		_, at := locate("#" + l.unmask(e.InstanceLocation))
		leaves = append(leaves, &SchemaFault{root.name(), sanitise(at), "against the metaschema: " + bound(l.unmask(e.Message))})
	}
	walk(ve)
	slices.SortStableFunc(leaves, func(a, b *SchemaFault) int {
		return strings.Compare(a.Pointer+"\x00"+a.Reason, b.Pointer+"\x00"+b.Reason)
	})
	for i, f := range leaves {
		known := i > 0 && leaves[i-1].Pointer == f.Pointer || slices.ContainsFunc(l.faults, func(err error) bool {
			return err.(*SchemaFault).Pointer == f.Pointer
		})
		if !known && len(l.faults) < 64 {
			l.faults = append(l.faults, f)
		}
	}
}

var evaluators = sync.Pool{New: func() any { return new(evaluator) }}

// Validate returns nil if msg is strict JSON that fits the schema, or an *Error. It makes one pass as far as the schema
// allows. There is one *Error for each place in the schema and each token, so that a caller may keep what it derives from
// one. The error names no place in the message. Explain does. Validate allocates nothing, unless the schema needs the
// evaluator. It panics for no msg.
//
// The error is the first fault in byte order. A fault of syntax at a value comes before a fault of its type. Some faults
// are known only at the end of a value, such as a required name that is missing, or an anyOf of which no branch accepts
// the value. They count as faults at that end. If several branches fail, the fault that lies deepest is reported.
func (s *Schema) Validate(msg []byte) error {
	var v vm
	v.begin(s, msg)
	if s.judge(&v) >= 0 {
		return nil
	}
	return v.fault.err
}

// Explain is like Validate, but its error also says where in the message the fault is.
func (s *Schema) Explain(msg []byte) *Error {
	var v vm
	v.begin(s, msg)
	v.explain = true
	if s.judge(&v) >= 0 {
		return nil
	}
	e := *v.fault.err
	var m more
	if v.fault.more != nil {
		m = *v.fault.more
	}
	switch {
	case e.KeywordLocation != "":
		w := wayTo(msg, int(v.fault.off))
		e.InstancePointer = w.pointer(msg, m.path, nil)
		e.LogPointer = w.pointer(msg, m.logPath, v.prog.names)
		e.Detail = m.detail
	case e.Kind != KindInternal && e.Token != TokenFuel:
		e.Offset = int(v.fault.off)
	}
	return &e
}

// begin sets what judging msg begins with in a vm that is zero. A literal would be built elsewhere and copied.
func (v *vm) begin(s *Schema, msg []byte) {
	v.msg, v.prog, v.limits, v.fuel = msg, s.prog, s.limits, s.fuelFor(msg)
	v.protos, v.controls = s.limits.RefusePrototypeKeys, s.limits.RefuseControls
}

func (s *Schema) fuelFor(msg []byte) int {
	if s.fuel > 0 {
		return s.fuel
	}
	return DefaultFuel(len(msg))
}

func (s *Schema) judge(v *vm) (r int) {
	done := false
	defer func() {
		if !done && recover() != nil {
			r = v.stop(faultPanic, 0) // the memory that was in use is not used again
		}
	}()
	r = v.run(s.prog.root)
	if v.sc != nil {
		v.release()
	}
	done = true
	return r
}
