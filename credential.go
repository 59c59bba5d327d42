package wsguard

import (
	"net/http"
	"strconv"
	"strings"
)

// What a request presents is counted in its raw form. The parsers of net/http skip
// what they cannot read, and another parser behind the guard may read it.

// shown is what a request presents in one source.
type shown struct {
	n     int    // how many credentials
	token string // of the only one
	ok    bool   // whether the only one can be read
}

// spelling says what a name in a request has to do with the name of a source.
type spelling int

const (
	spelledOtherwise spelling = iota // it is another name
	spelledAlike                     // some parsers take it for the name
	spelledExactly
)

// tally counts the names in a request by their spelling.
type tally [3]int

// credentials returns how many credentials there are. Names that are spelled alike
// count only beside one that is spelled exactly: alone they are names of something
// else.
func (t tally) credentials() int {
	if t[spelledExactly] == 0 {
		return 0
	}
	return t[spelledExactly] + t[spelledAlike]
}

// spell compares a raw name of a request with the name of a source. Percent signs
// are decoded where that is possible, and so are plus signs in a query.
func spell(raw, name string, query bool) spelling {
	s := unescape(raw, query)
	if s == name {
		return spelledExactly
	}
	s = strings.Trim(s, " \t")
	base, _, _ := strings.Cut(s, "[") // a list, in PHP and in others
	switch {
	case s == name:
		return spelledExactly
	case strings.EqualFold(s, name), base != "" && strings.EqualFold(base, name):
		return spelledAlike
	}
	return spelledOtherwise
}

// unescape decodes percent signs, and leaves those that cannot be decoded.
func unescape(s string, plus bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				c, i = byte(v), i+2
			}
		} else if c == '+' && plus {
			c = ' '
		}
		b = append(b, c)
	}
	return string(b)
}

// bearerIn finds the Bearer credential in an Authorization header (RFC 6750, section
// 2.1). A proxy may have joined several headers by commas.
func bearerIn(header string) (p shown) {
	header = strings.Trim(header, " \t")
	first := true
	for part := range strings.SplitSeq(header, ",") {
		part = strings.Trim(part, " \t")
		leads := first
		first = false
		scheme := len(part)
		for j := range len(part) {
			if !isToken(part[j : j+1]) {
				scheme = j
				break
			}
		}
		if !strings.EqualFold(part[:scheme], "Bearer") {
			continue
		}
		switch rest := part[scheme:]; {
		case leads:
			p.n++
			p.token, p.ok = strings.TrimSpace(header[scheme:]), rest == "" || rest[0] == ' '
		case rest == "" || rest[0] == ' ' || rest[0] == '\t':
			p.n++
		}
	}
	return p
}

// cookieIn finds the cookie with a name.
func cookieIn(r *http.Request, name string) (p shown) {
	var of tally
	for _, line := range r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			key, value, _ := strings.Cut(part, "=")
			of[spell(key, name, false)]++
			if mentions(value, name) {
				of[spelledAlike]++
			}
		}
	}
	if p.n = of.credentials(); p.n == 1 {
		if found := r.CookiesNamed(name); len(found) == 1 {
			p.token, p.ok = found[0].Value, true
		}
	}
	return p
}

// mentions reports whether another cookie begins within the value of a cookie: for
// some parsers it ends at a comma or a blank.
func mentions(value, name string) bool {
	for {
		i := strings.IndexAny(value, ", \t")
		if i < 0 {
			return false
		}
		value = value[i+1:]
		if len(value) > len(name) && strings.EqualFold(value[:len(name)], name) &&
			strings.HasPrefix(strings.TrimLeft(value[len(name):], " \t"), "=") {
			return true
		}
	}
}

// paramIn finds the parameter of a query with a name.
func paramIn(r *http.Request, name string) (p shown) {
	if p.n = countQuery(r.URL.RawQuery, name); p.n == 1 {
		if values := r.URL.Query()[name]; len(values) == 1 {
			p.token, p.ok = values[0], true
		}
	}
	return p
}

func countQuery(raw, name string) int {
	var of tally
	for part := range strings.SplitSeq(raw, "&") {
		for part := range strings.SplitSeq(part, ";") {
			key, _, _ := strings.Cut(part, "=")
			of[spell(key, name, true)]++
		}
	}
	return of.credentials()
}

// cutQuery removes a parameter, in each spelling and also where it cannot be
// read, and leaves the others as they were written. Some parsers end a parameter at
// a semicolon and others do not: what stands beside one goes as a whole.
func cutQuery(raw, name string) (string, bool) {
	if countQuery(raw, name) == 0 {
		return raw, false
	}
	var kept []string
next:
	for whole := range strings.SplitSeq(raw, "&") {
		for part := range strings.SplitSeq(whole, ";") {
			key, _, _ := strings.Cut(part, "=")
			if spell(key, name, true) != spelledOtherwise {
				continue next
			}
		}
		kept = append(kept, whole)
	}
	return strings.Join(kept, "&"), true
}

// hasPrefixFold reports whether s begins with prefix, in whatever case.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
