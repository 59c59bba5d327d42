package wsguard

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// authentication is the part of a connection that has its principal, the expiry, and the
// time of the next Revalidate. Until begin, the goroutine that authenticates owns it. That
// goroutine runs the handshake, or the method authenticate. After begin, the holder of
// refreshMu owns it.
type authentication struct {
	principal atomic.Pointer[Principal]
	session   *session                 // read-only after begin; nil until a credential is accepted
	value     any                      // the value that Attach returned before begin; read-only after begin
	newer     atomic.Pointer[attached] // the value that Attach returned for become; nil: none
	request   *http.Request            // what become gives to Attach; read-only after begin; nil: not kept
	awaiting  atomic.Bool              // the first message must be the credential
	authBy    time.Time                // the deadline of the first message; read-only after start
	recheck   atomic.Int64             // when to revalidate, as watch.due counts, or since when it waits for a place; 0: never, or it is under way
	stage     atomic.Int32             // the stage of the next Revalidate, or of the one under way
	turn      int                      // 1 + its index in revalidations.queue; guarded by revalidations.mu; 0: it does not wait

	refreshMu gate          // one Refresh at a time; see conn.go for the order
	refreshes *rate.Limiter // guarded by refreshMu; made when needed
}

// gate is a lock. A goroutine that waits for it can give up.
type gate struct {
	mu     sync.Mutex    // no other lock is taken while it is held
	held   bool          // guarded by mu
	opened chan struct{} // guarded by mu: closed when the gate is unlocked; nil while nobody waits
}

// lock reports false if ctx has ended before the gate was unlocked.
func (g *gate) lock(ctx context.Context) bool {
	for {
		g.mu.Lock()
		if !g.held {
			g.held = true
			g.mu.Unlock()
			return true
		}
		if g.opened == nil {
			g.opened = make(chan struct{})
		}
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return false
		}
	}
}

func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// authenticate takes the credential out of the first messages and runs the steps that the
// handshake could not run. If it returns an error, that error has ended the connection. r is
// the request for Attach. start has counted authenticate as a holder of the connection.
func (c *Conn) authenticate(ctx context.Context, r *http.Request) error {
	defer c.done()
	token, err, ended := c.firstCredential(ctx)
	if ended != nil {
		return ended
	}
	// The message came in time. The verifier's time must not count toward the deadline.
	c.who.awaiting.Store(false)
	a := c.admission(c.ctx, r)
	defer a.unwind()
	switch {
	case err == nil:
		a.cred, a.sought = credential{sourceFirstMessage, token}, true
		err = a.run(firstMessageSteps[:credentialAt+1])
	case err == ErrNoCredential && a.auth.cfg.InsecureAnonymous:
		err = nil
	case err != ErrNoCredential && a.auth.cfg.InsecureReportOnly:
		c.w.Again() // it is no message of the protocol, so the application gets it
	}
	if err != nil && a.auth.cfg.InsecureReportOnly {
		d := asDenied(err)
		c.refused(d.Reason, d.detail, audit.ActionReport)
		a.principal, err = Principal{}, nil
	}
	if err == nil {
		p := a.principal
		c.who.principal.Store(&p)
		err = a.run(firstMessageSteps[credentialAt+1:])
	}
	var greeting []byte
	if err == nil {
		greeting, err = c.accepted(a.principal)
	}
	if err != nil {
		return c.end(badCredential(asDenied(err)))
	}
	c.who.session, c.who.value = a.session, a.value
	if a.principal.anonymous() {
		c.who.request = r
	}
	a.land()
	a.undo = nil // the connection owns what the steps have taken
	c.life.lease.authenticated()
	in := &c.reading
	in.fit(c.e.policy())
	sent := in.rates.sent
	in.rates = c.g.state.rates.conn(in.policy.rates, c.client, a.principal.Subject)
	in.rates.sent = sent
	in.lease(in.policy.rates)
	c.begin()
	if err := c.say(greeting); err != nil {
		return err
	}
	return c.cause()
}

// attached is a value that Attach has returned.
type attached struct{ value any }

// gone stands in the place of a newer value if the connection has given everything back
// without one.
var gone = new(attached)

// admission returns the admission of a credential that comes over the connection. r is the
// request for Attach, and nil if no step calls it.
func (c *Conn) admission(ctx context.Context, r *http.Request) *admission {
	return &admission{
		endpointPolicy: c.e.policy(), e: c.e, g: c.g, conn: c, r: r, stripped: r, ctx: ctx,
		client: c.client, from: c.origin, known: c.known, paid: true, lease: c.life.lease,
	}
}

// presentedLater returns the admission of a credential that is given to Refresh.
func (c *Conn) presentedLater(ctx context.Context, r *http.Request, token string) (*admission, error) {
	if token == "" || len(token) > maxToken {
		return nil, deny(reason.Unauthenticated, "empty or over-long credential")
	}
	if c.who.refreshes == nil {
		c.who.refreshes = rate.NewLimiter(rate.Every(10*time.Second), 3)
	}
	if !c.who.refreshes.Allow() {
		return nil, deny(reason.RateLimited, "")
	}
	a := c.admission(ctx, r)
	a.cred, a.sought = credential{sourceFirstMessage, token}, true
	if a.auth.cfg.Verifier == nil {
		a.cred.kind = sourceTicket
	}
	return a, nil
}

// refreshed judges a newer credential.
func (c *Conn) refreshed(ctx context.Context, token string) (Principal, error) {
	a, err := c.presentedLater(ctx, nil, token)
	if err != nil {
		return Principal{}, err
	}
	defer a.unwind()
	err = a.run(refreshSteps)
	return a.principal, err
}

// become makes an anonymous connection that of somebody, if the steps accept the credential.
// A refusal leaves it anonymous. The caller holds refreshMu.
func (c *Conn) become(ctx context.Context, token string) error {
	r := c.who.request
	if r != nil {
		// The context of Attach ends with ctx, and has no values.
		own, cancel := context.WithCancel(context.Background())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		r = r.WithContext(own)
	}
	a, err := c.presentedLater(ctx, r, token)
	if err != nil {
		return err
	}
	defer a.unwind()
	if a.attach != nil && a.r == nil {
		return deny(reason.Unavailable, "Attach is newer than the connection, whose request was not kept")
	}
	if err := a.run(becomeSteps); err != nil {
		return err
	}
	registered, killed := c.g.state.registry.succeed(c.who.session, a.session)
	switch {
	case killed:
		return deny(reason.Revoked, "")
	case !registered, a.attach != nil && !c.who.newer.CompareAndSwap(nil, &attached{a.value}):
		return c.cause() // the connection has given everything back
	}
	a.land()
	a.undo = nil // the connection owns what the steps have taken
	p := a.principal
	c.who.principal.Store(&p)
	c.reading.stale.Store(true)
	c.checkAgain(p, spread(a.auth.cfg.RevalidateEvery))
	c.schedule(time.Now())
	return nil
}

// refresh implements Refresh.
func (c *Conn) refresh(ctx context.Context, token string) error {
	if !c.who.refreshMu.lock(ctx) {
		return c.stopped(ctx)
	}
	defer c.who.refreshMu.unlock()
	if err := c.cause(); err != nil {
		return err
	}
	old := c.who.principal.Load()
	var p Principal
	var err error
	if old.anonymous() {
		err = c.become(ctx, token)
	} else {
		p, err = c.refreshed(ctx, token)
	}
	switch {
	case c.cause() != nil:
		return c.cause() // the connection has ended meanwhile
	case err != nil:
		d := asDenied(err)
		c.refused(d.Reason, "refresh: "+d.detail, audit.ActionRefuse)
		return err
	case old.anonymous():
	case p.Subject != old.Subject:
		return c.end(violation(reason.Refresh, ""))
	case p.IssuedAt.Before(old.IssuedAt): // a thief may have kept it
		c.refused(reason.Unauthenticated, "refresh: older than the credential in force", audit.ActionRefuse)
		return deny(reason.Unauthenticated, "older than the credential in force")
	case !c.adopt(p):
		return c.cause()
	}
	c.g.events.emit(c.event(audit.Refresh))
	return nil
}

// adopt makes p the connection's principal from now on. It reports false if the connection
// has ended, because of p or for another reason. The caller holds refreshMu.
func (c *Conn) adopt(p Principal) bool {
	if !c.g.state.registry.identify(c.who.session, p) {
		return false // the connection has ended
	}
	if c.g.state.registry.revoked(p) || c.who.session.isKilled() {
		c.end(because(reason.Revoked, ""))
		return false
	}
	c.who.principal.Store(&p)
	c.schedule(time.Now())
	return true
}
