package wsguard

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/keyed"
	"github.com/wsguard/wsguard/reason"
)

// Off switches a limit or a timeout off.
const Off = -1

// Rate is a token bucket: PerSecond tokens flow in, Burst are there at first and
// at most. 0 is the default, Rate{PerSecond: Off} no limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) off() bool { return r.PerSecond == Off }

// resolve applies the default. An Off rate comes back as it is.
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

// times is n times r, for buckets that several connections share.
func (r Rate) times(n int) Rate {
	if r.off() {
		return r
	}
	return Rate{PerSecond: r.PerSecond * float64(n), Burst: int(min(float64(r.Burst)*float64(n), math.MaxInt/2))}
}

func (r Rate) limiter() *rate.Limiter {
	if r.off() {
		return nil
	}
	return rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)
}

// tableKeys is how many keys a table has room for, in 1.5 MiB.
const tableKeys = 65536

// limit is r as a keyed.Table takes it. Off is no limit there too.
func (r Rate) limit() keyed.Limit {
	if r.off() {
		return keyed.Limit{}
	}
	return keyed.Limit{PerSecond: r.PerSecond, Burst: float64(r.Burst)}
}

// limit resolves a count: 0 is the default, Off comes back as 0, no limit.
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

// Action is what happens to a message that is refused.
type Action int

// Actions. A notice is {"error":"rate_limited"} or {"error":"invalid_message"}
// with details, at most one of each a second with a burst of 20.
const (
	ActionClose  Action = iota // close the connection
	ActionReply                // answer with a notice, and read on
	ActionDelay                // rates only: read no more until it fits, 5 s at most, then close
	ActionReport               // report the message, and deliver it
)

// maxDelay bounds ActionDelay.
const maxDelay = 5 * time.Second

// RateConfig bounds how often and how much clients may send: payload only, for
// pings and pongs have a budget of their own. A client is an IPv4 address or
// an IPv6 /64; anonymous connections have no subject. A bucket of these belongs to
// its key: reconnecting does not refill it.
type RateConfig struct {
	Messages        Rate   // of a connection; default 20/s, burst 40
	Bytes           Rate   // of a connection; default 256 KiB/s, burst 1 MiB
	ClientMessages  Rate   // of a client; default 16 times Messages
	ClientBytes     Rate   // of a client; default 16 times Bytes
	SubjectMessages Rate   // of a subject; default 4 times Messages
	SubjectBytes    Rate   // of a subject; default 4 times Bytes
	SentBytes       Rate   // that a connection is sent; who has had too many is not listened to; default no limit
	Action          Action // for a message over any of these; default ActionClose → 1008 rate_limited

	// WarnAt is a part of Burst, such as 0.8: who has used that much of a
	// bucket of his connection gets {"warning":"rate_limit"} first. Default: no
	// warning.
	WarnAt float64

	Handshakes           Rate // of a client, past the origin check, and 16 times that of an IPv6 /48; default 5/s, burst 20 → 429
	ReportHandshakes     bool // a handshake over that is reported, and passes
	MaxInFlight          int  // handshakes waiting for a verifier or Attach; default 256, Off none → 503
	MaxInFlightPerClient int  // of them, a client's; default 8, Off none → 429
}

// rates is a RateConfig at work.
type rates struct {
	cfg        RateConfig // resolved
	handshakes *keyed.Table
	networks   *keyed.Table // handshakes of an IPv6 /48
	clients    *keyed.Table // messages and bytes under each key
	subjects   *keyed.Table // likewise
	inFlight   *counter
}

func newRates(cfg RateConfig, f *faults) *rates {
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
	cfg.Handshakes = cfg.Handshakes.resolve(Rate{5, 20}, "Rates.Handshakes", f)
	if cfg.Action < ActionClose || cfg.Action > ActionReport {
		f.add("Rates.Action", int(cfg.Action), "no such action")
	}
	return &rates{
		cfg:        cfg,
		handshakes: keyed.New(tableKeys),
		networks:   keyed.New(tableKeys),
		clients:    keyed.New(tableKeys),
		subjects:   keyed.New(tableKeys),
		inFlight: newCounter(
			limit(cfg.MaxInFlight, 256, "Rates.MaxInFlight", f),
			limit(cfg.MaxInFlightPerClient, 8, "Rates.MaxInFlightPerClient", f)),
	}
}

// succeed takes over what old has counted.
func (r *rates) succeed(old *rates) {
	r.handshakes, r.networks, r.clients, r.subjects = old.handshakes, old.networks, old.clients, old.subjects
	old.inFlight.set(r.inFlight)
	r.inFlight = old.inFlight
}

// perNetwork is how many clients' rate a whole IPv6 /48 has.
const perNetwork = 16

// Evicted is how many buckets have been forgotten although they were not full: there
// were more clients or subjects than there is room for.
func (g *Guard) Evicted() (n uint64) {
	s := g.now.Load()
	for _, t := range []*keyed.Table{s.rates.handshakes, s.rates.networks, s.rates.clients, s.rates.subjects, s.auth.latest().failures} {
		n += t.Evicted()
	}
	return n
}

// reportEvicted says so at first, and each time that it has doubled.
func (g *Guard) reportEvicted() {
	if n, told := g.Evicted(), g.evicted.Load(); n >= max(1, 2*told) && g.evicted.CompareAndSwap(told, n) {
		g.events.emit(audit.Event{Kind: audit.Warning, Reason: "evicted", Detail: fmt.Sprintf("%d buckets that were not full have been forgotten: there are more clients than the tables have room for", n)})
	}
}

// handshake charges a handshake to its client, and to the /48 around it.
func (r *rates) handshake(client client) error {
	limit := r.cfg.Handshakes.limit()
	now := time.Now()
	key := client.in(r.handshakes)
	if wait, ok := r.handshakes.Take(key, 1, limit, now); !ok {
		return denyRetry(reason.HandshakeRate, wait)
	}
	if net, ok := client.network(); ok {
		if wait, ok := r.networks.Take(r.networks.Prefix(net), 1, r.cfg.Handshakes.times(perNetwork).limit(), now); !ok {
			r.handshakes.Give(key, 1, limit)
			d := denyRetry(reason.HandshakeRate, wait)
			d.detail, d.shared = "of its /48", true
			return d
		}
	}
	return nil
}

// fly reserves a place among the handshakes in flight.
func (c *counter) fly(client client) (*flight, error) {
	key := client.key()
	if ok, own := c.take(key); !ok {
		if own {
			return nil, denyStatus(reason.InFlight, http.StatusTooManyRequests, "of the client")
		}
		d := deny(reason.InFlight, "")
		d.shared = true
		return nil, d
	}
	fl := &flight{release: func() { c.give(key) }}
	fl.hold()
	return fl, nil
}

// checkBytes finds the fault that makes a large message impossible for ever.
func (r *rates) checkBytes(maxMessage int64, f *faults) {
	for _, b := range []struct {
		field string
		rate  Rate
	}{
		{"Rates.Bytes", r.cfg.Bytes}, {"Rates.ClientBytes", r.cfg.ClientBytes}, {"Rates.SubjectBytes", r.cfg.SubjectBytes},
	} {
		if !b.rate.off() && int64(b.rate.Burst) < maxMessage {
			f.add(b.field, b.rate, "the burst is smaller than the largest message")
		}
	}
}

// connRates are the buckets that one connection's messages pass. The reader
// owns it.
type connRates struct {
	messages, bytes *rate.Limiter
	shared          []sharedBucket
	sent            *rate.Limiter // writers charge it
	owing           bool          // it was sent that refused last
	warnAt          float64
	warned          bool
	last            time.Time
}

type sharedBucket struct {
	table           *keyed.Table
	key             keyed.Key
	messages, bytes keyed.Limit
}

func (r *rates) conn(client client, subject string) *connRates {
	c := &connRates{messages: r.cfg.Messages.limiter(), bytes: r.cfg.Bytes.limiter(), warnAt: r.cfg.WarnAt}
	if !r.cfg.ClientMessages.off() || !r.cfg.ClientBytes.off() {
		c.shared = append(c.shared, sharedBucket{r.clients, client.in(r.clients), r.cfg.ClientMessages.limit(), r.cfg.ClientBytes.limit()})
	}
	if (!r.cfg.SubjectMessages.off() || !r.cfg.SubjectBytes.off()) && subject != "" {
		c.shared = append(c.shared, sharedBucket{r.subjects, r.subjects.String(subject), r.cfg.SubjectMessages.limit(), r.cfg.SubjectBytes.limit()})
	}
	return c
}

// refit is conn for a connection that has buckets already: they go on.
func (r *rates) refit(old *connRates, client client, subject string) *connRates {
	c := r.conn(client, subject)
	c.last, c.warned = old.last, old.warned
	c.sent = follow(old.sent, r.cfg.SentBytes.limiter())
	c.messages = follow(old.messages, c.messages)
	c.bytes = follow(old.bytes, c.bytes)
	return c
}

func follow(old, fresh *rate.Limiter) *rate.Limiter {
	if old == nil || fresh == nil {
		return fresh
	}
	now := time.Now()
	old.SetLimitAt(now, fresh.Limit())
	old.SetBurstAt(now, fresh.Burst())
	return old
}

// take charges a message of n bytes that counts for cost messages. What refuses it
// takes nothing, and says how long it would have to wait.
func (c *connRates) take(n, cost int, now time.Time) (wait time.Duration, ok bool) {
	// A now that steps back would make x/time/rate admit too much.
	if now.Before(c.last) {
		now = c.last
	}
	c.last = now
	if c.sent != nil {
		if owed := -c.sent.TokensAt(now); owed > 0 {
			c.owing = true
			return time.Duration(min(owed/float64(c.sent.Limit()), math.MaxInt32) * float64(time.Second)), false
		}
	}
	c.owing = false
	if c.messages != nil && !c.messages.AllowN(now, cost) {
		return missing(c.messages, cost, now), false
	}
	if c.bytes != nil && !c.bytes.AllowN(now, n) {
		wait = missing(c.bytes, n, now)
		giveBack(c.messages, cost, now)
		return wait, false
	}
	for i, b := range c.shared {
		if wait, ok := b.table.Take2(b.key, float64(cost), float64(n), b.messages, b.bytes, now); !ok {
			c.give(c.shared[:i], n, cost, now)
			return wait, false
		}
	}
	return 0, true
}

// give undoes a take of the same moment, as far as it got with the shared buckets.
func (c *connRates) give(shared []sharedBucket, n, cost int, now time.Time) {
	for _, b := range shared {
		b.table.Give2(b.key, float64(cost), float64(n), b.messages, b.bytes)
	}
	giveBack(c.messages, cost, now)
	giveBack(c.bytes, n, now)
}

// charge counts what a connection was sent. It may owe: that is paid off before it
// is listened to again.
func charge(sent *rate.Limiter, n int) {
	if sent == nil {
		return
	}
	now, burst := time.Now(), sent.Burst()
	for range maxDebt {
		if n <= 0 {
			break
		}
		sent.ReserveN(now, min(n, burst))
		n -= burst
	}
}

// maxDebt is how many bursts one message can make a connection owe.
const maxDebt = 64

// warn reports that a bucket of the connection's is all but used up, once until
// half of it is there again.
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

// giveBack undoes an AllowN of the same moment: x/time/rate has no name for it,
// but taking less than nothing adds.
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
	// What is missing may round to no time at all.
	return max(r.DelayFrom(now), time.Microsecond)
}

// counter counts what is held, in all and per client.
type counter struct {
	max, maxEach int // 0: no limit

	mu      sync.Mutex
	all     int
	each    map[clientKey]int
	waiting int
	freed   chan struct{} // closed when a place is given back; nil: nobody waits
}

// set makes the limits those of to, for whoever comes next.
func (c *counter) set(to *counter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max, c.maxEach = to.max, to.maxEach
}

func newCounter(max, maxEach int) *counter {
	return &counter{max: max, maxEach: maxEach, each: map[clientKey]int{}}
}

// Handshakes that come all at once are no attack when what they wait for is
// fast: a full counter is given this time.
const (
	patience   = 50 * time.Millisecond
	maxPatient = 256
)

// take reserves a place. It reports which limit is in the way: of the client's
// first, for it is about him.
func (c *counter) take(key clientKey) (ok, own bool) {
	var t *time.Timer
	for late := false; ; {
		c.mu.Lock()
		own = c.maxEach > 0 && c.each[key] >= c.maxEach
		if !own && (c.max <= 0 || c.all < c.max) {
			c.all++
			c.each[key]++
			c.mu.Unlock()
			return true, false
		}
		if late || c.waiting >= maxPatient {
			c.mu.Unlock()
			return false, own
		}
		if c.freed == nil {
			c.freed = make(chan struct{})
		}
		freed := c.freed
		c.waiting++
		c.mu.Unlock()
		if t == nil {
			t = time.NewTimer(patience)
			defer t.Stop()
		}
		select {
		case <-freed:
		case <-t.C:
			late = true // one more look: the machine may have been busy
		}
		c.mu.Lock()
		c.waiting--
		c.mu.Unlock()
	}
}

func (c *counter) give(key clientKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	down(c.each, key)
	if c.freed != nil {
		close(c.freed)
		c.freed = nil
	}
}

// CapConfig bounds how many connections there are. In each field 0 is the
// default and Off no limit. A slot is reserved before the upgrade; it comes
// back when the connection has ended and its handler has returned.
type CapConfig struct {
	MaxConns           int  // in all; default 10,000 → 503
	MaxConnsPerClient  int  // of an IPv4 address or an IPv6 /64; default 64 → 429
	MaxConnsPerNetwork int  // of an IPv6 /48; default 1,024 → 429
	MaxConnsPerSubject int  // default 16 → 429
	MaxUnauthenticated int  // that owe a first message; default MaxConns/10, 1,000 when Off → 503
	ReportOnly         bool // what would be refused is reported, and passes
}

// ConnCap bounds the number of connections. Several Guards can share one.
type ConnCap struct {
	reporter

	mu           sync.Mutex
	cfg          CapConfig // resolved; 0: no limit
	client       identify
	all, waiting int
	clients      map[clientKey]int
	networks     map[netip.Prefix]int
	subjects     map[string]int
}

// NewConnCap returns a cap that can stand in front of any handler.
func NewConnCap(cfg CapConfig, proxies Proxies) (*ConnCap, error) {
	var f faults
	c := &ConnCap{clients: map[clientKey]int{}, networks: map[netip.Prefix]int{}, subjects: map[string]int{}}
	c.set(cfg.resolve(&f), proxies.resolver(&f))
	return c, f.err()
}

// set is for New and for Reconfigure: slots that are held stay so.
func (c *ConnCap) set(cfg CapConfig, client identify) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg, c.client = cfg, client
}

func (cfg CapConfig) resolve(f *faults) CapConfig {
	c := CapConfig{
		MaxConns:           limit(cfg.MaxConns, 10_000, "Caps.MaxConns", f),
		MaxConnsPerClient:  limit(cfg.MaxConnsPerClient, 64, "Caps.MaxConnsPerClient", f),
		MaxConnsPerNetwork: limit(cfg.MaxConnsPerNetwork, 1024, "Caps.MaxConnsPerNetwork", f),
		MaxConnsPerSubject: limit(cfg.MaxConnsPerSubject, 16, "Caps.MaxConnsPerSubject", f),
		ReportOnly:         cfg.ReportOnly,
	}
	waiting := 1000
	if c.MaxConns > 0 {
		waiting = max(1, c.MaxConns/10)
	}
	c.MaxUnauthenticated = limit(cfg.MaxUnauthenticated, waiting, "Caps.MaxUnauthenticated", f)
	return c
}

// Lease is a slot, held until Release.
type Lease struct {
	cap     *ConnCap
	client  clientKey
	network netip.Prefix // not valid: none

	mu       sync.Mutex
	subject  string
	waiting  bool
	moved    bool // a Conn has it
	released bool
}

// Acquire reserves a slot for the client of r.
func (c *ConnCap) Acquire(r *http.Request) (*Lease, error) {
	c.mu.Lock()
	client := c.client
	c.mu.Unlock()
	who, err := client.of(r)
	if err != nil {
		return nil, err
	}
	return c.acquire(who, r)
}

func (c *ConnCap) acquire(who client, r *http.Request) (*Lease, error) {
	l := &Lease{cap: c, client: who.key()}
	l.network, _ = who.network()
	c.mu.Lock()
	cfg := c.cfg
	var over error
	switch {
	case cfg.MaxConns > 0 && c.all >= cfg.MaxConns:
		over = deny(reason.MaxConns, "")
	case cfg.MaxConnsPerClient > 0 && c.clients[l.client] >= cfg.MaxConnsPerClient:
		over = deny(reason.MaxClientConns, "")
	case cfg.MaxConnsPerNetwork > 0 && l.network.IsValid() && c.networks[l.network] >= cfg.MaxConnsPerNetwork:
		d := deny(reason.MaxClientConns, "of its /48")
		d.shared = true
		over = d
	}
	if over == nil || cfg.ReportOnly {
		c.all++
		c.clients[l.client]++
		if l.network.IsValid() {
			c.networks[l.network]++
		}
	}
	c.mu.Unlock()
	if over != nil {
		if !cfg.ReportOnly {
			return nil, over
		}
		reported := false
		defer func() {
			if !reported { // OnEvent has ended the goroutine
				l.Release()
			}
		}()
		c.report(r, over)
		reported = true
	}
	return l, nil
}

// bind counts the lease for a subject as well. It does nothing for a subject
// that it is bound to already, or for an anonymous one.
func (l *Lease) bind(subject string, r *http.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if subject == "" || l.subject == subject || l.released {
		return nil
	}
	c := l.cap
	c.mu.Lock()
	if l.subject != "" {
		down(c.subjects, l.subject) // a piece in front had another view
		l.subject = ""
	}
	cfg := c.cfg
	over := cfg.MaxConnsPerSubject > 0 && c.subjects[subject] >= cfg.MaxConnsPerSubject
	if !over || cfg.ReportOnly {
		c.subjects[subject]++
		l.subject = subject
	}
	c.mu.Unlock()
	if over {
		err := deny(reason.MaxSubjectConns, "")
		if !cfg.ReportOnly {
			return err
		}
		c.report(r, err)
	}
	return nil
}

// await counts the lease as unauthenticated, authenticated ends that.
func (l *Lease) await(r *http.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cap
	c.mu.Lock()
	cfg := c.cfg
	over := cfg.MaxUnauthenticated > 0 && c.waiting >= cfg.MaxUnauthenticated
	if !over || cfg.ReportOnly {
		c.waiting++
		l.waiting = true
	}
	c.mu.Unlock()
	if !over {
		return nil
	}
	err := deny(reason.MaxConns, "of those not authenticated yet")
	if !cfg.ReportOnly {
		return err
	}
	c.report(r, err)
	return nil
}

func (l *Lease) authenticated() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting {
		l.waiting = false
		l.cap.mu.Lock()
		l.cap.waiting--
		l.cap.mu.Unlock()
	}
}

// Release gives the slot back. More than once is the same as once.
func (l *Lease) Release() {
	l.authenticated()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return
	}
	l.released = true
	c := l.cap
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	down(c.clients, l.client)
	if l.network.IsValid() {
		down(c.networks, l.network)
	}
	if l.subject != "" {
		down(c.subjects, l.subject)
	}
}

func down[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

// move hands the lease to a Conn: whoever made it no longer releases it.
func (l *Lease) move() {
	l.mu.Lock()
	l.moved = true
	l.mu.Unlock()
}

func (l *Lease) releaseUnlessMoved() {
	l.mu.Lock()
	moved := l.moved
	l.mu.Unlock()
	if !moved {
		l.Release()
	}
}

// conns returns how many slots are held.
func (c *ConnCap) conns() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// Handler reserves a slot for as long as next runs, or until the end of the Conn
// that a Guard accepts there; else it answers 503 or 429. Behind an
// [Authenticator]'s Handler, the subject's cap holds too.
func (c *ConnCap) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := marksOf(r)
		if m.has(c) {
			next.ServeHTTP(w, r)
			return
		}
		l, err := c.Acquire(r)
		if err == nil {
			defer l.releaseUnlessMoved()
			if p, ok := PrincipalOf(r); ok {
				if err = l.bind(p.Subject, r); err != nil {
					l.Release() // before the client is told
				}
			}
		}
		if err != nil {
			c.refuse(w, r, err, audit.Event{})
			return
		}
		m.leases = append(m.leases[:len(m.leases):len(m.leases)], l)
		next.ServeHTTP(w, m.with(r, c))
	})
}
