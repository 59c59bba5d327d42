package wsguard

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/reason"
)

// Pieces are steps of a Guard that can stand in front of other middleware. The Guard's
// handler behind them does not take them a second time, in whatever order they stand.
type Pieces struct {
	// Origin checks the Origin header and the fetch metadata.
	Origin *RequestCheck

	// Host checks the Host header. It is nil if Config.Hosts is nil.
	Host *RequestCheck

	// TLS refuses clear text.
	TLS *RequestCheck

	// Auth finds and verifies the credential. With TokenSources.FirstMessage it passes
	// requests that have no credential yet.
	Auth *Authenticator

	// Cap reserves a slot among the connections.
	Cap *ConnCap
}

// Pieces returns the steps of the Guard that can stand alone.
func (g *Guard) Pieces() Pieces {
	p := Pieces{Origin: &RequestCheck{g, stepOrigin}, TLS: &RequestCheck{g, stepTLS}, Auth: &Authenticator{g}, Cap: &ConnCap{g}}
	if g.policy.Load().host.list != nil {
		p.Host = &RequestCheck{g, stepHost}
	}
	return p
}

// RequestCheck judges a request's origin, host or transport, and consumes nothing.
// [NewOriginCheck], [NewHostCheck] and [NewTLSCheck] make one that stands alone, and
// [Guard.Pieces] returns those of a Guard. Many goroutines may use it at the same time.
type RequestCheck struct {
	g    *Guard // read-only
	step string // read-only
}

// newCheck returns a RequestCheck that stands alone. If err is not nil, the RequestCheck
// refuses every request with the reason why, because some callers ignore the error.
func newCheck(p *policy, step string, why *reason.Reason, err error) (*RequestCheck, error) {
	if err != nil {
		p.broken = why
	}
	return &RequestCheck{standAlone(p), step}, err
}

// standAlone returns a Guard that has one step only.
func standAlone(p *policy) *Guard {
	g := &Guard{born: time.Now(), state: NewState(), events: standalone()}
	g.sessions = newSessions(g)
	g.endpoint = &Endpoint{g: g}
	g.policy.Store(p)
	return g
}

// standalone is the sink to which pieces that stand alone report.
var standalone = sync.OnceValue(func() *sink { return newSink(nil, nil) })

func (c *RequestCheck) steps() []step {
	return map[string][]step{stepOrigin: {originStep}, stepHost: {hostStep}, stepTLS: {tlsStep}}[c.step]
}

// Check returns nil if r passes. Otherwise it returns an error that wraps reason.Origin,
// reason.FetchMetadata, reason.Host or reason.InsecureTransport.
func (c *RequestCheck) Check(r *http.Request) error {
	a := c.g.endpoint.admission(r)
	a.marks.passed = nil // r may have changed since
	return a.run(c.steps())
}

// Handler passes a request to next, or answers 403 or 421.
func (c *RequestCheck) Handler(next http.Handler) http.Handler {
	steps := c.steps()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := c.g.endpoint.admission(r)
		if !a.marks.has(c.g, c.step) {
			if !a.piece(w, steps) {
				return
			}
			r = a.marks.pass(c.g, c.step).on(r)
		}
		next.ServeHTTP(w, r)
	})
}

// piece runs the steps of a piece. It returns false if one refuses, and has then answered and
// reported the refusal.
func (a *admission) piece(w http.ResponseWriter, steps []step) bool {
	done := false
	defer func() {
		if !done {
			a.unwind()
		}
	}()
	err := a.run(steps)
	if err != nil {
		a.unwind() // before the client is told
		a.offended(asDenied(err))
		a.refuse(w, err, a.event())
	}
	done = true
	return err == nil
}

// markKey is the context key under which a piece tells its Guard that it has let a request
// pass. It is unexported, so that no other package can set it.
type markKey struct{}

// mark names a step that has been taken, and the Guard that the step belongs to. Each Guard
// has a policy of its own.
type mark struct {
	by   *Guard
	step string
}

// marks records the steps that the pieces in front of a handler have taken. It is read-only
// once it is in a context.
type marks struct {
	passed     []mark   // the steps that have let the request pass
	principals []found  // the Principals that Authenticators have found, the last one last
	leases     []*Lease // the slots that ConnCaps have reserved
}

// found is the Principal that an Authenticator has found.
type found struct {
	by        *Guard
	principal Principal
}

func marksOf(r *http.Request) marks {
	if m, ok := r.Context().Value(markKey{}).(*marks); ok {
		return *m
	}
	return marks{}
}

// principal returns the Principal that the Authenticator of the Guard by has found.
func (m marks) principal(by *Guard) (Principal, bool) {
	for _, f := range m.principals {
		if f.by == by {
			return f.principal, true
		}
	}
	return Principal{}, false
}

// has reports whether a step has been taken for the request. A mark of another Guard counts
// for nothing.
func (m marks) has(by *Guard, step string) bool { return slices.Contains(m.passed, mark{by, step}) }

// pass returns m with one more step that has been taken.
func (m marks) pass(by *Guard, step string) marks {
	m.passed = append(slices.Clip(m.passed), mark{by, step})
	return m
}

// find returns m with the Principal that an Authenticator has found.
func (m marks) find(by *Guard, p Principal) marks {
	m.principals = append(slices.Clip(m.principals), found{by, p})
	return m
}

// in returns ctx with the marks.
func (m marks) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, markKey{}, &m)
}

// on returns r with the marks.
func (m marks) on(r *http.Request) *http.Request { return r.WithContext(m.in(r.Context())) }

// ownPage reports whether a page of a listed origin sends r. A Guard uses its own origins. A
// piece that stands alone uses the origin checks in front of it. There must be at least one,
// and each must list the origin.
func (p *policy) ownPage(r *http.Request) bool {
	if !p.origin.none {
		return p.origin.page(r)
	}
	own := false
	for _, passed := range marksOf(r).passed {
		if passed.step == stepOrigin {
			if !passed.by.policy.Load().origin.page(r) {
				return false
			}
			own = true
		}
	}
	return own
}

// refuse answers a request that does not pass, and reports it by e.
func (a *admission) refuse(w http.ResponseWriter, err error, e audit.Event) {
	d := asDenied(err)
	e.Kind, e.Err, e.Reason, e.Detail, e.Status = audit.Refusal, err, d.Token(), d.detail, d.statusCode()
	if e.Code != 0 {
		e.Status = http.StatusSwitchingProtocols // the close code has told the refusal
	}
	if hasBody(a.r) {
		// A body that never comes would keep net/http reading it.
		http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	d.write(w)
	a.g.events.emit(e)
}

// clientOf returns the client that has sent a request, for an event.
func (g *Guard) clientOf(r *http.Request) string {
	if who, err := g.policy.Load().client.of(r); err == nil {
		return who.String()
	}
	if addr, _, err := clientip.Peer(r.RemoteAddr); err == nil && addr.IsValid() {
		return addr.String()
	}
	return r.RemoteAddr
}

// report reports a refusal by a step that only reports.
func (g *Guard) report(r *http.Request, err error) {
	d := asDenied(err)
	g.events.emit(audit.Event{
		Kind: audit.Violation, Err: err, Reason: d.Token(), Detail: d.detail, Report: true,
		Client: g.clientOf(r), Origin: r.Header.Get("Origin"), Host: r.Host,
	})
}
