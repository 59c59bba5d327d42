package wsguard

import (
	"context"
	"slices"
	"time"

	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/reason"
	"github.com/wsguard/wsguard/store"
)

// askShared is the first question of a handshake, and of the sale of a ticket.
func (a *admission) askShared() error {
	sh := a.g.shared
	if sh == nil || sh.admitter == nil {
		return nil
	}
	var q inquiry
	a.askRates(&q)
	t := a.askSlots(&q)
	a.askTicket(&q)
	if q.empty() {
		return nil
	}
	if err := a.refusedLately(&q); err != nil {
		return err
	}
	answer, err := a.put(&q)
	switch {
	case err != nil:
		t.hold(store.Lease{ID: newID(), Scopes: q.Scopes}) // the store has it when it is back
		a.fetched = q.fetched(nil, err)
		return a.withoutStore(&q)
	case answer.Refused == store.RefusedRate, answer.Refused == store.RefusedSlot:
		return a.refusedBy(&q, answer)
	}
	a.fetched = q.fetched(answer.Value, nil)
	id := q.ID
	if answer.Refused == store.RefusedOnce {
		id = newID() // no slot is held, but the refusal of the ticket may only be reported
	}
	t.hold(store.Lease{ID: id, Scopes: q.Scopes})
	a.took(&q, answer)
	return nil
}

// askRates asks for the tokens of the client's handshake, and whether the client may present a
// credential that is not good.
func (a *admission) askRates(q *inquiry) {
	sh := a.g.shared
	if sh.cfg.Rates == nil {
		return
	}
	limit, key := a.rates.Handshakes, a.sharedKey("handshakes/")
	if a.paid && !limit.off() {
		if a.sharedPaid = sh.credits.spend(key); !a.sharedPaid {
			least := int64(1)
			if a.rates.ReportOnly || a.acceptedLately() {
				least = 0 // take the token if it is there
			}
			q.take(forHandshake, key, limit, least, 1)
			if net, ok := a.client.network(); ok {
				q.take(forNetwork, a.sharedNetKey("handshakes/", net), limit.times(perNetwork), least, 1)
			}
		}
	}
	if !a.selling {
		q.messages(sh, clientSpender(a.client), a.rates)
	}
	try, ok := a.attemptAhead()
	if !ok || a.auth.cfg.InsecureReportOnly && !a.selling || a.g.state.acceptedBefore(try) {
		return
	}
	asked, _ := a.failureBuckets(try)
	for _, b := range asked {
		q.take(forFailure, b.name, b.rate, 1, 0)
	}
}

// attemptAhead returns the credential that will be judged. ok is false if there is none.
func (a *admission) attemptAhead() (try attempt, ok bool) {
	if _, known := a.found(); known {
		return try, false
	}
	if a.selling {
		try = attempt{budget: a.g.state.rates.failures}
		try.kind, try.secret = a.soldTo()
		return try, true
	}
	a.seek()
	switch {
	case a.credErr != nil:
		return try, false
	case a.cred.kind == sourceTicket:
		return a.ticketAttempt(), true
	case a.cred.kind != sourceNone:
		return a.tokenAttempt(), true
	case a.auth.cfg.Authenticate != nil && a.loginCounts():
		return a.loginAttempt(), true
	}
	return try, false
}

// askSlots asks for the slots of the connection, unless it has them already. It returns the
// tenancy that will have them, or nil.
func (a *admission) askSlots(q *inquiry) *tenancy {
	sh := a.g.shared
	if sh.cfg.Slots == nil || a.lease == nil || a.caps.ReportOnly {
		return nil
	}
	t := a.lease.tenant(sh.keeper)
	if t.holds(scopeAll) || t.holds(scopeClient) || t.holds(scopeNetwork) {
		return nil // another Guard of the State has asked
	}
	q.ID, q.TTL = newID(), slotLease
	q.scope(scopeAll, a.caps.MaxConns, true)
	q.scope(scopeClient+a.client.key().text(), a.caps.MaxUsersPerClient, false)
	if net, ok := a.client.network(); ok {
		q.scope(scopeNetwork+net.String(), a.caps.MaxConnsPerNetwork, false)
	}
	if len(q.Scopes) == 0 {
		q.ID, q.TTL = "", 0
	}
	return t
}

// fetched is a ticket that was looked up together with the slots.
type fetched struct {
	key   string
	value []byte // nil: there is no such ticket
	err   error
}

// askTicket asks for the ticket, if the shared store has it. A client that has failed too often
// may present only tickets that were sold here.
func (a *admission) askTicket(q *inquiry) {
	if a.selling || a.auth.tickets == nil || a.auth.tickets.shared == nil {
		return
	}
	if _, known := a.found(); known {
		return
	}
	if a.seek(); a.credErr != nil || a.cred.kind != sourceTicket {
		return
	}
	if a.g.shared.unknownMarks() != nil {
		return // the credential step refuses, and the client may use the ticket again
	}
	try := a.ticketAttempt()
	asked, _ := a.failureBuckets(try)
	if _, over := exhausted(try.budget, asked); over && !a.g.state.acceptedBefore(try) {
		return
	}
	q.Once = ticketKey(a.cred.token)
}

func (q *inquiry) fetched(value []byte, err error) *fetched {
	if q.Once == "" {
		return nil
	}
	return &fetched{q.Once, value, err}
}

// took notes the tokens that the store has given. With ReportOnly, it reports those that it has not.
func (a *admission) took(q *inquiry, answer store.Answer) {
	missing := false
	for i, n := range answer.Taken {
		switch q.about[i] {
		case forHandshake:
			a.sharedPaid = n > 0
			missing = missing || n == 0
		case forNetwork, forSubject:
			missing = missing || n == 0
		}
	}
	if missing && a.rates.ReportOnly {
		a.report(denyRetry(reason.HandshakeRate, 0))
	}
}

// refusedLately refuses a handshake that the store has refused a moment ago, and would refuse again.
func (a *admission) refusedLately(q *inquiry) error {
	for i, t := range q.Takes {
		if t.Least == 0 {
			continue
		}
		if wait := a.g.shared.refusals.left(t.Key); wait > 0 {
			return a.overRate(q.about[i], wait)
		}
	}
	return nil
}

// refusedBy returns the refusal that an answer stands for.
func (a *admission) refusedBy(q *inquiry, answer store.Answer) error {
	if answer.Refused == store.RefusedRate {
		a.g.shared.refusals.note(answer.Key, answer.Wait)
		i := slices.IndexFunc(q.Takes, func(t store.Take) bool { return t.Key == answer.Key }) // answers has seen to it that there is one
		return a.overRate(q.about[i], answer.Wait)
	}
	const detail = "of all instances"
	var d *denied
	switch answer.Key {
	case scopeAll:
		d = denyOver(reason.MaxConns, detail, limitConns)
	case scopeClient + a.client.key().text():
		d = denyOver(reason.MaxClientConns, detail, limitUsers)
		d.blameless = true
	case scopeSubject + a.principal.Subject:
		d = denyOver(reason.MaxSubjectConns, detail, limitSubject)
	default:
		d = denyOver(reason.MaxClientConns, "of its /48, "+detail, limitNetwork)
		d.blameless = true
	}
	a.gauges().refusedBy(d)
	return d
}

// overRate returns the refusal of a handshake because of a rate.
func (a *admission) overRate(about taken, wait time.Duration) error {
	if about == forFailure {
		return denyRetry(reason.Guessing, wait)
	}
	d := denyRetry(reason.HandshakeRate, wait)
	switch about {
	case forNetwork:
		d.detail, d.blameless = "of its /48, of all instances", true
	case forSubject:
		d.detail = "of the subject, of all instances"
	default:
		d.detail = "of all instances"
	}
	a.gauges().refuse(limitHandshakes)
	return d
}

// withoutStore decides about a question that no store has answered. The limits of this instance
// have allowed the handshake already, so only its part of the shared ones is left to judge.
func (a *admission) withoutStore(q *inquiry) error {
	sh := a.g.shared
	if len(q.Scopes) > 0 && sh.cfg.CapsFailClosed || len(q.Takes) > 0 && sh.cfg.RatesFailClosed && !a.rates.ReportOnly {
		sh.decided(true)
		return deny(reason.Unavailable, "the shared store failed")
	}
	sh.decided(false)
	n := sh.instances()
	if n == 1 {
		return nil
	}
	for _, about := range q.about {
		if about == forFailure || about == forMessages {
			continue // their bucket is looked at when the credential is judged
		}
		if wait, over := a.overPart(about, n); over && !a.rates.ReportOnly {
			return a.overRate(about, wait)
		}
	}
	if len(q.Scopes) == 0 {
		return nil
	}
	if q.Scopes[0].Key == scopeSubject+a.principal.Subject {
		return a.lease.overSubject(partOf(a.caps.MaxConnsPerSubject, n))
	}
	caps := a.caps
	caps.MaxConns, caps.MaxConnsPerNetwork = partOf(caps.MaxConns, n), partOf(caps.MaxConnsPerNetwork, n)
	caps.MaxUsersPerClient = partOf(caps.MaxUsersPerClient, n)
	return a.lease.over(caps)
}

// overPart reports whether a bucket of this instance, which the handshake was charged to, is used
// up to its part of the limit.
func (a *admission) overPart(about taken, n int) (wait time.Duration, over bool) {
	t, limit := a.g.state.rates.handshakes, a.rates.Handshakes
	key := a.client.keyIn(t, !a.known)
	switch net, ok := a.client.network(); {
	case about == forSubject:
		key = t.String("subject:" + a.principal.Subject)
	case about == forNetwork && ok:
		t, limit = a.g.state.rates.networks, limit.times(perNetwork)
		key = networkKey(t, net, !a.known)
	}
	wait, ok := t.Peek(key, 0, limit.part(n).limit(), time.Now())
	return wait, !ok
}

// askSharedSubject is the second question, after the credential was accepted.
func (a *admission) askSharedSubject() error {
	sh := a.g.shared
	if sh == nil || sh.admitter == nil || a.await || a.principal.anonymous() {
		return nil
	}
	var q inquiry
	if sh.cfg.Rates != nil {
		least := int64(1)
		if a.rates.ReportOnly {
			least = 0
		}
		q.take(forSubject, "handshakes/subject/"+a.principal.Subject, a.rates.Handshakes, least, 1)
	}
	if sh.cfg.Rates != nil && !a.selling {
		q.messages(sh, subjectSpender(a.principal.Subject), a.rates)
	}
	t := a.askSubjectSlot(&q)
	if q.empty() {
		return nil
	}
	if err := a.refusedLately(&q); err != nil {
		return a.returnTicket(err)
	}
	answer, err := a.put(&q)
	if err == nil && answer.Refused == store.RefusedSlot && a.replacesInStore() {
		taken := answer.Taken
		q.Scopes[0].Max++
		q.ID, q.Takes = newID(), nil
		answer, err = a.put(&q)
		answer.Taken = taken
	}
	switch {
	case err != nil:
		t.hold(store.Lease{ID: newID(), Scopes: q.Scopes})
		return a.returnTicket(a.withoutStore(&q))
	case answer.Refused != store.Admitted:
		return a.returnTicket(a.refusedBy(&q, answer))
	}
	t.hold(store.Lease{ID: q.ID, Scopes: q.Scopes})
	if a.sharedPaid && slices.Contains(q.about, forSubject) {
		sh.credits.give(a.sharedKey("handshakes/")) // the handshake counts for its subject now
		a.sharedPaid = false
	}
	a.took(&q, answer)
	return nil
}

// replacesInStore reports whether the handshake may have one slot more than the subject may have,
// because the oldest connection of the subject will end. It may be one of another instance if the
// subject may have only one. Otherwise it would not be known which of them is the oldest.
func (a *admission) replacesInStore() bool {
	if !a.caps.ReplaceOldest {
		return false
	}
	if a.lease.replaceAnyway() {
		return true
	}
	a.elsewhere = a.caps.MaxConnsPerSubject == 1 && a.g.shared.revocations != nil
	return a.elsewhere
}

// askSubjectSlot asks for the slot of the subject, unless the connection has it already.
func (a *admission) askSubjectSlot(q *inquiry) *tenancy {
	sh := a.g.shared
	if sh.cfg.Slots == nil || a.lease == nil || a.caps.ReportOnly || a.caps.MaxConnsPerSubject == 0 {
		return nil
	}
	t, key := a.lease.tenant(sh.keeper), scopeSubject+a.principal.Subject
	if t.holds(key) {
		return nil
	}
	most := a.caps.MaxConnsPerSubject
	if a.lease.replaces() {
		most++ // the slot of the oldest connection is given back when the newcomer has come
	}
	q.ID, q.TTL = newID(), slotLease
	q.scope(key, most, false)
	return t
}

// chargeFailure charges a failure in the store. If it learns there that the bucket is empty, this
// instance does not ask the store before it has another token.
func (a *admission) chargeFailure(ctx context.Context, buckets []bucket) {
	sh := a.g.shared
	if sh == nil || sh.cfg.Rates == nil || sh.admitter == nil {
		return
	}
	var q inquiry
	for _, b := range buckets {
		q.take(forFailure, b.name, b.rate, 0, 1)
	}
	if q.empty() {
		return
	}
	answer, err := sh.ask(ctx, "charge", sh.timeout, q.Request)
	if err != nil {
		return
	}
	for i, n := range answer.Taken {
		if n == 0 {
			sh.refusals.note(q.Takes[i].Key, time.Duration(float64(time.Second)/q.Takes[i].Limit.PerSecond))
		}
	}
}

// sharedGuessing reports whether the store has let this instance know that a bucket of failures is
// empty. While the store is gone, it reports whether the part of this instance is used up.
func (a *admission) sharedGuessing(t *keyed.Table, buckets []bucket) (wait time.Duration, over bool) {
	sh := a.g.shared
	if sh == nil || sh.cfg.Rates == nil {
		return 0, false
	}
	parts := int(sh.divisor.Load())
	for _, b := range buckets {
		if wait := sh.refusals.left(b.name); wait > 0 {
			return wait, true
		}
		if parts == 0 {
			continue
		}
		if wait, ok := t.Peek(b.key, 1, b.rate.part(parts).limit(), time.Now()); !ok {
			return wait, true
		}
	}
	return 0, false
}
