package main

import "github.com/microcosm-cc/bluemonday"

// newPolicy says what may be left of a message's markup: a few elements without
// any attribute, and links. It is a list of what is allowed; a list of what is
// dangerous is never complete.
//
// It is short on purpose. Sanitised markup that a browser reads in another way
// than the sanitiser did ("mutation XSS") takes elements whose content has rules
// of its own: svg, math, style, template, select, noscript, comments. None is
// here. Nor are ids and classes, by which a message could dress up as a part of
// the page, or images, which tell a server elsewhere who reads them.
func newPolicy() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements("b", "i", "em", "strong", "s", "code", "pre", "blockquote", "p", "br", "ul", "ol", "li")
	p.AllowAttrs("href").OnElements("a")
	p.AllowURLSchemes("https", "http", "mailto") // with relative ones refused, and those that do not parse
	p.RequireNoFollowOnLinks(true)
	p.RequireNoReferrerOnLinks(true)
	p.AddTargetBlankToFullyQualifiedLinks(true) // and rel="noopener"
	return p
}
