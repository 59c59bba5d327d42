package wsguard

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/seen"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// step is one step on the way into a Guard. It may refuse with one of its reasons. A step
// that takes something, such as a slot, calls admission.takes with the function that gives
// it back.
type step struct {
	name    string
	reasons []*reason.Reason
	run     func(*admission) error
}

// Names of the steps that pieces stand for, and that marks name.
const (
	stepHost       = "host"
	stepTLS        = "clear text"
	stepOrigin     = "origin"
	stepRate       = "handshake rate"
	stepSlot       = "connection slot"
	stepCredential = "credential"
	stepSubject    = "subject rate"
)

type reasons = []*reason.Reason

var (
	drainingStep     = step{"draining", reasons{reason.Draining}, (*admission).notDraining}
	formStep         = step{"form", reasons{reason.HTTPVersion, reason.Body, reason.Method, reason.NotUpgrade, reason.Version, reason.HeaderTooLarge, reason.Handshake}, func(a *admission) error { return checkUpgrade(a.r) }}
	methodStep       = step{"method", reasons{reason.Method}, (*admission).isPost}
	hijackStep       = step{"hijackable", reasons{reason.NotHijackable}, (*admission).hijackable}
	addressStep      = step{"client address", reasons{reason.ClientAddress, reason.Unavailable}, (*admission).address}
	loopbackStep     = step{"loopback", reasons{reason.ClientAddress}, (*admission).checkLoopback} // of a RequestCheck, which needs no client
	banStep          = step{"ban", reasons{reason.Banned}, func(a *admission) error { return a.g.banned(a.client) }}
	hostStep         = step{stepHost, reasons{reason.Host}, (*admission).checkHost}
	tlsStep          = step{stepTLS, reasons{reason.InsecureTransport}, (*admission).checkTLS}
	originStep       = step{stepOrigin, reasons{reason.Origin, reason.FetchMetadata, reason.Unavailable, reason.HandshakeRate, reason.InFlight}, (*admission).checkOrigin}
	originPostStep   = step{stepOrigin, reasons{reason.Origin, reason.Unavailable, reason.HandshakeRate, reason.InFlight}, (*admission).checkOriginOfPost}
	askOriginStep    = step{"ask origin", reasons{reason.Unavailable, reason.HandshakeRate, reason.InFlight}, (*admission).askOrigin}
	subprotocolStep  = step{"subprotocol", reasons{reason.Subprotocol}, (*admission).chooseSubprotocol}
	subjectRateStep  = step{stepSubject, reasons{reason.HandshakeRate}, (*admission).chargeSubject}
	rateStep         = step{stepRate, reasons{reason.HandshakeRate}, (*admission).chargeRate}
	flightStep       = step{"in flight", reasons{reason.InFlight}, (*admission).takePlace}
	slotStep         = step{stepSlot, reasons{reason.MaxConns, reason.MaxClientConns}, (*admission).takeSlot}
	shareStep        = step{"share of the unauthenticated", reasons{reason.MaxConns, reason.MaxClientConns}, (*admission).takeShare}
	credentialStep   = step{stepCredential, reasons{reason.Guessing, reason.Unauthenticated, reason.Unavailable, reason.MaxConns, reason.MaxClientConns}, (*admission).authenticate}
	loginStep        = step{"login", reasons{reason.Guessing, reason.Unauthenticated, reason.Unavailable}, (*admission).askLogin}
	sharedStep       = step{"shared limits", reasons{reason.HandshakeRate, reason.Guessing, reason.MaxConns, reason.MaxClientConns, reason.Unavailable}, (*admission).askShared}
	sharedRateStep   = step{"shared limits", reasons{reason.HandshakeRate, reason.Guessing, reason.Unavailable}, (*admission).askShared}
	theirStep        = step{"shared limits of the subject", reasons{reason.HandshakeRate, reason.MaxSubjectConns, reason.Unavailable}, (*admission).askSharedSubject}
	subjectStep      = step{"subject slot", reasons{reason.MaxSubjectConns}, (*admission).takeSubjectSlot}
	knownSubjectStep = step{"subject slot", reasons{reason.MaxSubjectConns}, (*admission).takeKnownSubjectSlot}
	registerStep     = step{"register", reasons{reason.Revoked, reason.Banned}, (*admission).register}
	revokedStep      = step{"revoked", reasons{reason.Revoked}, (*admission).notRevoked}
	attachStep       = step{"Attach", reasons{reason.Forbidden, reason.Unavailable, reason.Revoked, reason.Draining, reason.Banned}, (*admission).attachValue}
	replaceStep      = step{"replacement", nil, (*admission).replaceOldest}
	sellStep         = step{"sale", reasons{reason.Tickets, reason.Unavailable}, (*admission).sell}
)

// The lists. A handshake, the credential in a first message, the sale of a ticket, a refresh,
// and a refresh that makes an anonymous connection somebody's run the same steps.
var (
	handshakeSteps = []step{
		drainingStep, formStep, hijackStep, addressStep, banStep, hostStep, tlsStep, originStep, subprotocolStep,
		rateStep, flightStep, slotStep, shareStep, sharedStep, credentialStep, subjectRateStep,
		subjectStep, theirStep, registerStep, attachStep, replaceStep,
	}
	firstMessageSteps = []step{flightStep, credentialStep, subjectRateStep, subjectStep, theirStep, registerStep, attachStep, replaceStep}
	saleSteps         = []step{
		drainingStep, methodStep, addressStep, banStep, hostStep, tlsStep, originPostStep,
		rateStep, flightStep, sharedRateStep, loginStep, subjectRateStep, theirStep, revokedStep, sellStep,
	}
	refreshSteps = []step{flightStep, credentialStep}
	becomeSteps  = []step{flightStep, credentialStep, subjectRateStep, subjectStep, theirStep, registerStep, attachStep, replaceStep}
)

// credentialAt is the index of credentialStep in firstMessageSteps. With
// InsecureReportOnly a refusal of the steps up to it is only reported.
const credentialAt = 1

// admission is one request, or one credential, on its way in. The goroutine that runs the steps
// owns it.
type admission struct {
	*endpointPolicy
	e     *Endpoint
	g     *Guard
	r     *http.Request   // nil for a refresh; for become, nil if the request was not kept
	ctx   context.Context // bounds every wait of the steps
	marks marks
	undo  []func()
	begun time.Time // when the admission was made

	w       http.ResponseWriter // nil for a refresh, and for the Check of a piece
	wrapped bool                // for Guard.Wrap
	login   func(*http.Request) (Principal, error)
	ticket  string // the ticket that a sale has sold

	client      client
	from        string   // the Origin, as a connection keeps it
	known       bool     // the origin is right, so no foreign page has caused the request; false for InsecureAnyOrigin
	paid        bool     // the client was charged for the handshake
	lately      seen.Key // what the request presents, if the client was not charged
	selling     bool     // the request buys a ticket
	ownPage     bool     // a page of a listed origin sends the request
	subprotocol string
	sought      bool // cred and credErr are set
	cred        credential
	credErr     error
	used        *usedTicket // the ticket that was the credential
	fetched     *fetched    // the ticket, if the shared store was asked for it together with the slots
	elsewhere   bool        // the connection replaces one of another instance
	sharedPaid  bool        // the client was charged for the handshake in the shared store
	await       bool        // the first message must be the credential
	fl          *flight
	lease       *Lease   // of this Guard's State
	leases      []*Lease // all of them move to the Conn
	principal   Principal
	stripped    *http.Request // without the credentials that end up in logs
	session     *session
	value       any
	conn        *Conn
	answered    bool // nothing more can be answered
	gone        bool // the client had gone before its refusal could be explained
}

// admission returns the admission of r, which has not taken a step yet.
func (e *Endpoint) admission(r *http.Request) *admission {
	return &admission{
		endpointPolicy: e.policy(), e: e, g: e.g, r: r, ctx: r.Context(), marks: marksOf(r), from: r.Header.Get("Origin"), stripped: r,
		begun: time.Now(),
	}
}

// run takes steps in turn, until one refuses.
func (a *admission) run(steps []step) error {
	if a.broken != nil {
		return deny(a.broken, "the configuration of the piece has faults")
	}
	for i := range steps {
		if err := steps[i].run(a); err != nil {
			return err
		}
	}
	return nil
}

// takes pushes undo, which gives back something that a step has taken, on the undo stack.
func (a *admission) takes(undo func()) { a.undo = append(a.undo, undo) }

// gauges returns where the use of limits is noted.
func (a *admission) gauges() *gauges { return a.g.events.meter.gauges }

// unwind gives back what the steps have taken, once.
func (a *admission) unwind() {
	undo := a.undo
	a.undo = nil
	for _, give := range undo {
		defer give() // the last first, and each whatever the others do
	}
}

func (a *admission) notDraining() error {
	if a.g.Draining() {
		return deny(reason.Draining, "")
	}
	return nil
}

func (a *admission) isPost() error {
	if a.r.Method == http.MethodPost {
		return nil
	}
	d := deny(reason.Method, "not a POST")
	d.allow = http.MethodPost
	return d
}

func (a *admission) hijackable() error {
	if !wire.Hijackable(a.w) {
		return deny(reason.NotHijackable, "the ResponseWriter has neither Hijack nor Unwrap")
	}
	return nil
}

func (a *admission) address() (err error) {
	if err = a.checkLoopback(); err != nil {
		return err
	}
	if a.client, err = a.policy.client.of(a.r); err == nil {
		a.notice()
	}
	return err
}

func (a *admission) checkHost() error {
	if a.passed(stepHost) {
		return nil
	}
	return a.host.check(a.r)
}

func (a *admission) checkTLS() error {
	if a.passed(stepTLS) {
		return nil
	}
	return a.checkTransport(a.r)
}

func (a *admission) checkOrigin() error { return a.judgeOrigin(a.origin.check) }

func (a *admission) checkOriginOfPost() error { return a.judgeOrigin(a.origin.checkPost) }

func (a *admission) judgeOrigin(check func(page, *http.Request) error) error {
	p, err := a.pageOf()
	if err != nil {
		return err
	}
	err = check(p, a.r)
	a.ownPage, a.known = p == pageOwn, err == nil && p != pageAny
	switch {
	case a.passed(stepOrigin):
		return nil // the piece in front has reported it if need be
	case err != nil && a.origin.report:
		a.reportOnly(err)
		return nil
	}
	return err
}

// askOrigin evaluates the origin for a piece in front of the origin step, and refuses
// nothing. A request that a foreign page has sent is charged to a bucket of its own.
func (a *admission) askOrigin() error {
	if a.origin.none {
		a.ownPage, a.known = a.inFront()
		return nil
	}
	p, err := a.pageOf()
	if err != nil {
		return err
	}
	a.ownPage, a.known = p == pageOwn, p != pageAny && a.origin.check(p, a.r) == nil
	return nil
}

func (a *admission) chooseSubprotocol() (err error) {
	a.subprotocol, err = a.negotiate(a.r, a.wrapped)
	return err
}

// chargeRate charges the handshake, or the sale of a ticket, to its client.
func (a *admission) chargeRate() error {
	if a.passed(stepRate) {
		a.paid = true
		return nil
	}
	err := a.g.state.rates.handshake(a.client, !a.known, a.rates.Handshakes)
	if err != nil && a.acceptedLately() {
		return nil // others at the address have used up its rate; only the subject is charged
	}
	a.g.sessions.usage.handshake(handshaker{client: a.client.key()}, 1)
	if a.paid = err == nil; a.paid {
		return nil
	}
	a.gauges().refuse(limitHandshakes)
	if a.rates.ReportOnly {
		a.reportOnly(err)
		return nil
	}
	return err
}

// acceptedLately reports whether the request presents a credential that was accepted not long
// ago.
func (a *admission) acceptedLately() bool {
	kind, secret := "token", ""
	if a.selling {
		kind, secret = a.soldTo()
	} else if a.seek(); a.credErr == nil && a.cred.kind != sourceNone && a.cred.kind != sourceTicket {
		secret = a.cred.token
	} else if a.credErr == nil && a.cred.kind == sourceNone && a.auth.cfg.Authenticate != nil {
		kind, secret = "login", a.presented(a.r)
	}
	a.lately = a.g.state.lately.Key(kind, secret)
	return a.known && secret != "" && a.g.state.lately.Look(a.lately)
}

// notAccepted forgets that a credential was accepted that has let a handshake pass its
// client's rate, and that is refused now.
func (a *admission) notAccepted() {
	if !a.paid && a.r != nil {
		a.g.state.lately.Forget(a.lately)
	}
}

// chargeSubject charges an authenticated handshake, or sale of a ticket, to its subject in
// place of its client.
func (a *admission) chargeSubject() error {
	if a.await || a.principal.anonymous() || a.passed(stepSubject) {
		return nil
	}
	again := slices.ContainsFunc(a.marks.passed, func(m mark) bool { return m.by == a.g && m.step == stepSubject })
	err := a.g.state.rates.authenticated(a.client, !a.known, a.paid && !again, a.principal.Subject, a.rates.Handshakes)
	a.g.sessions.usage.handshake(handshaker{subject: a.principal.Subject}, 1)
	if err != nil {
		a.gauges().refuse(limitHandshakes)
	} else if a.paid && !again {
		a.g.sessions.usage.handshake(handshaker{client: a.client.key()}, -1)
	}
	if err != nil && a.rates.ReportOnly {
		a.report(err)
		return nil
	}
	return a.returnTicket(err)
}

func (a *admission) takePlace() (err error) {
	limits := a.rates
	if a.observe {
		limits.MaxInFlight, limits.MaxInFlightPerClient = 0, 0
	}
	if a.fl, err = a.g.state.inFlight.fly(a.ctx, a.client, limits); err != nil {
		a.gauges().refusedBy(err)
		return err
	}
	a.takes(a.land)
	a.observeFlight()
	return nil
}

// land gives the place in flight back. Calling it again does nothing.
func (a *admission) land() {
	a.fl.done()
	a.fl = nil
}

func (a *admission) takeSlot() error {
	a.leases = a.marks.leases
	for _, l := range a.marks.leases {
		if l.slots == a.g.state.slots {
			a.lease = l // a piece in front has it
			if a.passed(stepSlot) {
				return nil
			}
			return a.reportOver(l.over(a.caps)) // a Guard with other caps has taken it
		}
	}
	l, over := a.g.state.slots.acquire(a.client, a.stranger(), a.caps, a.gauges())
	if l != nil {
		a.lease = l
		a.leases = append(a.leases[:len(a.leases):len(a.leases)], l)
		a.takes(l.releaseUnlessMoved)
	}
	return a.reportOver(over)
}

// stranger reports whether no credential is presented.
func (a *admission) stranger() bool {
	if p, known := a.found(); known {
		return p.anonymous()
	}
	if _, known := PrincipalOf(a.r); known { // found by a piece that stands alone
		return false
	}
	a.seek()
	return a.credErr == nil && a.cred.kind == sourceNone && (a.auth.cfg.Authenticate == nil || a.presented(a.r) == "")
}

// takeShare counts a handshake toward MaxUnauthenticated if it presents no credential and
// the first message may be one.
func (a *admission) takeShare() error {
	if _, known := a.found(); known || !a.auth.cfg.Sources.FirstMessage {
		return nil
	}
	a.seek()
	if a.credErr != nil || a.cred.kind != sourceNone || a.auth.cfg.Authenticate != nil {
		return nil
	}
	return a.awaitCredential()
}

// awaitCredential makes the first message the credential, and counts the handshake toward
// MaxUnauthenticated.
func (a *admission) awaitCredential() error {
	a.await = true
	if a.lease == nil { // in a piece; the Guard behind counts it
		return nil
	}
	if err := a.reportOver(a.lease.anonymous(a.caps, a.gauges())); err != nil {
		return err
	}
	return a.reportOver(a.lease.await(a.caps, a.gauges()))
}

// reportOver returns over, the error of a cap that is exceeded. With CapConfig.ReportOnly it
// reports over instead and returns nil.
func (a *admission) reportOver(over error) error {
	a.gauges().refusedBy(over)
	if over != nil && a.caps.ReportOnly {
		a.report(over)
		return nil
	}
	return over
}

// report reports what would have been refused, if that were not only reported.
func (a *admission) report(err error) {
	if a.conn == nil {
		a.reportOnly(err)
		return
	}
	d := asDenied(err)
	a.conn.report(d.Reason, d.detail, audit.ActionReport)
}

func (a *admission) takeSubjectSlot() error {
	switch {
	case a.await:
		return nil
	case a.principal.anonymous():
		return a.reportOver(a.lease.anonymous(a.caps, a.gauges()))
	}
	if err := a.returnTicket(a.reportOver(a.lease.bind(a.principal.Subject, a.caps, a.gauges()))); err != nil {
		return err
	}
	if a.conn != nil {
		a.takes(a.lease.disown)
	}
	return nil
}

// takeKnownSubjectSlot applies the subject's cap in a ConnCap behind an Authenticator.
func (a *admission) takeKnownSubjectSlot() error {
	p, ok := PrincipalOf(a.r)
	if !ok {
		return nil
	}
	if a.caps.ReplaceOldest {
		return nil // the Guard behind knows what to replace
	}
	return a.reportOver(a.lease.bind(p.Subject, a.caps, a.gauges()))
}

// replaceOldest ends the oldest connection of the subject, if the newcomer has taken its place.
func (a *admission) replaceOldest() error {
	if old := a.lease.replaceOldest(); old != nil {
		old.end(because(reason.Replaced, ""))
	}
	if a.elsewhere {
		a.g.shared.replace(a.principal.Subject)
	}
	return nil
}

// register lists the session before the last look at revocations. So a revocation that races
// with the handshake either finds the session or is found here.
func (a *admission) register() error {
	if a.await {
		return nil
	}
	a.session = a.g.state.registry.register(a.principal)
	session := a.session
	a.takes(func() { a.g.state.registry.unregister(session) })
	if err := a.notRevoked(); err != nil {
		return err
	}
	return a.g.banned(a.client) // a ban may have come during the verification
}

func (a *admission) notRevoked() error {
	if a.g.state.registry.revoked(a.principal) {
		return deny(reason.Revoked, "")
	}
	return nil
}

// attachValue calls Attach. Afterwards it looks for a revocation or a drain that has begun
// meanwhile.
func (a *admission) attachValue() (err error) {
	if !a.await {
		if a.value, err = a.callAttach(a.stripped, a.principal); err != nil {
			return err
		}
		value := a.value
		a.takes(func() { closeValue(value) })
		if a.session.isKilled() {
			return deny(reason.Revoked, "")
		}
	}
	if a.conn == nil && a.g.Draining() {
		return deny(reason.Draining, "")
	}
	return a.g.banned(a.client)
}
