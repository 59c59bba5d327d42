package jsonschema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// A SchemaFault is one fault of a schema. Compile joins all faults that it finds.
type SchemaFault struct {
	Resource string // the URL of the resource, "" for the schema itself
	Pointer  string // the JSON pointer to the place in the resource
	Reason   string
}

func (f *SchemaFault) Error() string {
	return fmt.Sprintf("schema %s#%s: %s", f.Resource, f.Pointer, f.Reason)
}

// rootURL is the base of a schema without an $id. Nothing else uses the scheme, so that no relative reference leads to a
// file.
const rootURL = filesURL + "root"

// filesURL is the base of the files, as long as the schema has no other base.
const filesURL = FileScheme + ":///"

// FileScheme is the scheme of the URLs of files.
const FileScheme = "wsguard-schema"

// A document is a schema's source, or that of a resource.
type document struct {
	key     string // the URL under which it was given
	url     string // its $id, or key if it has none
	raw     []byte
	doc     any
	dialect *dialect
	changed bool // doc differs from raw
	custom  bool // its $schema is a resource, and not one of the five dialects
	// assertsFormat says that a custom metaschema has the vocabulary format-assertion.
	assertsFormat bool
}

// name returns the name of the document in faults.
func (d *document) name() string {
	if d.key == rootURL {
		return ""
	}
	return strings.TrimPrefix(d.key, filesURL)
}

// A position is the place of a schema in a document, as "URL#pointer". The pointer is not percent-encoded.
type position = string

type linter struct {
	opt    *Options
	vocab  *vocabulary
	docs   []*document // the first is the schema itself
	faults []error
	fatal  bool // v5 must not see these sources

	resource map[position]position // the schema resource of each position, which is that of the nearest $id
	bases    map[string]bool       // the URIs of all documents and of all $ids
	homes    map[string]anchor     // the places of all documents and of all schemas with an $id, by their URIs
	anchors  []anchor
	refs     []reference
	patterns map[string]compiledPattern
	masks    masks
}

// An anchor is a place that a dynamic reference may lead to.
type anchor struct {
	doc *document
	at  string // the JSON pointer to the place
}

type reference struct {
	doc  *document
	at   string
	base string
	ref  string
}

func (l *linter) fault(d *document, at, format string, a ...any) {
	l.faults = append(l.faults, &SchemaFault{d.name(), sanitise(at), fmt.Sprintf(format, a...)})
}

// fatally reports a fault because of which v5 must not see the schema.
func (l *linter) fatally(d *document, at, format string, a ...any) {
	l.fatal = true
	l.fault(d, at, format, a...)
}

// schemaLimits has the limits of a schema's source. They are wide, because the application has chosen the schema.
var schemaLimits = Limits{Depth: 256, Keys: -1, KeyBytes: 4096, NumberBytes: -1, Exponent: -1}

// read checks that raw is strict JSON and a schema of a known dialect.
func (l *linter) read(key string, raw []byte, def *dialect) *document {
	d := &document{key: key, url: key, raw: raw, dialect: def}
	l.docs = append(l.docs, d)
	if err := Scan(raw, &schemaLimits); err != nil {
		e := err.(*Error)
		line := 1 + bytes.Count(raw[:e.Offset], []byte("\n"))
		l.fatally(d, "", "not strict JSON: %s at byte %d, line %d", e.Token, e.Offset, line)
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&d.doc); err != nil {
		l.fatally(d, "", "not JSON: %v", err)
		return nil
	}
	l.numbers(d, d.doc, "")
	m, ok := d.doc.(map[string]any)
	if !ok {
		if _, ok := d.doc.(bool); !ok || d.dialect.draft == v5.Draft4 {
			l.fatally(d, "", "a schema is an object (or, from draft 6 on, a boolean)")
		}
		return d
	}
	if s, ok := m["$schema"]; ok {
		uri, ok := s.(string)
		if known := dialectOf(uri); known != nil {
			d.dialect = known
		} else if !ok || !l.opt.AllowMetaschemas {
			l.fatally(d, "/$schema", "unknown dialect %q; known are draft-04, draft-06, draft-07, 2019-09 and 2020-12 of json-schema.org", bound(fmt.Sprint(s)))
			return nil
		} else {
			d.custom = true
		}
	}
	_, lone := m["$ref"]
	if id, ok := m[d.dialect.id].(string); ok && !(lone && d.dialect.loneRef) {
		if u := resolve(d.url, withoutFragment(id)); u != "" {
			d.url = u
		}
	}
	return d
}

// adopt finds the dialect of a document that has a metaschema of its own.
func (l *linter) adopt(d *document) {
	uri := d.doc.(map[string]any)["$schema"].(string)
	for hops := 0; hops < 16; hops++ {
		meta := l.byKey(withoutFragment(uri))
		if meta == nil {
			break
		}
		m, _ := meta.doc.(map[string]any)
		if vocabulary, ok := m["$vocabulary"].(map[string]any); ok && hops == 0 {
			_, d.assertsFormat = vocabulary["https://json-schema.org/draft/2020-12/vocab/format-assertion"]
		}
		uri, _ = m["$schema"].(string)
		if known := dialectOf(uri); known != nil {
			d.dialect = known
			return
		}
	}
	l.fatally(d, "/$schema", "its metaschema leads to no known dialect")
}

func (l *linter) byKey(key string) *document {
	for _, d := range l.docs {
		if d.key == key {
			return d
		}
	}
	return nil
}

// numbers refuses numbers that v5 drops, misreads or panics at, in any place.
func (l *linter) numbers(d *document, v any, at string) {
	switch v := v.(type) {
	case json.Number:
		def := DefaultLimits()
		if Scan([]byte(v), &def) != nil {
			l.fatally(d, at, "number beyond %d characters or an exponent of %d", def.NumberBytes, def.Exponent)
		}
	case []any:
		for i, e := range v {
			l.numbers(d, e, at+"/"+strconv.Itoa(i))
		}
	case map[string]any:
		for _, k := range sortedNames(v) {
			l.numbers(d, v[k], at+"/"+token(k))
		}
	}
}

// maxCount is the largest count that a schema may have. Every JSON reader holds integers up to 2^53 exactly. v5 converts a
// count to int, which would turn a large count into a small or negative number on a 32-bit platform.
const maxCount = min(1<<53, math.MaxInt)

// schema walks one schema. base is its base URI, res the position of the schema resource around it.
func (l *linter) schema(d *document, v any, at, base string, res position) {
	m, ok := v.(map[string]any)
	if !ok {
		l.resource[d.url+"#"+at] = res
		return // it is a boolean, or the metaschema refuses it
	}
	lone := false
	if d.dialect.loneRef {
		_, lone = m["$ref"]
	}
	if id, ok := m[d.dialect.id].(string); ok && !lone {
		if u := withoutFragment(id); u != "" {
			if base = resolve(base, u); at != "" {
				res = d.url + "#" + at
			}
			l.bases[base] = true
			if _, ok := l.homes[base]; !ok {
				l.homes[base] = anchor{d, at}
			}
		}
	}
	l.resource[d.url+"#"+at] = res
	if _, ok := m["$dynamicAnchor"].(string); ok {
		l.anchors = append(l.anchors, anchor{d, at})
	} else if b, ok := m["$recursiveAnchor"].(bool); ok && b {
		l.anchors = append(l.anchors, anchor{d, at})
	}
	for _, k := range sortedNames(m) {
		l.keyword(d, m, k, at, base, res, lone)
	}
}

func (l *linter) keyword(d *document, m map[string]any, k, at, base string, res position, lone bool) {
	here := at + "/" + token(k)
	kind, known := d.dialect.keywords[k]
	if !known {
		if l.vocab.nullable && k == "nullable" {
			l.nullable(d, m, here)
		} else if !l.opt.AllowUnknownKeywords && !l.vocab.silentWord(k) {
			l.fault(d, here, "unknown keyword in %s%s; a word that says nothing starts with x- or is named in SchemaConfig.Annotations",
				d.dialect.name, hint(k, d.dialect.nearest(k), presetsWithWord(k)))
		}
		return
	}
	if lone && k != "$ref" && kind != kwNote && kind != kwDefs && !l.opt.AllowUnknownKeywords {
		l.fault(d, here, "%s ignores what stands beside $ref", d.dialect.name)
	}
	v := m[k]
	sub := func(name string, v any) { l.schema(d, v, here+name, base, res) }
	switch kind {
	case kwNote:
		if s, ok := v.(string); ok && k == "$schema" && at != "" && !l.opt.AllowMetaschemas && dialectOf(s) != d.dialect {
			l.fault(d, here, "another dialect than that of the document (%s)", d.dialect.name)
		}
	case kwRef:
		if ref, ok := v.(string); ok {
			l.refs = append(l.refs, reference{d, here, base, ref})
		}
	case kwFormat:
		if s, ok := v.(string); ok && !l.vocab.knows(s) && !l.opt.AllowUnknownFormats {
			l.fault(d, here, "unknown format %q%s; SchemaConfig.Formats adds formats, and SchemaConfig.FormatAnnotations names those that say nothing",
				bound(s), hint(s, l.vocab.nearestFormat(s), presetsWithFormat(s)))
		}
	case kwEnum:
		if e, ok := v.([]any); ok && len(e) == 0 {
			l.fault(d, here, "an empty enum accepts nothing, and much software reads it as everything")
		}
	case kwCount:
		if n, ok := v.(json.Number); ok {
			if p := parseDecimal(nil, string(n)); p.cmp(parseDecimal(nil, strconv.Itoa(maxCount))) > 0 {
				l.fatally(d, here, "a count beyond %d, the smaller of 2^53 and the largest int of this platform", maxCount)
			}
		}
	case kwSchema:
		sub("", v)
	case kwItems:
		if list, ok := v.([]any); ok {
			for i, e := range list {
				sub("/"+strconv.Itoa(i), e)
			}
			break
		}
		sub("", v)
	case kwList:
		if list, ok := v.([]any); ok {
			for i, e := range list {
				sub("/"+strconv.Itoa(i), e)
			}
		}
	case kwPattern:
		if s, ok := v.(string); ok {
			if equal := l.vocab.patterns[s]; equal != "" {
				s = equal
				m[k], d.changed = s, true
			}
			l.pattern(d, here, s)
		}
	case kwSchemaMap, kwPatterns, kwDefs, kwDepends:
		if names, ok := v.(map[string]any); ok {
			for _, name := range sortedNames(names) {
				if kind == kwPatterns {
					l.pattern(d, here+"/"+token(name), name)
				}
				if _, list := names[name].([]any); !list {
					sub("/"+token(name), names[name])
				}
			}
		}
	}
}

// references refuses references that lead out of the given sources. Unlike v5, it reports their places.
func (l *linter) references() {
	for _, r := range l.refs {
		target := resolve(r.base, r.ref)
		u := withoutFragment(target)
		if target == "" {
			l.fatally(r.doc, r.at, "not a URI reference")
		} else if climbs(r.base, r.ref) {
			l.fatally(r.doc, r.at, "%q leads out of the files", bound(r.ref))
		} else if !l.bases[u] && dialectOf(u) == nil && !strings.HasPrefix(u, "https://json-schema.org/draft/20") {
			l.fatally(r.doc, r.at, "leads to %q, which is not among the resources (SchemaConfig.Files and SchemaConfig.Resources); nothing is loaded from a file or the network",
				bound(strings.TrimPrefix(u, filesURL)))
		} else if !l.leads(target) {
			l.fatally(r.doc, r.at, "leads to %q, where nothing is", bound(r.ref))
		}
	}
}

// leads reports whether a JSON pointer into one of the documents leads to something. v5 resolves other fragments.
func (l *linter) leads(target string) bool {
	u, at := locate(target)
	if at == "" || at[0] != '/' {
		return true
	}
	for _, d := range l.docs {
		if d.url != u && d.key != u {
			continue
		}
		v := d.doc
		for _, name := range strings.Split(at[1:], "/") {
			name = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
			switch c := v.(type) {
			case map[string]any:
				v = c[name]
			case []any:
				i, err := strconv.Atoi(name)
				if err != nil || i < 0 || i >= len(c) {
					return false
				}
				v = c[i]
			default:
				return false
			}
		}
		return v != nil
	}
	return true
}

// token escapes a name for a JSON pointer.
func token(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// hint says what may be meant by an unknown word: another word that is spelled nearly like it, or a word of presets.
func hint(word, nearest string, presets []string) string {
	text := ""
	if nearest != "" && (len(presets) == 0 || editDistance(word, nearest, 2) == 1) {
		text = fmt.Sprintf("; did you mean %q?", nearest)
	}
	if len(presets) > 0 {
		text += "; SchemaConfig.Presets knows it with " + strings.Join(presets, " or ")
	}
	return text
}

// bound shortens the part of a schema that an error quotes.
func bound(s string) string {
	if len(s) > 128 {
		s = s[:128] + ellipsis
	}
	return strings.ToValidUTF8(s, "")
}

func withoutFragment(uri string) string {
	u, _, _ := strings.Cut(uri, "#")
	return u
}

// resolve resolves a reference by RFC 3986 as v5 does. It returns "" if that is not possible.
func resolve(base, ref string) string {
	if strings.HasPrefix(ref, "urn:") {
		return ref
	}
	r, err := url.Parse(ref)
	if err != nil {
		return ""
	}
	if r.IsAbs() {
		return ref
	}
	if strings.HasPrefix(base, "urn:") {
		return withoutFragment(base) + ref
	}
	b, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return b.ResolveReference(r).String()
}
