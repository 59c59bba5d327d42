package wsguard

import (
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// Admin has the methods for the operators of a server. It lists the connections and the bans
// of a Guard, and ends them. [Guard.Admin] returns it. Many goroutines may call all methods at
// any time.
//
// No method checks who calls it. An application that offers them over HTTP must authenticate
// the operator.
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

// Kick ends the connection with this ID, and reports whether there is one. The peer gets code
// and text, which is cut to 123 bytes of valid UTF-8. If code is 0 or must not be sent (RFC
// 6455 §7.4), the connection is closed with 3003 kicked, and text goes to the event only.
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

// Revoke closes the connections of a subject with 3000 revoked. It refuses or closes its
// handshakes that are under way. It also voids the tickets of the subject, and the credentials
// that were issued to it before the call. A credential counts as issued before the call if it has no
// IssuedAt or an earlier one, or if this Guard has accepted it before. The Guard remembers the
// last 65,536 credentials that it has accepted, each for 24 hours. It judges a credential that
// it does not remember by IssuedAt alone.
//
// The Guard remembers a revocation for AuthConfig.RevocationTTL, in memory only. Restore undoes
// it.
func (a Admin) Revoke(subject string) { a.g.revoke(identity{id: subject}) }

// SignOut is like Revoke for one login, which Principal.SessionID names. It closes the
// connections of the login, and voids its tickets and all its credentials, whenever they were
// issued. Nothing undoes it.
func (a Admin) SignOut(sessionID string) { a.g.revoke(identity{true, sessionID}) }

// Restore undoes Revoke. The credentials of the subject open connections again, and so do
// tickets that it buys from now on. Tickets that it has bought before stay void.
func (a Admin) Restore(subject string) {
	ttl := a.g.state.tickets.outstanding() // other Guards may have sold tickets with a longer life
	if t := a.g.policy.Load().auth.tickets; t != nil {
		ttl = max(ttl, t.TTL) // other instances may sell as well
	}
	a.g.state.registry.restore(identity{id: subject}, ttl)
	a.g.events.emit(audit.Event{Kind: audit.Restored, Subject: subject})
}

// Bans returns all bans that are in force, those that end soonest first.
func (a Admin) Bans() []audit.Ban {
	var bans []audit.Ban
	all := a.g.state.bans.All(time.Now())
	byName := map[netip.Prefix]bool{} // the addresses that Ban has banned with the name that is the same
	for _, b := range all {
		if keys := a.g.penaltyKeys(b.Name); b.Name != "" && len(keys) == 2 {
			prefix, _ := keys[0].Client()
			byName[prefix] = true
		}
	}
	for _, b := range all {
		who := b.Name
		switch {
		case who != "":
		case byName[b.Prefix]:
			continue
		case b.Prefix.IsSingleIP():
			who = b.Prefix.Addr().String()
		default:
			who = b.Prefix.String()
		}
		bans = append(bans, audit.Ban{Client: who, Until: b.Until, Strikes: b.Strikes, Reason: b.Reason})
	}
	return bans
}

// Ban bans an address, a prefix, or a name that Proxies.ClientName returns, for d. With
// ClientName, a string that is an address bans the client of that name as well. For an IPv6
// address it bans the /64 around it. The handshakes of a banned client get a 429. Connections
// that are open stay open. Kick ends them.
//
// Ban returns an error if client is none of these, if it looks like a mistyped address, if d is not positive, or if there are too
// many bans by hand. There may be 1,024 of them, with prefixes of at most 16 lengths.
func (a Admin) Ban(client string, d time.Duration, why string) error {
	keys := a.g.penaltyKeys(client)
	if len(keys) == 0 || mistyped(client) {
		return fmt.Errorf("wsguard: %q is neither an address nor a prefix, nor a name of ClientName's", client)
	}
	for i, key := range keys {
		if err := a.g.state.bans.Ban(key, d, why, time.Now()); err != nil {
			for _, done := range keys[:i] {
				a.g.state.bans.Lift(done, time.Now())
			}
			return err
		}
	}
	a.g.events.emit(audit.Event{Kind: audit.Banned, Client: client, Err: reason.Banned, Reason: "by_hand", Detail: why})
	return nil
}

// Lift ends a ban, and forgets the violations of the client. It takes what Ban takes, and the
// Client of each ban that Bans returns. It reports
// whether exactly this client was banned. The ban of a wider prefix stays.
func (a Admin) Lift(client string) bool {
	lifted := false
	for _, key := range a.g.penaltyKeys(client) {
		a.g.state.rates.violations.Forget(a.g.state.violationsOf(key))
		lifted = a.g.state.bans.Lift(key, time.Now()) || lifted
	}
	if lifted {
		a.g.events.emit(audit.Event{Kind: audit.Lifted, Client: client})
	}
	return lifted
}
