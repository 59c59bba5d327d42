package wsguard

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
)

// markKey is how a piece that has let a request pass says so to a Guard that
// it belongs to. The key is unexported: nobody else can set it.
type markKey struct{}

// line is what the successive forms of a piece have in common: a mark is the
// line's, and Reconfigure lets one form follow another.
type line[T any] struct{ latest atomic.Pointer[T] }

// marks is what the pieces before a handler have done. It is not changed once
// it is in a context.
type marks struct {
	passed     []any // the lines of the pieces
	principals []found
	leases     []*Lease
}

// found is whom an Authenticator has found.
type found struct {
	by        *line[Authenticator]
	principal Principal
}

// principal returns whom this Authenticator has found, and no other.
func (m marks) principal(by *line[Authenticator]) (Principal, bool) {
	for _, f := range m.principals {
		if f.by == by {
			return f.principal, true
		}
	}
	return Principal{}, false
}

func marksOf(r *http.Request) marks {
	if m, ok := r.Context().Value(markKey{}).(*marks); ok {
		return *m
	}
	return marks{}
}

// has reports whether piece has let the request pass. A mark of another Guard's
// piece counts for nothing.
func (m marks) has(piece any) bool {
	for _, p := range m.passed {
		if p == piece {
			return true
		}
	}
	return false
}

func (m marks) with(r *http.Request, piece any) *http.Request {
	m.passed = append(m.passed[:len(m.passed):len(m.passed)], piece)
	return r.WithContext(context.WithValue(r.Context(), markKey{}, &m))
}

// standalone is where pieces report that no Guard owns.
var standalone = sync.OnceValue(func() *sink { return newSink(nil, nil) })

// reporter is the part of a piece that answers and reports.
type reporter struct {
	sink  *sink
	guard *Guard // whose piece it is; nil: nobody's
}

// ownPage reports whether a page of a listed origin sends r. A piece of a Guard goes
// by the origin step of that Guard. Any other piece goes by the origin checks in front
// of it: there must be one, and each must list the origin.
func (p *reporter) ownPage(r *http.Request) bool {
	if p.guard != nil {
		return p.guard.now.Load().origin.latest().page(r)
	}
	own := false
	for _, passed := range marksOf(r).passed {
		l, ok := passed.(*line[Check])
		if !ok {
			continue
		}
		if c := l.latest.Load(); c.kind == checkOrigin {
			if !c.page(r) {
				return false
			}
			own = true
		}
	}
	return own
}

// banned refuses who is, by the Guard that the piece belongs to.
func (p *reporter) banned(who client) error {
	if p.guard == nil {
		return nil
	}
	return p.guard.banned(who)
}

// offended tells the Guard, where its origin check has let the request pass: what
// a foreign page provokes is not its visitor's doing.
func (p *reporter) offended(r *http.Request, who client, err error) {
	if p.guard == nil {
		return
	}
	s := p.guard.now.Load()
	if d := asDenied(err); !d.shared && marksOf(r).has(s.origin.line) && !s.origin.latest().foreign(r) {
		p.guard.offend(s, who, d.Reason, handshakeOffences[d.Reason])
	}
}

func (p *reporter) events() *sink {
	if p.sink != nil {
		return p.sink
	}
	return standalone()
}

// refuse answers a request that a piece does not let pass.
func (p *reporter) refuse(w http.ResponseWriter, r *http.Request, err error, e audit.Event) {
	d := asDenied(err)
	e.Kind, e.Err, e.Reason, e.Detail, e.Status = audit.Refusal, err, d.Token(), d.detail, d.statusCode()
	if e.Code != 0 {
		e.Status = http.StatusSwitchingProtocols // and told after it
	}
	e.Origin, e.Host = r.Header.Get("Origin"), r.Host
	if e.Client == "" {
		e.Client = peerOf(r)
	}
	if hasBody(r) {
		// A body that never comes would keep net/http reading it.
		http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	d.write(w)
	p.events().emit(e)
}

// peerOf is who sent a request whose client is not known yet.
func peerOf(r *http.Request) string {
	if addr, _, err := clientip.Peer(r.RemoteAddr); err == nil && addr.IsValid() {
		return addr.String()
	}
	return r.RemoteAddr
}

// report says what a check that only reports would have refused.
func (p *reporter) report(r *http.Request, err error) {
	d := asDenied(err)
	p.events().emit(audit.Event{
		Kind: audit.Violation, Err: err, Reason: d.Token(), Detail: d.detail, Report: true,
		Client: peerOf(r), Origin: r.Header.Get("Origin"), Host: r.Host,
	})
}
