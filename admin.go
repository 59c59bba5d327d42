package wsguard

import (
	"iter"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// Admin has what the operators of a server do: it lists the connections and the bans of a
// Guard, and ends them. [Guard.Admin] returns it. All methods may be called at any time and
// by many goroutines. Nothing here checks who calls. An application that offers it over HTTP
// must authenticate the operator.
type Admin struct{ g *Guard }

// Admin returns the Admin of the Guard.
func (g *Guard) Admin() Admin { return Admin{g} }

// Sessions returns the connections that are open and authenticated, in no order.
func (a Admin) Sessions() iter.Seq[audit.Session] {
	return func(yield func(audit.Session) bool) {
		for _, c := range a.g.sessions.open() {
			if c.life.begun.Load() && !yield(c.describe()) {
				return
			}
		}
	}
}

// Kick ends the connection with this ID, and reports whether there is one. If code is 0 or
// cannot be sent, the connection is closed with the code of reason.Kicked, 3003.
func (a Admin) Kick(id string, code StatusCode, text string) bool {
	c := a.g.sessions.find(id)
	if c == nil {
		return false
	}
	e := because(reason.Kicked, text)
	if sendable(code) {
		e = chosen(code, text, reason.Kicked)
	}
	c.end(e)
	return true
}

// Revoke ends the connections and the handshakes of a subject with 3000 revoked. It also
// voids the tickets of the subject, and the credentials that were issued to it before the
// call. A credential counts as issued before the call if it has no IssuedAt or an earlier
// one, or if this Guard has accepted it before. The Guard remembers the last 65,536
// credentials that it has accepted, each for 24 hours. It judges a credential that it does
// not remember by IssuedAt alone. Restore undoes a revocation.
func (a Admin) Revoke(subject string) { a.g.revoke(identity{id: subject}) }

// SignOut is like Revoke for one login, which Principal.SessionID names. It ends the login's
// connections. Its tickets and all its credentials, whenever they were issued, open no
// further ones.
func (a Admin) SignOut(sessionID string) { a.g.revoke(identity{true, sessionID}) }

// Restore lets credentials of a revoked subject open connections again, and
// tickets that are bought from now on.
func (a Admin) Restore(subject string) {
	ttl := a.g.state.tickets.outstanding() // other Guards may have sold tickets with a longer life
	if t := a.g.policy.Load().auth.tickets; t != nil {
		ttl = max(ttl, t.TTL) // other instances may sell as well
	}
	a.g.state.registry.restore(identity{id: subject}, ttl)
}

// Bans returns all bans that are in force.
func (a Admin) Bans() []audit.Ban {
	var bans []audit.Ban
	for _, b := range a.g.state.bans.All(time.Now()) {
		who := b.Name
		if who == "" {
			who = b.Prefix.String()
			if b.Prefix.IsSingleIP() {
				who = b.Prefix.Addr().String()
			}
		}
		bans = append(bans, audit.Ban{Client: who, Until: b.Until, Strikes: b.Strikes, Reason: b.Reason})
	}
	return bans
}

// Ban bans an address, a prefix, or a name that Proxies.ClientName returns, for d. The /64 of
// an IPv6 address is banned. Connections that are open stay open. Kick ends them.
func (a Admin) Ban(client string, d time.Duration, why string) error {
	key, err := a.g.penaltyKey(client)
	if err == nil {
		err = a.g.state.bans.Ban(key, d, why, time.Now())
	}
	if err != nil {
		return err
	}
	a.g.events.emit(audit.Event{Kind: audit.Banned, Client: client, Err: reason.Banned, Reason: "by_hand", Detail: why})
	return nil
}

// Lift ends a ban, and forgets the violations of the client. It reports whether the client
// was banned.
func (a Admin) Lift(client string) bool {
	key, err := a.g.penaltyKey(client)
	if err != nil {
		return false
	}
	a.g.state.rates.violations.Forget(a.g.state.violationsOf(key))
	return a.g.state.bans.Lift(key, time.Now())
}
