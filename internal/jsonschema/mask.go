package jsonschema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// v5 compiles each pattern by itself, and panics at one that is no regular expression of RE2. So it gets a mask in place
// of such a pattern. No schema has a mask as a pattern, because ECMA-262 refuses it.
type masks struct {
	of   map[string]string // the masks by pattern
	text map[string]string // the patterns by mask
}

func (m *masks) add(text string) {
	if _, err := regexp.Compile(text); err == nil || m.of[text] != "" {
		return
	}
	if m.of == nil {
		m.of, m.text = map[string]string{}, map[string]string{}
	}
	mask := fmt.Sprintf("(?P<wsguard%d>)", len(m.of))
	m.of[text], m.text[mask] = mask, text
}

// compiled returns a pattern of the schema, once for each text.
func (l *linter) compiled(text string) (*pattern, error) {
	c, ok := l.patterns[text]
	if !ok {
		c.pattern, c.err = newPattern(text)
		l.patterns[text] = c
	}
	return c.pattern, c.err
}

type compiledPattern struct {
	pattern *pattern
	err     error
}

// pattern compiles the pattern at a place of a document, or reports it as a fault.
func (l *linter) pattern(d *document, at, text string) {
	l.masks.add(text)
	if _, err := l.compiled(text); err != nil {
		l.fault(d, at, "%v", err)
	}
}

// forV5 returns the source of a document with masks, and with the patterns that a preset has replaced.
func (l *linter) forV5(d *document) (string, error) {
	if len(l.masks.of) == 0 && !d.changed {
		return string(d.raw), nil
	}
	bases := map[string]string{}
	for _, r := range l.refs {
		if r.doc == d {
			bases[r.at] = r.base
		}
	}
	var b bytes.Buffer
	err := json.NewEncoder(&b).Encode(l.mask(d, d.doc, "", bases))
	return b.String(), err
}

// mask returns a copy of the value at a place of a document. bases has the base URIs of the references of the document.
func (l *linter) mask(d *document, v any, at string, bases map[string]string) any {
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = l.mask(d, e, fmt.Sprintf("%s/%d", at, i), bases)
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			here := at + "/" + token(k)
			name := k
			if l.hasPatterns(d, at) && l.masks.of[k] != "" {
				name = l.masks.of[k]
			}
			m[name] = l.mask(d, e, here, bases)
			text, ok := e.(string)
			if base, ref := bases[here]; ok && ref {
				m[name] = l.maskReference(base, text)
			} else if ok && k == "pattern" && l.isSchema(d, at) && l.masks.of[text] != "" {
				m[name] = l.masks.of[text]
			}
		}
		return m
	}
	return v
}

func (l *linter) isSchema(d *document, at string) bool {
	_, ok := l.resource[d.url+"#"+at]
	return ok
}

// hasPatterns reports whether the value at a place is that of patternProperties.
func (l *linter) hasPatterns(d *document, at string) bool {
	schema, ok := strings.CutSuffix(at, "/patternProperties")
	return ok && l.isSchema(d, schema)
}

// maskReference returns a reference that leads to the same place of the masked sources.
func (l *linter) maskReference(base, ref string) string {
	u, at := locate(resolve(base, ref))
	home, ok := l.homes[u]
	if !ok || !strings.HasPrefix(at, "/") {
		return ref
	}
	masked := l.maskPointer(home.doc, home.at, at)
	if masked == at {
		return ref
	}
	return withoutFragment(ref) + "#" + escapePointer(masked)
}

// maskPointer returns the pointer to the same place of the masked source. It begins at a place of the document.
func (l *linter) maskPointer(d *document, from, at string) string {
	if len(l.masks.of) == 0 || at == "" {
		return at
	}
	parts := strings.Split(at[1:], "/")
	for i, part := range parts {
		name := strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		if mask := l.masks.of[name]; mask != "" && l.hasPatterns(d, from) {
			parts[i] = token(mask)
		}
		from += "/" + part
	}
	return "/" + strings.Join(parts, "/")
}

// unmask returns a location of v5, or another text of it, with the patterns in place of their masks.
func (l *linter) unmask(text string) string {
	for mask, pattern := range l.masks.text {
		text = strings.ReplaceAll(text, url.PathEscape(mask), url.PathEscape(token(pattern)))
		text = strings.ReplaceAll(text, mask, pattern)
	}
	return text
}

// pattern returns a pattern that v5 has compiled, as ECMA-262 means it.
func (b *builder) pattern(location string, re *regexp.Regexp) *pattern {
	if re == nil {
		return nil
	}
	text := re.String()
	if masked, ok := b.l.masks.text[text]; ok {
		text = masked
	}
	_, known := b.l.patterns[text]
	p, err := b.l.compiled(text)
	if err != nil && !known { // the linter has not seen it, because it stands where no schema is
		u, at := locate(location)
		b.l.faults = append(b.l.faults, &SchemaFault{u, sanitise(at), err.Error()})
	}
	return p
}
