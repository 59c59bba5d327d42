package wsguard

import (
	"context"
	"net/http"
	"sync"
)

// markKey is how a piece that has let a request pass says so to a Guard that
// it belongs to. The key is unexported: nobody else can set it.
type markKey struct{}

// marks is what the pieces before a handler have done. It is not changed once
// it is in a context.
type marks struct {
	passed    []any // the pieces
	principal *Principal
	leases    []*Lease
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
type reporter struct{ sink *sink }

func (p *reporter) events() *sink {
	if p.sink != nil {
		return p.sink
	}
	return standalone()
}

// refuse answers a request that a piece does not let pass.
func (p *reporter) refuse(w http.ResponseWriter, r *http.Request, err error, e Event) {
	d := asDenied(err)
	e.Kind, e.Err, e.Reason, e.Detail, e.Status = EventRefusal, err, d.token, d.detail, d.statusCode()
	e.Origin, e.Host = r.Header.Get("Origin"), r.Host
	if e.Client == "" {
		e.Client = r.RemoteAddr
	}
	d.write(w)
	p.events().emit(e)
}

// report says what a check that only reports would have refused.
func (p *reporter) report(r *http.Request, err error) {
	d := asDenied(err)
	p.events().emit(Event{
		Kind: EventViolation, Err: err, Reason: d.token, Detail: d.detail, Report: true,
		Client: r.RemoteAddr, Origin: r.Header.Get("Origin"), Host: r.Host,
	})
}

// handler is the http.Handler of a piece whose check consumes nothing.
func (p *reporter) handler(piece any, check func(*http.Request) error, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := marksOf(r)
		if !m.has(piece) {
			if err := check(r); err != nil {
				p.refuse(w, r, err, Event{})
				return
			}
			r = m.with(r, piece)
		}
		next.ServeHTTP(w, r)
	})
}
