package wsguard

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/reason"
)

// Pieces are steps of a Guard that can stand in front of other middleware. Use them to
// refuse a request before that middleware runs. If a request has passed the Handler of a
// piece, the handler of the same Guard behind it does not repeat that step. The pieces may
// stand in any order.
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

// RequestCheck checks a request's origin, host or transport. It reserves no slot, and charges no
// rate. A check of the origin with an OriginFunc is different. It takes a place of
// RateConfig.MaxInFlight during a call of OriginFunc. If it is from [Guard.Pieces], it also charges
// the call to Rates.Handshakes. [NewOriginCheck], [NewHostCheck] and [NewTLSCheck] make one that
// stands alone, and [Guard.Pieces] returns those of a Guard. Many goroutines may use it at the same
// time.
type RequestCheck struct {
	g    *Guard // read-only
	step string // read-only
}

// newCheck returns a RequestCheck that stands alone. If err is not nil, the RequestCheck
// refuses every request with the reason why, because some callers ignore the error.
func newCheck(p *policy, cfg Config, step string, why *reason.Reason, err error) (*RequestCheck, error) {
	if err != nil {
		p.broken = why
	}
	return &RequestCheck{standAlone(p, cfg), step}, err
}

// standAlone returns a Guard that has one step only. It reports as cfg says.
func standAlone(p *policy, cfg Config) *Guard {
	g := &Guard{born: time.Now(), state: cfg.State, events: standalone()}
	if cfg.Logger != nil || cfg.OnEvent != nil || cfg.Observer != nil {
		g.events = newSink(cfg)
	}
	if g.state == nil {
		g.state = NewState()
	}
	g.sessions = newSessions(g)
	g.endpoint = &Endpoint{g: g}
	g.policy.Store(p)
	return g
}

// standalone is the sink to which pieces that stand alone report.
var standalone = sync.OnceValue(func() *sink { return newSink(Config{}) })

func (c *RequestCheck) steps() []step {
	return []step{loopbackStep, map[string]step{stepOrigin: originStep, stepHost: hostStep, stepTLS: tlsStep}[c.step]}
}

// Check returns nil if r passes. Otherwise it returns an error that wraps reason.Origin,
// reason.FetchMetadata, reason.Host or reason.InsecureTransport. With Config.LoopbackOnly the
// error may also wrap reason.ClientAddress. With an OriginFunc it may also wrap
// reason.Unavailable, reason.HandshakeRate or reason.InFlight.
func (c *RequestCheck) Check(r *http.Request) error {
	a := c.g.endpoint.admission(r)
	a.marks.passed = nil // it judges r anew
	defer a.unwind()
	return a.run(c.steps())
}

// Handler passes a request to next, or answers 403 or 421. With an OriginFunc it may also
// answer 429 or 503.
func (c *RequestCheck) Handler(next http.Handler) http.Handler {
	steps := c.steps()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := c.g.endpoint.admission(r)
		if !a.passed(c.step) {
			if !a.piece(w, steps) {
				return
			}
			a.unwind() // the place in flight of OriginFunc
			r = a.pass(r, c.step).on(r)
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
	a.w = w
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

// scope is what a request was when a mark was made. A request that was made inside with another
// Origin, Host or credential does not profit from the mark.
type scope struct {
	origin, host string
	credential   string // of the Guard's sources, in a request from which Authenticator.Handler has removed it where it ends up in logs
}

// mark names a step that has been taken, the Guard that the step belongs to, and what it was
// taken for. Each Guard has a policy of its own.
type mark struct {
	by    *Guard
	step  string
	of    scope
	known bool // for the origin step: no foreign page sends the request
	own   bool // for the origin step: a page of an allowed origin sends the request
}

// holds reports whether the mark holds for a request that is now.
func (m mark) holds(now scope) bool {
	switch m.step {
	case stepHost:
		return m.of.host == now.host
	case stepOrigin:
		return m.of.host == now.host && m.of.origin == now.origin
	case stepRate:
		return m.of.origin == now.origin
	case stepCredential, stepSubject:
		return m.of.credential == now.credential || now.credential == "" // a middleware may remove it
	}
	return true
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
	used      *usedTicket // the ticket that was the credential
}

func marksOf(r *http.Request) marks {
	if m, ok := r.Context().Value(markKey{}).(*marks); ok {
		return *m
	}
	return marks{}
}

// scopeOf returns what r is now.
func (a *admission) scopeOf(r *http.Request) scope {
	s := scope{origin: strings.Join(r.Header["Origin"], ","), host: r.Host}
	switch cred, err := find(r, a.auth.sources); {
	case err != nil:
		s.credential = "unreadable"
	case cred.kind != sourceNone:
		s.credential = strconv.Itoa(int(cred.kind)) + cred.token
	case a.auth.cfg.Authenticate != nil:
		s.credential = a.presented(r)
	}
	return s
}

// passed reports whether a piece of the Guard in front has taken a step for the request. A
// mark of another Guard counts for nothing.
func (a *admission) passed(step string) bool {
	i := slices.IndexFunc(a.marks.passed, func(m mark) bool { return m.by == a.g && m.step == step })
	return i >= 0 && a.marks.passed[i].holds(a.scopeOf(a.r))
}

// found returns the Principal that the Guard's Authenticator in front has found.
func (a *admission) found() (Principal, bool) {
	i := slices.IndexFunc(a.marks.principals, func(f found) bool { return f.by == a.g })
	if i < 0 || !a.passed(stepCredential) {
		return Principal{}, false
	}
	a.used = a.marks.principals[i].used
	return a.marks.principals[i].principal, true
}

// pass returns the marks of the admission with steps that have been taken for r. A mark that
// does not hold any more is replaced.
func (a *admission) pass(r *http.Request, steps ...string) marks {
	m := a.marks
	m.passed = slices.DeleteFunc(slices.Clone(m.passed), func(old mark) bool { return old.by == a.g && slices.Contains(steps, old.step) })
	now := a.scopeOf(r)
	for _, step := range steps {
		m.passed = append(m.passed, mark{a.g, step, now, a.known, a.ownPage})
	}
	return m
}

// find returns m with the Principal that an Authenticator has found.
func (m marks) find(by *Guard, p Principal, used *usedTicket) marks {
	m.principals = append(slices.DeleteFunc(slices.Clone(m.principals), func(f found) bool { return f.by == by }), found{by, p, used})
	return m
}

// in returns ctx with the marks.
func (m marks) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, markKey{}, &m)
}

// on returns r with the marks.
func (m marks) on(r *http.Request) *http.Request { return r.WithContext(m.in(r.Context())) }

// inFront returns what the origin checks in front of a piece that stands alone say: whether a page
// of an allowed origin sends the request, and whether no foreign page does. Each of them must say
// so. Without one, only a request without an Origin is known.
func (a *admission) inFront() (own, known bool) {
	checked, now := false, a.scopeOf(a.r)
	own, known = true, true
	for _, m := range a.marks.passed {
		if m.step == stepOrigin {
			holds := m.holds(now)
			checked, own, known = true, own && m.own && holds, known && m.known && holds
		}
	}
	if !checked {
		return false, len(a.r.Header["Origin"]) == 0
	}
	return own, known
}

// refuse answers a request that does not pass, and reports it by e.
func (a *admission) refuse(w http.ResponseWriter, err error, e occurrence) {
	d := asDenied(err)
	e.Kind, e.Err, e.Reason, e.Detail, e.Status = audit.Refusal, err, d.Token(), d.detail, d.statusCode()
	e.Duration = time.Since(a.begun)
	switch {
	case e.Code != 0:
		e.Status = http.StatusSwitchingProtocols // the close code has told the refusal
	case a.gone:
		e.Status = 0
	}
	if hasBody(a.r) {
		// A body that never comes would keep net/http reading it.
		http.NewResponseController(w).SetReadDeadline(time.Now())
	}
	d.write(w)
	a.g.events.tell(e, nil)
}

// clientOf returns the client that has sent a request, for an event. The key is zero if it is
// not known.
func (g *Guard) clientOf(r *http.Request) (who string, key clientKey) {
	if who, err := g.policy.Load().client.of(r); err == nil {
		return who.String(), who.key()
	}
	if addr, _, err := clientip.Peer(r.RemoteAddr); err == nil && addr.IsValid() {
		return addr.String(), clientKey{}
	}
	return r.RemoteAddr, clientKey{}
}

// reportOnly reports a refusal by a step that only reports.
func (a *admission) reportOnly(err error) {
	d := asDenied(err)
	e := a.event()
	e.Kind, e.Err, e.Reason, e.Detail, e.Report, e.Action = audit.Violation, err, d.Token(), d.detail, true, audit.ActionReport
	a.g.events.tell(e, nil)
}
