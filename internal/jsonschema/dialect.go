package jsonschema

import (
	"strings"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"
)

// A keywordKind says what the value of a keyword is, so that the linter knows where further schemas are.
type keywordKind uint8

const (
	kwPlain     keywordKind = iota + 1 // an assertion, or something that v5 reads by itself
	kwNote                             // an annotation, which accepts and refuses nothing
	kwRef                              // a URI reference to another schema
	kwCount                            // a non-negative integer
	kwFormat                           // the name of a format
	kwPattern                          // a regular expression
	kwEnum                             // a list of values
	kwSchema                           // a schema
	kwSchemaMap                        // a map from names to schemas
	kwPatterns                         // a map from regular expressions to schemas
	kwList                             // a list of schemas
	kwItems                            // a schema, or a list of schemas
	kwDepends                          // a map from names to a schema or a list of names
	kwDefs                             // a map from names to schemas that apply only through a reference
)

type dialect struct {
	name     string
	draft    *v5.Draft
	id       string // the keyword that gives a schema its URI
	loneRef  bool   // $ref hides every other keyword of its object
	keywords map[string]keywordKind
}

var (
	draft2020 *dialect

	dialects = map[string]*dialect{}
)

func init() {
	kw := map[string]keywordKind{
		"$schema": kwNote, "$comment": kwNote, "title": kwNote, "description": kwNote, "default": kwNote, "examples": kwNote,
		"readOnly": kwNote, "writeOnly": kwNote, "deprecated": kwNote, "contentEncoding": kwNote, "contentMediaType": kwNote,
		"$ref": kwRef, "definitions": kwDefs, "$defs": kwDefs,
		"type": kwPlain, "enum": kwEnum, "format": kwFormat, "pattern": kwPattern, "required": kwPlain, "uniqueItems": kwPlain,
		"multipleOf": kwPlain, "minimum": kwPlain, "maximum": kwPlain, "exclusiveMinimum": kwPlain, "exclusiveMaximum": kwPlain,
		"minLength": kwCount, "maxLength": kwCount, "minItems": kwCount, "maxItems": kwCount,
		"minProperties": kwCount, "maxProperties": kwCount,
		"not": kwSchema, "allOf": kwList, "anyOf": kwList, "oneOf": kwList,
		"properties": kwSchemaMap, "patternProperties": kwPatterns, "additionalProperties": kwSchema,
		"items": kwItems, "additionalItems": kwSchema, "dependencies": kwDepends,
	}
	make := func(name, url string, draft *v5.Draft, id string, loneRef bool, add map[string]keywordKind, drop ...string) *dialect {
		for k, v := range add {
			kw[k] = v
		}
		for _, k := range drop {
			delete(kw, k)
		}
		d := &dialect{name: name, draft: draft, id: id, loneRef: loneRef, keywords: map[string]keywordKind{}}
		for k, v := range kw {
			d.keywords[k] = v
		}
		dialects[url] = d
		return d
	}
	make("draft 4", "json-schema.org/draft-04/schema", v5.Draft4, "id", true, map[string]keywordKind{"id": kwNote})
	make("draft 6", "json-schema.org/draft-06/schema", v5.Draft6, "$id", true, map[string]keywordKind{
		"$id": kwNote, "const": kwPlain, "propertyNames": kwSchema, "contains": kwSchema}, "id")
	make("draft 7", "json-schema.org/draft-07/schema", v5.Draft7, "$id", true, map[string]keywordKind{
		"if": kwSchema, "then": kwSchema, "else": kwSchema})
	make("draft 2019-09", "json-schema.org/draft/2019-09/schema", v5.Draft2019, "$id", false, map[string]keywordKind{
		"$anchor": kwNote, "$recursiveAnchor": kwNote, "$vocabulary": kwNote, "$recursiveRef": kwRef, "contentSchema": kwSchema,
		"minContains": kwCount, "maxContains": kwCount, "dependentRequired": kwPlain, "dependentSchemas": kwSchemaMap,
		"unevaluatedProperties": kwSchema, "unevaluatedItems": kwSchema})
	draft2020 = make("draft 2020-12", "json-schema.org/draft/2020-12/schema", v5.Draft2020, "$id", false, map[string]keywordKind{
		"$dynamicAnchor": kwNote, "$dynamicRef": kwRef, "prefixItems": kwList, "items": kwSchema},
		"$recursiveAnchor", "$recursiveRef", "additionalItems")
}

// dialectOf returns the dialect that a $schema names, or nil. The URL may be http or https, and may have an empty fragment.
func dialectOf(uri string) *dialect {
	uri = strings.TrimSuffix(uri, "#")
	rest, ok := strings.CutPrefix(uri, "https://")
	if !ok {
		rest, ok = strings.CutPrefix(uri, "http://")
	}
	if !ok {
		return nil
	}
	return dialects[rest]
}

// nearest returns the keyword that is spelled most like a misspelt one, or "".
func (d *dialect) nearest(word string) string {
	return nearest(word, sortedNames(d.keywords))
}

// nearest returns the first of the words that are spelled most like a misspelt one, or "".
func nearest(word string, words []string) string {
	best, dist := "", 3
	for _, w := range words {
		if n := editDistance(word, w, dist); n < dist {
			best, dist = w, n
		}
	}
	return best
}

// editDistance returns the Levenshtein distance of two words, without letter case. It stops counting at most.
func editDistance(a, b string, most int) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if d := len(a) - len(b); d > most || -d > most || len(a) > 64 {
		return most + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}
