package wsguard

import (
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/reason"
)

// Admin has the methods for the operators of a server. It lists the connections and the bans
// of a Guard, and ends them. It also revokes credentials. [Guard.Admin] returns it. Many
// goroutines may call all methods at any time.
//
// No method checks who calls it. An application that offers them over HTTP must authenticate
// the operator.
type Admin struct {
	g  *Guard
	by string // who calls the methods; empty: it is not known
}

// Admin returns the Admin of the Guard.
func (g *Guard) Admin() Admin { return Admin{g: g} }

// By returns an Admin whose events name the operator, in audit.Event.Operator. The name is escaped
// and cut to about 256 bytes. It changes nothing else.
func (a Admin) By(operator string) Admin { return Admin{a.g, operator} }

// Sessions returns the connections of the Guard that are open, in no order. Anonymous connections
// are among them. Connections that wait for a credential in their first message are not, and those
// of other instances are not either.
func (a Admin) Sessions() iter.Seq[audit.Session] {
	return func(yield func(audit.Session) bool) {
		for _, c := range a.g.sessions.open() {
			if c.life.begun.Load() && !yield(c.describe()) {
				return
			}
		}
	}
}

// Activity returns what the Guard has refused lately, which clients were refused most, and which
// are nearest to their limits. It looks at each client and each subject that has a connection, and
// new handshakes wait meanwhile. So call it only when an operator asks. [Guard.Stats] is cheap
// enough for every second.
func (a Admin) Activity() audit.Activity {
	now := time.Now()
	return audit.Activity{
		Time: now, Refusals: a.g.events.recent.list(), Offenders: a.g.events.spikes.offenders(now),
		Fullest: a.g.state.fullest(a.g.policy.Load()),
	}
}

// Kick ends the connection with this ID, and reports whether there is one. The peer gets code
// and text, which is cut to 123 bytes of valid UTF-8. If code is 0 or must not be sent (RFC
// 6455 §7.4), the connection is closed with 3003 kicked, and text goes to the event only.
//
// With SharedConfig.Revocations, Kick asks the other instances to end a connection that this
// Guard does not have. It then returns true without knowing whether one of them has it.
func (a Admin) Kick(id string, code StatusCode, text string) bool {
	c := a.g.sessions.find(id)
	if c == nil {
		return a.g.shared.kick(id, code, text, a.by)
	}
	c.kick(code, text, a.by)
	return true
}

// kick ends the connection on behalf of an operator.
func (c *Conn) kick(code StatusCode, text, operator string) {
	e := because(reason.Kicked, text)
	if sendable(code) {
		e = chosen(code, text, reason.Kicked)
	}
	e.by = operator
	c.end(e)
}

// Revoke voids the credentials that were issued to a subject before the call, and the
// subject's tickets. It closes the open connections of the subject with 3000 revoked. A
// handshake of the subject that is under way is refused or closed, too.
//
// The guard counts a credential as issued before the call if it has no IssuedAt or an
// earlier one. It also does so if it has accepted the credential before the call. The guard
// remembers the last 65,536 credentials that it has accepted, each for 24 hours. For a
// credential that it does not remember, IssuedAt alone decides.
//
// The guard remembers the revocation for AuthConfig.RevocationTTL. Without
// SharedConfig.Revocations, it does so in memory only. With it, the revocation holds for all
// instances and outlasts their restarts. Another instance counts a connection as opened before
// the call if its credential was issued or first accepted before it. Revoke returns when the
// store has the revocation, and after 50 milliseconds at the latest. The guard tries until the
// store has it. Restore undoes Revoke.
func (a Admin) Revoke(subject string) { a.g.revoke(identity{id: subject}, a.by) }

// SignOut is like Revoke for one login. sessionID is the Principal.SessionID of the login,
// and not the ID of a connection. SignOut closes all connections of the login. It voids the
// tickets and all credentials of the login, whenever they were issued. Nothing undoes it.
func (a Admin) SignOut(sessionID string) { a.g.revoke(identity{true, sessionID}, a.by) }

// Restore undoes Revoke. The credentials of the subject open connections again, and so do
// tickets that are issued to it from now on. Tickets that were issued to it before stay
// void.
func (a Admin) Restore(subject string) {
	ttl := a.g.state.tickets.outstanding() // other Guards may have sold tickets with a longer life
	if t := a.g.policy.Load().auth.tickets; t != nil {
		ttl = max(ttl, t.TTL) // other instances may sell as well
	}
	at := a.g.state.registry.restore(identity{id: subject}, ttl)
	a.g.events.emit(audit.Event{Kind: audit.Restored, Subject: subject, Operator: a.by})
	a.g.shared.restored(identity{id: subject}, a.by, at, ttl)
}

// Bans returns all bans that are in force, those that end soonest first. With SharedConfig.Bans,
// those of all instances are among them.
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

// Ban bans a client for the duration d. client is an address, a prefix, or a name that
// Proxies.ClientName returns. The ban of an IPv6 address holds for the /64 around it. If
// ClientName is set, an address bans also the client that has this address as its name. why
// says for operators why the client is banned. It stands in the ban event and in
// audit.Ban.Reason, and the client does not see it.
//
// The handshakes of a banned client get a 429. Its open connections stay open, and Kick ends
// them. With SharedConfig.Bans, the ban holds for all instances.
//
// Ban returns an error if client is empty, if it is a prefix of length 0, or if it looks
// like a mistyped address. Without ClientName it returns an error if client is neither an
// address nor a prefix. It returns an error if d is not positive. It also returns an error
// if there are too many bans by hand. There may be 1,024 of them. Their prefixes may have at
// most 16 different lengths for IPv4, and 16 for IPv6.
func (a Admin) Ban(client string, d time.Duration, why string) error {
	keys := a.g.penaltyKeys(client)
	if len(keys) == 0 || mistyped(client) {
		return fmt.Errorf("wsguard: %q is neither an address nor a prefix, nor a name of ClientName's", client)
	}
	var added []penalty.Key
	for _, key := range keys {
		_, before := a.g.state.bans.Banned(key, time.Now())
		if err := a.g.state.bans.Ban(key, d, why, time.Now()); err != nil {
			for _, done := range added {
				a.g.state.bans.Lift(done, time.Now())
			}
			return err
		}
		if !before {
			added = append(added, key)
		}
	}
	a.g.events.tell(occurrence{
		Event: audit.Event{Kind: audit.Banned, Client: client, Err: reason.Banned, Reason: "by_hand", Detail: why, Operator: a.by},
		until: time.Now().Add(d),
	}, nil)
	a.g.shared.banned(keys, d, why, a.by)
	return nil
}

// Lift ends the ban of a client, and forgets its violations. client is what Ban takes, or
// the Client of a ban that Bans returns. Lift reports whether exactly this client was
// banned. It does not end the ban of a wider prefix.
func (a Admin) Lift(client string) bool {
	lifted, keys := false, a.g.penaltyKeys(client)
	for _, key := range keys {
		a.g.state.rates.violations.Forget(a.g.state.violationsOf(key))
		lifted = a.g.state.bans.Lift(key, time.Now()) || lifted
	}
	if lifted {
		a.g.events.emit(audit.Event{Kind: audit.Lifted, Client: client, Operator: a.by})
	}
	a.g.shared.lifted(keys, a.by)
	return lifted
}
