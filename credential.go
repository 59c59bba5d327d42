package wsguard

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// Credentials are counted in the raw header and the raw query. The parsers of net/http skip
// values that they cannot read, and another parser behind the guard may read them.

// shown says which credentials a request presents in one source.
type shown struct {
	n     int    // how many credentials
	token string // of the only one
	ok    bool   // whether the only one can be read
}

// spelling says how much a name in a request is like the name of a source.
type spelling int

const (
	spelledOtherwise spelling = iota // it is another name
	spelledAlike                     // some parsers take it for the name
	spelledExactly
)

// spellings counts the names in a request by their spelling.
type spellings [3]int

// credentials returns how many credentials there are. Names that are spelled alike count
// only if another name is spelled exactly. Without one they name something else.
func (t spellings) credentials() int {
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
	var of spellings
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

// mentions reports whether another cookie begins within the value of a cookie. For some parsers
// a value ends at a comma or a blank.
func mentions(value, name string) bool {
	for {
		i := strings.IndexAny(value, ", \t")
		if i < 0 {
			return false
		}
		value = value[i+1:]
		if hasPrefixFold(value, name) && strings.HasPrefix(strings.TrimLeft(value[len(name):], " \t"), "=") {
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
	var of spellings
	for part := range strings.SplitSeq(raw, "&") {
		for part := range strings.SplitSeq(part, ";") {
			key, _, _ := strings.Cut(part, "=")
			of[spell(key, name, true)]++
		}
	}
	return of.credentials()
}

// cutQuery removes the parameter name from a raw query, in each spelling, even if it cannot
// be read. The other parameters stay as they were written. Some parsers end a parameter at
// a semicolon and others do not. So parameters that a semicolon joins are removed together
// if one of them is name.
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

// hasPrefixFold reports whether s begins with prefix, in any letter case.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// credential is the credential that a client has presented.
type credential struct {
	kind  sourceKind
	token string
}

// maxToken is the length of the longest token that the guard looks at. Tokens in use are
// shorter.
const maxToken = 8 << 10

// find returns the credential of r. The kind is sourceNone if r presents none. A credential
// that cannot be read is an error.
func find(r *http.Request, sources []source) (credential, error) {
	var found credential
	n, readable := 0, true
	add := func(s source, p shown) {
		if p.n > 0 {
			found = credential{s.kind, p.token}
			readable = p.ok
			n += p.n
		}
	}
	for _, s := range sources {
		switch s.kind {
		case sourceHeader:
			lines := r.Header["Authorization"]
			if len(lines) > 1 { // of any scheme, because the header has one value (RFC 9110 §11.6.2)
				return credential{}, deny(reason.Unauthenticated, "more than one credential")
			}
			for _, v := range lines {
				add(s, bearerIn(v))
			}
		case sourceCustomHeader:
			lines := r.Header[s.name]
			p := shown{n: len(lines), ok: true}
			for _, v := range lines {
				p.token = strings.Trim(v, " \t")
			}
			add(s, p)
		case sourceSubprotocol:
			real, p, similar := 0, shown{ok: true}, 0
			for _, entry := range wire.HeaderTokens(r.Header, "Sec-Websocket-Protocol") {
				if token, ok := strings.CutPrefix(entry, s.name); ok {
					p.token = token
					p.n++
				} else if real++; hasPrefixFold(entry, s.name) {
					similar++
				}
			}
			if p.n > 0 {
				p.n += similar
			}
			if p.n == 1 && real == 0 {
				return credential{}, deny(reason.Unauthenticated, "a token in Sec-WebSocket-Protocol without a subprotocol beside it")
			}
			add(s, p)
		case sourceCookie:
			add(s, cookieIn(r, s.name))
		case sourceQuery, sourceTicket:
			add(s, paramIn(r, s.name))
		}
	}
	switch {
	case n > 1:
		return credential{}, deny(reason.Unauthenticated, "more than one credential")
	case !readable:
		return credential{}, deny(reason.Unauthenticated, "a credential that cannot be read")
	case n == 1 && (found.token == "" || len(found.token) > maxToken):
		return credential{}, deny(reason.Unauthenticated, "empty or over-long credential")
	}
	return found, nil
}

// offers returns the subprotocols that a handshake offers. These are the entries of
// Sec-WebSocket-Protocol that are no credentials. If one entry has the prefix of
// credentials, entries with the prefix in another letter case are credentials too.
func (a *authRule) offers(h http.Header) []string {
	all := wire.HeaderTokens(h, "Sec-Websocket-Protocol")
	prefix := a.cfg.Sources.Subprotocol
	if prefix != "" && slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
		all = slices.DeleteFunc(all, func(s string) bool { return hasPrefixFold(s, prefix) })
	}
	return all
}

// strip returns r without the credentials that would end up in logs. These are the credentials
// in the query and in Sec-WebSocket-Protocol.
func (a *authRule) strip(r *http.Request) *http.Request {
	out := r
	clone := func() {
		if out == r {
			out = new(http.Request)
			*out = *r
		}
	}
	for _, s := range a.sources {
		switch s.kind {
		case sourceQuery, sourceTicket:
			if q, cut := cutQuery(out.URL.RawQuery, s.name); cut {
				clone()
				u := *out.URL
				u.RawQuery = q
				out.URL = &u
				out.RequestURI = u.RequestURI()
				out.Form, out.PostForm = nil, nil // they may have the credential
			}
		case sourceSubprotocol:
			kept := a.offers(out.Header)
			if len(kept) < len(wire.HeaderTokens(out.Header, "Sec-Websocket-Protocol")) {
				clone()
				out.Header = out.Header.Clone()
				out.Header.Del("Sec-Websocket-Protocol")
				if len(kept) > 0 {
					out.Header.Set("Sec-Websocket-Protocol", strings.Join(kept, ", "))
				}
			}
		}
	}
	return out
}

// notCustom has the headers that cannot be TokenSources.CustomHeader, besides those of
// isPlainHeader.
var notCustom = map[string]bool{"Authorization": true, "Cookie": true, "Proxy-Authorization": true, "Host": true, "Transfer-Encoding": true}

// bearer returns the token of the Authorization header.
func bearer(r *http.Request) (string, error) {
	cred, err := find(r, []source{{kind: sourceHeader}})
	if err == nil && cred.kind == sourceNone {
		err = ErrNoCredential
	}
	return cred.token, err
}

// parseFirstMessage reads {"type":"auth","token":"…"}. The message must be strict JSON and
// have exactly these keys.
func parseFirstMessage(msg []byte) (token string, err error) {
	if err := jsonschema.Scan(msg, nil); err != nil {
		return "", deny(reason.Unauthenticated, "first message is not JSON")
	}
	var m map[string]json.RawMessage
	var typ string
	if json.Unmarshal(msg, &m) != nil || json.Unmarshal(m["type"], &typ) != nil || typ != "auth" ||
		json.Unmarshal(m["token"], &token) != nil || token == "" || len(token) > maxToken {
		return "", deny(reason.Unauthenticated, "first message is not a credential")
	}
	return token, nil
}
