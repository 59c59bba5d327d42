package wsguard

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"github.com/wsguard/wsguard/internal/origin"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// Bounds of the Sec-WebSocket headers together. The first has room for a token of
// maxToken bytes among the subprotocols.
const (
	maxHandshakeBytes  = 12 << 10
	maxHandshakeTokens = 16
)

// checkUpgrade judges the form of a handshake (RFC 6455 §4.2.1).
func checkUpgrade(r *http.Request) error {
	switch {
	case r.ProtoMajor == 1 && r.ProtoMinor == 0:
		return denyStatus(reason.HTTPVersion, http.StatusUpgradeRequired, "HTTP/1.0")
	case r.ProtoMajor != 1 || r.ProtoMinor != 1:
		return deny(reason.HTTPVersion, "") // extended CONNECT (RFC 8441) is not served
	case hasBody(r):
		return deny(reason.Body, "")
	case r.Method != http.MethodGet:
		return deny(reason.Method, "")
	case !wire.HasToken(r.Header, "Connection", "upgrade"):
		return deny(reason.NotUpgrade, "Connection header without upgrade")
	case !wire.HasToken(r.Header, "Upgrade", "websocket"):
		return deny(reason.NotUpgrade, "Upgrade header without websocket")
	}
	if v, ok := single(r.Header, "Sec-Websocket-Version"); !ok || strings.TrimSpace(v) != "13" {
		return deny(reason.Version, "")
	}
	size := 0
	for name, values := range r.Header {
		if strings.HasPrefix(name, "Sec-Websocket-") {
			for _, v := range values {
				size += len(v)
			}
		}
	}
	if size > maxHandshakeBytes {
		return deny(reason.HeaderTooLarge, "")
	}
	if len(wire.HeaderTokens(r.Header, "Sec-Websocket-Protocol")) > maxHandshakeTokens ||
		len(wire.HeaderTokens(r.Header, "Sec-Websocket-Extensions")) > maxHandshakeTokens {
		return deny(reason.HeaderTooLarge, "too many values")
	}
	key, ok := single(r.Header, "Sec-Websocket-Key")
	if !ok {
		return deny(reason.Handshake, "not one Sec-WebSocket-Key")
	}
	if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key)); err != nil || len(b) != 16 {
		return deny(reason.Handshake, "Sec-WebSocket-Key is not 16 bytes")
	}
	if fault := origin.CheckHost(r.Host); fault != "" {
		return deny(reason.Handshake, "Host "+fault)
	}
	return nil
}

// negotiate picks the first of the endpoint's subprotocols that r offers. Entries
// that auth takes for credentials are no offers.
//
// A browser fails a connection if the 101 selects none of the subprotocols that the page
// has offered (https://websockets.spec.whatwg.org). So a page whose offers are all unknown
// is refused. A program is admitted without a subprotocol, because most programs accept
// that. If the guard has no list, a wrapped handler chooses by itself.
func (e *endpointPolicy) negotiate(r *http.Request, wrapped bool) (string, error) {
	offered := e.auth.offers(r.Header)
	for _, s := range e.subprotocols {
		if slices.Contains(offered, s) {
			return s, e.hasTable(s)
		}
	}
	if len(offered) > 0 && ofPage(r.Header) && !(wrapped && len(e.subprotocols) == 0) {
		return "", deny(reason.Subprotocol, "offered: "+offerNames(offered, e.auth.cfg.Sources.Subprotocol)+"; served: "+servedNames(e.subprotocols))
	}
	return "", e.hasTable("")
}

// hasTable refuses a connection whose messages no validator would judge.
func (e *endpointPolicy) hasTable(subprotocol string) error {
	if len(e.messages.Validators) > 0 && e.messages.validator(subprotocol) == nil {
		return deny(reason.Subprotocol, "none offered that has a validator; served: "+servedNames(e.subprotocols))
	}
	return nil
}

// ofPage reports whether the request claims to come from a page in a browser. A program can
// claim it too.
func ofPage(h http.Header) bool { return h.Get("Origin") != "" }

// Bounds of a subprotocol's name in the detail of an event. A name of more than maxOffer
// bytes is cut to cutOffer.
const (
	maxOffer = 24 // longer than the names in use
	cutOffer = 8
)

// offerNames lists offers for the detail of an event. An offer may be a token in a place
// where the guard looks for no token. So offerNames shows nothing that follows the
// configured prefix of credentials, in any letter case, or the word bearer. It cuts a name
// that is longer than names of subprotocols are.
func offerNames(offered []string, prefix string) string {
	names := make([]string, len(offered))
	for i, s := range offered {
		shown := len(s)
		switch at := indexFold(s, "bearer"); {
		case prefix != "" && hasPrefixFold(s, prefix):
			shown = len(prefix)
		case at >= 0:
			shown = at + len("bearer")
		case len(s) > maxOffer:
			shown = cutOffer
		}
		if names[i] = s[:shown]; shown < len(s) {
			names[i] += "…"
		}
	}
	return quotable(names)
}

// indexFold is strings.Index in any case of ASCII letters.
func indexFold(s, word string) int {
	for i := 0; i+len(word) <= len(s); i++ {
		if hasPrefixFold(s[i:], word) {
			return i
		}
	}
	return -1
}

func servedNames(subprotocols []string) string {
	if len(subprotocols) == 0 {
		return "none, because Subprotocols is empty"
	}
	return quotable(subprotocols)
}

// callAttach calls Attach with a context that ends after VerifyTimeout. It fails closed.
func (e *endpointPolicy) callAttach(r *http.Request, p Principal) (value any, err error) {
	if e.attach == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), e.auth.cfg.VerifyTimeout)
	defer cancel()
	defer func() {
		if recover() != nil {
			value, err = nil, deny(reason.Unavailable, "Attach panicked")
		}
	}()
	value, err = e.attach(r.WithContext(ctx), p)
	if err != nil {
		closeValue(value)
		o := object(err, forbidden)
		if o.why == reason.Internal {
			o.why = reason.Unavailable // which has a status
		}
		return nil, &denied{Reason: o.why, detail: o.detail, cause: o.err}
	}
	return value, nil
}

// detached returns the copy of a request that Attach gets after the handshake's handler has
// returned. The copy has no context values, because routers reuse them for other users. It
// has no credentials, which the header custom may have, and no headers of the hop or of the
// handshake. It shares no memory with the parts that it leaves out.
func detached(r *http.Request, custom string) *http.Request {
	kept := *r
	kept.Method, kept.Proto, kept.Host = strings.Clone(r.Method), strings.Clone(r.Proto), strings.Clone(r.Host)
	u := *r.URL
	for _, s := range []*string{&u.Scheme, &u.Opaque, &u.Host, &u.Path, &u.RawPath, &u.RawQuery, &u.Fragment, &u.RawFragment} {
		*s = strings.Clone(*s)
	}
	u.User = nil
	kept.URL, kept.RequestURI = &u, u.RequestURI()
	kept.Body, kept.GetBody, kept.Form, kept.PostForm, kept.MultipartForm = http.NoBody, nil, nil, nil, nil
	// Clone copies the values of all headers into one array, so a header that was
	// deleted afterwards would stay in memory.
	kept.Header = http.Header{}
	for name, values := range r.Header {
		if !strings.HasPrefix(name, "Sec-Websocket-") && !notKept[name] && name != custom {
			kept.Header[name] = values
		}
	}
	return kept.Clone(context.Background())
}

// notKept has the headers of credentials and of one hop. detached leaves them out, and those
// of the handshake too.
var notKept = map[string]bool{
	"Authorization": true, "Cookie": true, "Proxy-Authorization": true,
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// retained returns the copy of a peer's Host or Origin that a Conn or a ticket keeps. It has
// at most maxField bytes and shares no memory with the header.
func retained(s string) string {
	if len(s) <= maxField {
		return strings.Clone(s)
	}
	const cut = "…"
	return s[:maxField-len(cut)] + cut
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// isToken reports whether s is a token of RFC 9110 §5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= 0x20 || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// discardResponse is for a request that has been answered already.
type discardResponse struct{}

func (discardResponse) Header() http.Header         { return http.Header{} }
func (discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (discardResponse) WriteHeader(int)             {}
