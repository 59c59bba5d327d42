package jsonschema

import (
	"fmt"
	"slices"
	"strings"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// A vocabulary has what a schema may say besides the keywords of its dialect and the formats of the specifications.
type vocabulary struct {
	words    map[string]bool           // annotations
	prefixes []string                  // the beginnings of annotations
	silent   map[string]bool           // formats that accept every value
	formats  map[string]*format        // formats for strings, in place of those of the specifications
	numbers  map[string]*numericFormat // formats for numbers
	patterns map[string]string         // patterns that need lookaround, and what they mean without it
	nullable bool                      // nullable: true adds null to type
	openapi  string                    // the version of OpenAPI whose documents may be resources; "": none
}

// newVocabulary puts the presets and the words of the application together.
func newVocabulary(opt *Options) *vocabulary {
	v := &vocabulary{words: map[string]bool{}, prefixes: []string{"x-"}, silent: map[string]bool{}, formats: map[string]*format{},
		numbers: map[string]*numericFormat{}, patterns: map[string]string{}}
	for i := range presets {
		if opt.Presets&(1<<i) != 0 {
			presets[i].add(v)
		}
	}
	for _, word := range opt.Annotations {
		if prefix, ok := strings.CutSuffix(word, "*"); ok {
			v.prefixes = append(v.prefixes, prefix)
		} else {
			v.words[word] = true
		}
	}
	for _, name := range opt.FormatAnnotations {
		v.silent[name] = true
	}
	for name, f := range opt.Formats {
		delete(v.silent, name)
		delete(v.numbers, name)
		v.formats[name] = &format{func(text []byte) bool { return f(string(text)) }, ownFormatCost}
	}
	return v
}

// ownFormatCost is what a format of the application costs, in sixteenths of a unit for each byte. Nobody knows what the
// function does, so that it is charged like a slow pattern.
const ownFormatCost = 16 * 4

// silentWord reports whether a word that the dialect does not have says nothing.
func (v *vocabulary) silentWord(word string) bool {
	if v.words[word] {
		return true
	}
	for _, prefix := range v.prefixes {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}

// format returns what judges strings of a format. It is nil if the format says nothing about strings.
func (v *vocabulary) format(name string) *format {
	if f := v.formats[name]; f != nil {
		return f
	}
	return formats[name]
}

// judges reports whether values of a format are checked.
func (v *vocabulary) judges(name string) bool { return v.format(name) != nil || v.numbers[name] != nil }

// knows reports whether a schema may name a format.
func (v *vocabulary) knows(name string) bool { return v.silent[name] || v.judges(name) }

// nearestFormat returns the format that is spelled most like a misspelt one, or "".
func (v *vocabulary) nearestFormat(name string) string {
	names := sortedNames(formats)
	names = append(names, sortedNames(v.formats)...)
	return nearest(name, append(names, sortedNames(v.numbers)...))
}

// check reports the words and formats of the application that cannot be annotations. A word that every document's
// dialect has is judged, and must not seem to be switched off.
func (l *linter) check() {
	refuse := func(format string, a ...any) {
		l.faults = append(l.faults, &SchemaFault{Reason: fmt.Sprintf(format, a...)})
	}
	for _, word := range l.opt.Annotations {
		prefix, pattern := strings.CutSuffix(word, "*")
		for _, k := range sortedNames(l.docs[0].dialect.keywords) {
			if k != word && !(pattern && strings.HasPrefix(k, prefix)) {
				continue
			}
			everywhere := true
			for _, d := range l.docs {
				everywhere = everywhere && d.dialect.keywords[k] != 0
			}
			if everywhere {
				refuse("Annotations has %q, but %s is a keyword of %s, which says something", bound(word), k, l.docs[0].dialect.name)
				break
			}
		}
		if l.vocab.nullable && (word == "nullable" || pattern && strings.HasPrefix("nullable", prefix)) {
			refuse("Annotations has %q, but a preset gives nullable its meaning", bound(word))
		}
	}
	for _, name := range l.opt.FormatAnnotations {
		if l.opt.Formats[name] != nil {
			refuse("FormatAnnotations has %q, and so has Formats", bound(name))
		} else if l.vocab.judges(name) {
			refuse("FormatAnnotations has %q, but that format is checked; Formats can replace the check", bound(name))
		}
	}
}

// nullable checks the value of a keyword that widens type, and is of no use without it.
func (l *linter) nullable(d *document, m map[string]any, here string) {
	yes, ok := m["nullable"].(bool)
	if !ok {
		l.fault(d, here, "nullable has to be true or false")
		return
	}
	if types, ok := m["type"].([]any); ok && !yes && slices.Contains(types, any("null")) {
		l.fault(d, here, "type and nullable contradict each other")
	}
	_, typed := m["type"]
	if yes && !typed && narrows(m) {
		l.fault(d, here, "nullable adds null to a type, and there is no type beside it: write anyOf with a branch that has only null")
	}
}

// narrows reports whether an object without a type may refuse null.
func narrows(m map[string]any) bool {
	for _, k := range []string{"$ref", "allOf", "anyOf", "oneOf", "not", "enum", "const", "if"} {
		if _, ok := m[k]; ok {
			return true
		}
	}
	return false
}

// widen gives nullable its meaning.
func (v *vocabulary) widen(n *node, s *v5.Schema, keywords map[string]any) {
	if yes, _ := keywords["nullable"].(bool); yes && v.nullable && len(s.Types) > 0 {
		n.types |= 1 << isNull
	}
}

// annotated finds the format of a node.
func (v *vocabulary) annotated(n *node, name string) {
	n.format = v.format(name)
	f := v.numbers[name]
	if f == nil {
		return
	}
	n.numeric = f
	if n.types != 0 && n.types&(1<<isString) != 0 {
		n.format = f.text
	}
}
