package jsonschema

import (
	"bytes"
	"net/url"
	"strings"
)

// FileURL returns the one spelling of a URL that the keys of Options.Files have. RFC 3986 takes user(1).json and
// user%281%29.json for the same.
func FileURL(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || strings.Contains(strings.ToUpper(u.RawPath), "%2F") { // an encoded slash separates nothing
		return uri
	}
	u.RawPath = ""
	return u.String()
}

// open reads the files to which references lead. v5 finds a document by the spelling of the reference only. So a file may be
// read once for each spelling.
func (l *linter) open(refs []reference, def *dialect) {
	for _, r := range refs {
		u := withoutFragment(resolve(r.base, r.ref))
		src := l.opt.Files[FileURL(u)]
		if src == nil {
			u = l.opt.IDs[u]
			src = l.opt.Files[u]
		}
		if src == nil || l.bases[u] || climbs(r.base, r.ref) {
			continue
		}
		l.read(u, src, def)
		d := l.docs[len(l.docs)-1]
		if d.url != u && l.taken(d) {
			l.fatally(d, "", "its $id is %q, which is the URL of another schema", bound(strings.TrimPrefix(d.url, filesURL)))
		}
		l.bases[d.key], l.bases[d.url] = true, true
		l.homes[d.key], l.homes[d.url] = anchor{d, ""}, anchor{d, ""}
	}
}

// taken reports whether another schema has the URL that is the $id of a document. A second copy of the document is none.
func (l *linter) taken(d *document) bool {
	if src := l.opt.Files[d.url]; src != nil && !bytes.Equal(src, d.raw) {
		return true
	}
	for _, o := range l.docs {
		if (o.url == d.url || o.key == d.url) && !bytes.Equal(o.raw, d.raw) {
			return true
		}
	}
	return false
}

// names returns the URLs under which v5 gets a document. v5 finds a document only by a URL that it was given.
func (l *linter) names(d *document) []string {
	if l.byKey(d.url) != nil {
		return []string{d.key}
	}
	return []string{d.key, d.url}
}

// climbs reports whether a reference from a file leads above the directory of all files. RFC 3986 drops the dots that go
// too far, and so it would lead to a file that its author did not mean.
func climbs(base, ref string) bool {
	rest, ok := strings.CutPrefix(base, filesURL)
	r, err := url.Parse(ref)
	if !ok || err != nil || r.IsAbs() || r.Host != "" {
		return false
	}
	depth := 0
	if !strings.HasPrefix(r.Path, "/") {
		depth = strings.Count(withoutFragment(rest), "/")
	}
	for part := range strings.SplitSeq(r.Path, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// document finds the schemas of a document. An OpenAPI document is none itself, but has some.
func (l *linter) document(d *document) {
	m, _ := d.doc.(map[string]any)
	version, ok := m["openapi"].(string)
	if !ok || l.vocab.openapi == "" {
		l.schema(d, d.doc, "", d.key, d.url+"#")
		return
	}
	switch {
	case d == l.docs[0]:
		l.fatally(d, "", "an OpenAPI document is no schema; compile a reference to one of its schemas, with the document among the files or resources")
		return
	case !strings.HasPrefix(version, l.vocab.openapi+"."):
		l.fatally(d, "/openapi", "version %q with the preset of OpenAPI %s", bound(version), l.vocab.openapi)
		return
	}
	components, _ := m["components"].(map[string]any)
	schemas, _ := components["schemas"].(map[string]any)
	for _, name := range sortedNames(schemas) {
		l.schema(d, schemas[name], "/components/schemas/"+token(name), d.url, d.url+"#")
	}
}
