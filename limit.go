package wsguard

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/internal/spend"
	"github.com/wsguard/wsguard/reason"
)

// Off switches a limit or a timeout off. A few fields cannot be Off, and their comments say
// so. [New] refuses any other negative value with a [ConfigError].
const Off = -1

// Rate is the rate of a token bucket. The zero Rate means the default of its field.
// Rate{PerSecond: Off} means no limit. A rate without a burst is an error.
type Rate struct {
	// PerSecond is how many tokens flow into the bucket per second. It must be at most 2^32. If
	// PerSecond is 0 and Burst is not, PerSecond is that of the default. If the default of the
	// field is no limit, such a Rate is an error.
	PerSecond float64

	// Burst is how many tokens the bucket has at first, and how many it holds at most. It must
	// be at most 2^34.
	Burst int
}

// The largest rate and the largest burst. The buckets count exactly up to these. A default that
// is computed from another field is capped there.
const (
	maxPerSecond = 1 << 32
	maxBurst     = 1 << 34
)

func (r Rate) off() bool { return r.PerSecond == Off }

// resolve returns r, or the default if r is zero. A burst without a rate gets the rate of the
// default. A rate without a burst is a fault.
func (r Rate) resolve(def Rate, field string, f *faults) Rate {
	switch {
	case r.PerSecond == Off:
		return Rate{PerSecond: Off}
	case r.PerSecond == 0 && r.Burst == 0:
		return def
	case math.IsNaN(r.PerSecond) || math.IsInf(r.PerSecond, 0) || r.PerSecond < 0:
		f.add(field, r, "the rate must be a number of tokens per second, 0 for the default, or Off")
		return def
	case r.Burst < 0:
		f.add(field, r, "the burst must be positive, or 0 for the default")
		return def
	case r.PerSecond > maxPerSecond:
		f.add(field, r, "the rate must be at most 4294967296 (2^32) per second; PerSecond: Off is no limit")
		return def
	case int64(r.Burst) > maxBurst:
		f.add(field, r, "the burst must be at most 17179869184 (2^34); PerSecond: Off is no limit")
		return def
	case r.PerSecond == 0:
		r.PerSecond = def.PerSecond
		if def.off() {
			f.add(field, r, "a burst without a rate")
		}
		return r
	case r.Burst == 0:
		f.add(field, r, "a rate without a burst: say how many may come at once")
		return def
	}
	return r
}

// times returns n times r, but no more than a Rate may be, for buckets that several
// connections share.
func (r Rate) times(n int) Rate {
	if r.off() {
		return r
	}
	return Rate{
		PerSecond: min(r.PerSecond*float64(n), maxPerSecond),
		Burst:     int(min(int64(r.Burst)*int64(n), maxBurst, math.MaxInt)),
	}
}

func (r Rate) limiter() *rate.Limiter {
	if r.off() {
		return nil
	}
	return rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)
}

// tableKeys is how many keys a table has room for, in 1.5 MiB.
const tableKeys = 65536

// limit converts r for a keyed.Table. Off is no limit there too.
func (r Rate) limit() keyed.Limit {
	if r.off() {
		return keyed.Limit{}
	}
	return keyed.Limit{PerSecond: r.PerSecond, Burst: float64(r.Burst)}
}

// limit resolves a count. For 0 it returns the default, and for Off it returns 0, which is no
// limit.
func limit(v, def int, field string, f *faults) int {
	switch {
	case v == 0:
		return def
	case v == Off:
		return 0
	case v < 0:
		f.add(field, v, "must be positive, 0 for the default, or Off")
		return def
	}
	return v
}

// Action is what the guard does with a message that it refuses.
type Action int

const (
	// ActionClose closes the connection with the close code of the reason.
	ActionClose Action = iota

	// ActionReply drops the message and answers it with a notice. The connection stays open. A
	// notice is a text message such as {"error":"rate_limited","retry_after_ms":50},
	// {"error":"invalid_message","reason":"schema"} or {"error":"forbidden"}. MessageConfig.Notice
	// makes it in the words of another protocol. A connection gets
	// at most one notice per second about rates, with a burst of 20. The same limit holds for
	// its notices about invalid and forbidden messages. When the limit is reached, the message
	// is dropped without a notice. With MessageConfig.Notice, the connection is closed instead.
	ActionReply

	// ActionDelay holds the message until the rate allows it, and reads nothing meanwhile. If
	// that would take longer than 5 seconds, the connection is closed. ActionDelay is for
	// RateConfig.Action only.
	ActionDelay

	actionReport // report the message, and deliver it: ReportOnly
)

// maxDelay bounds ActionDelay.
const maxDelay = 5 * time.Second

// RateConfig limits messages, payload bytes and handshakes. Pings and pongs do not count here,
// because Messages.ControlFrames limits them. A client is an IPv4 address, an IPv6 /64 or the name
// that Proxies.ClientName returns. Anonymous connections have no subject. The buckets of a client
// and of a subject outlive its connections, so reconnecting does not refill them. The field Action
// says what happens to a message that exceeds a rate, and what the client sees. Each Rate may be
// Rate{PerSecond: Off} for no limit.
type RateConfig struct {
	// Messages limits the incoming messages of a connection. The default is 20 per second with a
	// burst of 40.
	Messages Rate

	// Bytes limits the payload bytes of a connection's incoming messages. The default is 256 KiB
	// per second with a burst of 1 MiB.
	Bytes Rate

	// ClientMessages limits the incoming messages of all connections of a client together. The
	// default is 16 times Messages.
	ClientMessages Rate

	// ClientBytes limits the payload bytes of the incoming messages of all connections of a
	// client together. The default is 16 times Bytes.
	ClientBytes Rate

	// SubjectMessages limits the incoming messages of all connections of a subject together. The
	// default is 4 times Messages.
	SubjectMessages Rate

	// SubjectBytes limits the payload bytes of the incoming messages of all connections of a
	// subject together. The default is 4 times Bytes.
	SubjectBytes Rate

	// SentBytes limits the payload bytes that the application writes to a connection. While it is
	// exceeded, the guard does with incoming messages what Action says. The default is no limit.
	SentBytes Rate

	// Action is what happens to a message that exceeds one of the rates above. The
	// default, ActionClose, closes the connection with 1008 rate_limited.
	Action Action

	// WarnAt is a fraction of the Burst of Messages and of Bytes, such as 0.8. When a peer has
	// used that fraction of one of these two buckets, it gets the notice
	// {"warning":"rate_limit"}. It gets the next one only after the used part has fallen to half
	// of WarnAt. WarnAt must be less than 1, and it cannot be Off. The default, 0, sends no
	// warning.
	WarnAt float64

	// Handshakes limits the handshakes of a client, and those of a subject. A request for a
	// ticket counts as a handshake. An IPv6 /48 has 16 times the rate of a client. The default
	// is 20 per second with a burst of 100. A handshake that exceeds it gets a 429
	// handshake_rate. If the credential came in the first message, the guard closes the
	// connection with 1013 instead.
	//
	// A handshake that an earlier check has refused, such as that of the origin, does not count.
	// Every other handshake counts for its client. When its credential has been accepted, it
	// counts for its subject and no longer for its client. A credential that the guard has
	// accepted within 24 hours passes even if its client has no rate left. So people who share
	// an address do not use up each other's rate.
	Handshakes Rate

	// ReportOnly reports a message or a handshake that exceeds one of the rates above, and lets
	// it pass. Action does not apply then. MaxInFlight and MaxInFlightPerClient still refuse.
	// The default is false.
	ReportOnly bool

	// MaxInFlight is how many handshakes may be in flight at the same time. A handshake is in
	// flight while it may wait for a Verifier, Authenticate, OriginFunc or Attach, for the login
	// of Guard.TicketHandler, or for a ticket Store. A Refresh counts, too. The default is 256,
	// and Off means no limit. A further handshake waits for a place for at most a second, and
	// then gets a 503 in_flight. At most 256 handshakes wait for a place, and at most 64 of one
	// client. Further ones are refused at once.
	MaxInFlight int

	// MaxInFlightPerClient is how many handshakes of one client may be in flight at the same
	// time. The default is 8, and Off means no limit. A further handshake of the client waits as
	// described for MaxInFlight, and then gets a 429 in_flight.
	MaxInFlightPerClient int
}

func (cfg RateConfig) resolve(f *faults) RateConfig {
	cfg.Messages = cfg.Messages.resolve(Rate{20, 40}, "Rates.Messages", f)
	cfg.Bytes = cfg.Bytes.resolve(Rate{256 << 10, 1 << 20}, "Rates.Bytes", f)
	cfg.ClientMessages = cfg.ClientMessages.resolve(cfg.Messages.times(16), "Rates.ClientMessages", f)
	cfg.ClientBytes = cfg.ClientBytes.resolve(cfg.Bytes.times(16), "Rates.ClientBytes", f)
	cfg.SubjectMessages = cfg.SubjectMessages.resolve(cfg.Messages.times(4), "Rates.SubjectMessages", f)
	cfg.SubjectBytes = cfg.SubjectBytes.resolve(cfg.Bytes.times(4), "Rates.SubjectBytes", f)
	cfg.SentBytes = cfg.SentBytes.resolve(Rate{PerSecond: Off}, "Rates.SentBytes", f)
	if !(cfg.WarnAt >= 0 && cfg.WarnAt < 1) {
		f.add("Rates.WarnAt", cfg.WarnAt, "must be a part of the burst: at least 0, less than 1")
	}
	cfg.Handshakes = cfg.Handshakes.resolve(Rate{20, 100}, "Rates.Handshakes", f)
	if cfg.Action < ActionClose || cfg.Action > ActionDelay {
		f.add("Rates.Action", int(cfg.Action), "must be ActionClose, ActionReply or ActionDelay")
	}
	if cfg.ReportOnly {
		cfg.Action = actionReport
	}
	cfg.MaxInFlight = limit(cfg.MaxInFlight, 256, "Rates.MaxInFlight", f)
	cfg.MaxInFlightPerClient = limit(cfg.MaxInFlightPerClient, 8, "Rates.MaxInFlightPerClient", f)
	return cfg
}

// perNetwork is how many times the rate of a client a whole IPv6 /48 has.
const perNetwork = 16

// Evicted returns how many buckets have been forgotten although they were not full. A client
// or a subject whose bucket is forgotten begins with a full bucket again, and so exceeds its
// rate. That happens when there are more clients or subjects than the tables have room for.
// A number that grows is a sign of an attack from many addresses. The log has the warning
// evicted, too.
func (g *Guard) Evicted() uint64 { return g.state.evicted() }

// reportEvicted reports the first evicted bucket, and then each time that their number has
// doubled.
func (g *Guard) reportEvicted() {
	if n, told := g.Evicted(), g.evicted.Load(); n >= max(1, 2*told) && g.evicted.CompareAndSwap(told, n) {
		g.events.emit(audit.Event{Kind: audit.Warning, Reason: "evicted", Detail: fmt.Sprintf("%d buckets that were not full have been forgotten: there are more clients than the tables have room for", n)})
	}
}

// handshake charges a handshake to its client, and to the /48 around it.
func (b *buckets) handshake(client client, foreign bool, rate Rate) error {
	limit, now := rate.limit(), time.Now()
	key := client.keyIn(b.handshakes, foreign)
	if wait, ok := b.handshakes.Take(key, 1, limit, now); !ok {
		return denyRetry(reason.HandshakeRate, wait)
	}
	if net, ok := client.network(); ok {
		if wait, ok := b.networks.Take(networkKey(b.networks, net, foreign), 1, rate.times(perNetwork).limit(), now); !ok {
			b.handshakes.Give(key, 1, limit)
			d := denyRetry(reason.HandshakeRate, wait)
			d.detail, d.blameless = "of its /48", true
			return d
		}
	}
	return nil
}

// authenticated charges a handshake to its subject in place of its client. paid says that
// handshake has charged the client. If the subject's bucket refuses, the client's charge stays.
func (b *buckets) authenticated(client client, foreign, paid bool, subject string, rate Rate) error {
	limit, now := rate.limit(), time.Now()
	if wait, ok := b.handshakes.Take(b.handshakes.String("subject:"+subject), 1, limit, now); !ok {
		d := denyRetry(reason.HandshakeRate, wait)
		d.detail = "of the subject"
		return d
	}
	if !paid {
		return nil
	}
	key := client.keyIn(b.handshakes, foreign)
	b.handshakes.Give(key, 1, limit)
	if net, ok := client.network(); ok {
		b.networks.Give(networkKey(b.networks, net, foreign), 1, rate.times(perNetwork).limit())
	}
	return nil
}

// networkKey is the key of an IPv6 /48. The requests that foreign pages send have a bucket of
// their own.
func networkKey(t *keyed.Table, net netip.Prefix, foreign bool) keyed.Key {
	if foreign {
		return t.String("foreign:" + net.String())
	}
	return t.Prefix(net)
}

// checkBytes finds byte rates whose burst is smaller than maxMessage. They would never allow
// a message of that size.
func (cfg RateConfig) checkBytes(maxMessage int64, f *faults) {
	for _, b := range []struct {
		field string
		rate  Rate
	}{
		{"Rates.Bytes", cfg.Bytes}, {"Rates.ClientBytes", cfg.ClientBytes}, {"Rates.SubjectBytes", cfg.SubjectBytes},
	} {
		if !b.rate.off() && int64(b.rate.Burst) < maxMessage {
			f.add(b.field, b.rate, "the burst is smaller than the largest message")
		}
	}
}

// connRates has the buckets that the messages of one connection pass. The reader owns it.
type connRates struct {
	messages, bytes *rate.Limiter  // the connection's own buckets; nil: no limit
	shared          []sharedBucket // those of its client and of its subject
	sent            *rate.Limiter  // the bucket of SentBytes, which writers charge; nil: no limit
	owing           bool           // sent has refused the last message
	over            limitID        // the limit that has refused the last message that was refused
	warnAt          float64        // RateConfig.WarnAt
	warned          bool           // a warning was sent, and the used part has not halved since
	held            bool           // the last message that was not taken must be held for tokens of the store
	last            time.Time      // the time of the last take
	patient         spend.Patient  // how the message can wait for tokens of the store
}

// sharedBucket is a bucket that a connection shares with others, and its limits. It is
// read-only.
type sharedBucket struct {
	table           *keyed.Table
	key             keyed.Key
	messages, bytes keyed.Limit
	names           [2]limitID // of messages and bytes
	lease           *leased    // of a bucket that instances share; nil: this instance has it to itself
}

// conn returns the buckets of a new connection.
func (b *buckets) conn(cfg RateConfig, client client, subject string) *connRates {
	c := &connRates{messages: cfg.Messages.limiter(), bytes: cfg.Bytes.limiter(), sent: cfg.SentBytes.limiter()}
	c.share(b, cfg, client, subject)
	return c
}

// share sets which buckets the connection shares with others.
func (c *connRates) share(b *buckets, cfg RateConfig, client client, subject string) {
	c.warnAt, c.shared = cfg.WarnAt, nil
	if !cfg.ClientMessages.off() || !cfg.ClientBytes.off() {
		c.shared = append(c.shared, sharedBucket{b.clients, client.in(b.clients), cfg.ClientMessages.limit(), cfg.ClientBytes.limit(), [2]limitID{limitClientMessages, limitClientBytes}, nil})
	}
	if (!cfg.SubjectMessages.off() || !cfg.SubjectBytes.off()) && subject != "" {
		c.shared = append(c.shared, sharedBucket{b.subjects, b.subjects.String(subject), cfg.SubjectMessages.limit(), cfg.SubjectBytes.limit(), [2]limitID{limitSubjectMessages, limitSubjectBytes}, nil})
	}
}

// relimit puts the limits of cfg in force. Debts stay.
func (c *connRates) relimit(b *buckets, cfg RateConfig, client client, subject string) {
	c.messages = relimited(c.messages, cfg.Messages)
	c.bytes = relimited(c.bytes, cfg.Bytes)
	c.sent = relimited(c.sent, cfg.SentBytes)
	c.share(b, cfg, client, subject)
}

func relimited(l *rate.Limiter, to Rate) *rate.Limiter {
	if l == nil || to.off() {
		return to.limiter()
	}
	now := time.Now()
	l.SetLimitAt(now, rate.Limit(to.PerSecond))
	l.SetBurstAt(now, to.Burst)
	return l
}

// take charges a message of n bytes that counts for cost messages. If a bucket refuses it,
// take charges nothing and returns how long the message would have to wait.
func (c *connRates) take(n, cost int, now time.Time) (wait time.Duration, ok bool) {
	// A now that steps back would make x/time/rate admit too much.
	if now.Before(c.last) {
		now = c.last
	}
	c.last, c.held = now, false
	if c.sent != nil {
		if owed := -c.sent.TokensAt(now); owed > 0 {
			c.owing, c.over = true, noLimit
			return time.Duration(min(owed/float64(c.sent.Limit()), math.MaxInt32) * float64(time.Second)), false
		}
	}
	c.owing = false
	if c.messages != nil && !c.messages.AllowN(now, cost) {
		c.over = limitMessages
		return missing(c.messages, cost, now), false
	}
	if c.bytes != nil && !c.bytes.AllowN(now, n) {
		wait = missing(c.bytes, n, now)
		giveBack(c.messages, cost, now)
		c.over = limitBytes
		return wait, false
	}
	for i := range c.shared {
		b := &c.shared[i]
		if wait, ok := b.table.Take2(b.key, float64(cost), float64(n), b.messages, b.bytes, now); !ok {
			c.give(c.shared[:i], n, cost, now)
			c.over = b.exceeded(cost, now)
			return wait, false
		}
		if b.lease == nil {
			continue
		}
		if wait, ok := c.spend(i, n, cost, now); !ok {
			c.give(c.shared[:i], n, cost, now)
			return wait, false
		}
	}
	return 0, true
}

// exceeded returns which of its two limits has refused a message that counts for cost messages.
func (b *sharedBucket) exceeded(cost int, now time.Time) limitID {
	if _, ok := b.table.Peek(b.key, float64(cost), b.messages, now); !ok {
		return b.names[0]
	}
	return b.names[1]
}

// give undoes a take of the same moment. shared are the shared buckets that take has charged.
func (c *connRates) give(shared []sharedBucket, n, cost int, now time.Time) {
	for i := range shared {
		b := &shared[i]
		b.table.Give2(b.key, float64(cost), float64(n), b.messages, b.bytes)
		if b.lease != nil {
			b.lease.give(n, cost)
		}
	}
	giveBack(c.messages, cost, now)
	giveBack(c.bytes, n, now)
}

// charge counts messages that were written to a connection, with n bytes of payload together.
// The bucket may go into debt. Until the debt is paid off, take refuses the connection's messages.
func charge(sent *rate.Limiter, messages, n int) {
	if sent == nil {
		return
	}
	now, burst := time.Now(), sent.Burst()
	for range messages * maxDebt {
		if n <= 0 {
			break
		}
		sent.ReserveN(now, min(n, burst))
		n -= burst
	}
}

// maxDebt is how many bursts one sent message can add to the debt of a connection.
const maxDebt = 64

// warn reports whether a bucket of the connection is used up to WarnAt. It does so once, and
// again only after the used part has fallen to half of WarnAt.
func (c *connRates) warn(now time.Time) bool {
	used := 0.0
	for _, l := range []*rate.Limiter{c.messages, c.bytes} {
		if l != nil {
			used = max(used, 1-l.TokensAt(now)/float64(l.Burst()))
		}
	}
	if c.warned = c.warned && used > c.warnAt/2; c.warned || used < c.warnAt {
		return false
	}
	c.warned = true
	return true
}

// giveBack undoes an AllowN of the same moment. Taking a negative number of tokens from a
// limiter of x/time/rate adds them.
func giveBack(l *rate.Limiter, n int, now time.Time) {
	if l != nil {
		l.AllowN(now, -n)
	}
}

func missing(l *rate.Limiter, n int, now time.Time) time.Duration {
	r := l.ReserveN(now, n)
	defer r.CancelAt(now)
	if !r.OK() {
		return rate.InfDuration
	}
	// The delay of a tiny fraction of a token may round to 0.
	return max(r.DelayFrom(now), time.Microsecond)
}
