package wsguard

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/reason"
)

// PenaltyConfig bans clients that commit violations again and again. A violation in this sense
// is a refused handshake, credential or message that the client itself has caused. Each
// violation has a weight, which is taken out of a bucket of the client. The client is banned
// when a violation weighs more than the bucket still holds. Its handshakes get a 429 before
// any expensive check. A violation that a page of another site may have caused has no weight.
// docs/limits.md has the weights.
//
// Violations never ban a loopback address or the address of a trusted proxy, because many
// clients may be behind it. A client that Proxies.ClientName has named can be banned even
// there.
type PenaltyConfig struct {
	// Violations limits the weight of a client's violations. A client that exceeds it is banned.
	// For example, Rate{PerSecond: 0.1, Burst: 20} allows a weight of 20 at once and forgives a
	// tenth per second. By default, and with Off, only Admin.Ban bans clients.
	Violations Rate

	// First is how long the first ban of a client lasts. The default is one
	// minute, or Max if that is shorter. It cannot be Off.
	First time.Duration

	// Max is how long the longest ban of a client lasts. Each ban lasts twice as long as
	// the one before, up to Max. The default is one hour, or First if that is
	// longer. It cannot be Off, and it must not be shorter than First.
	Max time.Duration

	// Decay says when the guard forgets earlier bans. For each Decay that has passed since the
	// end of a client's last ban, the next ban is half as long, but no shorter than First. The
	// default is one hour. It cannot be Off.
	Decay time.Duration

	// ReportOnly reports a client that exceeds Violations, and does not ban it. A ban by
	// Admin.Ban still holds. The default is false.
	ReportOnly bool
}

func (p PenaltyConfig) resolve(f *faults) PenaltyConfig {
	p.Violations = p.Violations.resolve(Rate{PerSecond: Off}, "Penalties.Violations", f)
	first := time.Minute
	if p.Max > 0 {
		first = min(first, p.Max)
	}
	p.First = required(p.First, first, "Penalties.First", f)
	p.Max = required(p.Max, max(time.Hour, p.First), "Penalties.Max", f)
	if p.Max < p.First {
		f.add("Penalties.Max", p.Max, fmt.Sprintf("must not be shorter than First (%v)", p.First))
	}
	p.Decay = required(p.Decay, time.Hour, "Penalties.Decay", f)
	return p
}

func (p PenaltyConfig) box() penalty.Config {
	return penalty.Config{First: p.First, Max: p.Max, Decay: p.Decay}
}

// The weights of offences, at a handshake and afterwards. Two kinds of refusals have no
// weight. The first are those that any web page can provoke from its visitor's address,
// because a page could otherwise have its visitors banned. The second are those that others
// cause, such as a revocation by an administrator, or a limit that strangers have used up.
var (
	handshakeOffences = map[*reason.Reason]float64{
		reason.HandshakeRate: 1, reason.MaxClientConns: 1, reason.InFlight: 1,
		reason.Unauthenticated: 1, reason.Guessing: 2, reason.AuthTimeout: 1,
	}
	messageOffences = map[*reason.Reason]float64{
		reason.MessageType: 1, reason.InvalidUTF8: 1, reason.InvalidJSON: 1, reason.Schema: 1, reason.UnknownType: 1,
		reason.JSONLimit: 2, reason.MessageTooBig: 2, reason.Forbidden: 1, reason.RateLimited: 1, reason.Refresh: 5,
		reason.Protocol: 5, reason.ControlFlood: 5, reason.Fragments: 5, reason.MessageTimeout: 2,
	}
)

// offended counts weight towards a ban of the client, unless the connection has ended
// already, or a page of an origin that is not allowed may have opened it.
func (c *Conn) offended(why *reason.Reason, weight float64) {
	if weight > 0 && c.known && c.cause() == nil {
		c.g.offend(c.client, why, weight)
	}
}

// offended counts the refusal of a handshake towards a ban, unless a foreign page or another
// client may have caused the refusal.
func (a *admission) offended(d *denied) {
	if a.known && !d.blameless {
		a.g.offend(a.client, d.Reason, handshakeOffences[d.Reason])
	}
}

// maxBans is how many bans violations can lead to at the same time.
const maxBans = 16384

// violationsOf is the key under which the violations of a client count.
func (s *State) violationsOf(who penalty.Key) keyed.Key {
	prefix, name := who.Client()
	if name != "" {
		return s.rates.violations.String("client:" + name)
	}
	return s.rates.violations.Prefix(prefix)
}

// offend counts a violation, and bans the client if it exceeds Violations. It does nothing
// while the client is banned.
func (g *Guard) offend(who client, why *reason.Reason, weight float64) {
	p, s := g.policy.Load(), g.state
	switch {
	case weight == 0 || p.penalties.Violations.off() || p.origin.report:
		return
	case who.name == "" && (who.addr.IsLoopback() || p.client.Trusts(who.addr)):
		return // a whole network may be behind the address
	}
	banned, now := who.penalty(), time.Now()
	if _, already := s.bans.Banned(banned, now); already {
		return
	}
	key := s.violationsOf(banned)
	if s.rates.violations.Spend(key, weight, p.penalties.Violations.limit(), now) {
		return
	}
	if p.penalties.ReportOnly {
		s.rates.violations.Forget(key)
		g.events.emit(audit.Event{Kind: audit.Banned, Client: who.String(), Err: reason.Banned, Reason: why.Token(), Report: true})
		return
	}
	// If there is no room for a ban, the bucket stays empty, and the next violation
	// tries again.
	if ban, ok := s.bans.Strike(banned, why.Token(), p.penalties.box(), now); ok {
		s.rates.violations.Forget(key)
		g.shared.struck(ban, now, p.penalties.Decay)
		g.reportBan(who.String(), ban)
	}
}

func (g *Guard) reportBan(who string, ban penalty.Ban) {
	detail := "until " + ban.Until.UTC().Format(time.RFC3339)
	if ban.Prefix.IsValid() {
		detail = ban.Prefix.String() + " " + detail
	}
	if ban.Strikes > 1 {
		detail += fmt.Sprintf(", for the %d. time", ban.Strikes)
	}
	g.events.tell(occurrence{
		Event: audit.Event{Kind: audit.Banned, Client: who, Err: reason.Banned, Reason: ban.Reason, Detail: detail},
		until: ban.Until, strikes: ban.Strikes,
	}, nil)
}

// banned returns an error if the client is banned.
func (g *Guard) banned(who client) error {
	if until, ok := g.state.bans.Banned(who.penalty(), time.Now()); ok {
		return denyRetry(reason.Banned, time.Until(until))
	}
	if who.name != "" { // Admin.Ban can ban the address as well
		if until, ok := g.state.bans.Banned(penalty.Addr(clientip.Inner(who.addr)), time.Now()); ok {
			return denyRetry(reason.Banned, time.Until(until))
		}
	}
	return nil
}

// penaltyKeys returns the keys that a string may stand for. A client that ClientName has named
// may have a name that is an address, too.
func (g *Guard) penaltyKeys(s string) (keys []penalty.Key) {
	if p, err := netip.ParsePrefix(s); err == nil {
		keys = append(keys, penalty.Net(p))
	} else if a, err := netip.ParseAddr(s); err == nil {
		keys = append(keys, penalty.Addr(clientip.Inner(a)))
	}
	if g.policy.Load().client.name != nil && s != "" {
		keys = append(keys, penalty.Name(shortName(s)))
	}
	return keys
}

// mistyped reports whether s looks like an address or a prefix and is none.
func mistyped(s string) bool {
	addr, _, _ := strings.Cut(s, "/")
	if _, err := netip.ParseAddr(s); err == nil {
		return false
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return false
	}
	return strings.Contains(addr, "::") || strings.Trim(addr, "0123456789.") == "" && strings.Count(addr, ".") == 3
}
