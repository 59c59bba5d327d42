// Package wsguardredis has the stores of package store on Redis 6.2 or later, or Valkey 7.2 or
// later. The instances of a service share tickets, connection slots, rates, bans and
// revocations through it.
//
//	shared, err := wsguardredis.New(client, wsguardredis.Options{Prefix: "chat"})
//	…
//	guard, err := wsguard.New(wsguard.Config{
//		Shared: shared.Shared(),
//		…
//	})
//
// # Waiting
//
// No call waits longer than Options.Timeout for Redis, whatever the timeouts of the client are.
// If Redis is slow or gone, calls return a [store.OutageError]. After 5 failures in a row, calls
// return the error at once, and one call in about 500 ms asks Redis. When such a call succeeds,
// all calls ask Redis again.
//
// # Redis Cluster
//
// With a ClusterClient or a Ring, the scopes of an Acquire are in different hash slots. So a call
// for several keys needs several round trips. Options.HashTag avoids that. It stores all keys in
// one hash slot.
package wsguardredis

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/store"
)

// Options are the options of a [Store].
type Options struct {
	// Prefix names the service. It begins each key, so that services with different prefixes
	// can share one Redis. It has 1 to 64 letters, digits, dots, hyphens and underscores. It has
	// no default.
	Prefix string

	// HashTag puts all keys into one hash slot of a Redis Cluster. Then a handshake costs one
	// round trip where it would cost several. One node carries the whole service, except its bans
	// and revocations. All instances must agree. Set it if the client is a wrapper of your own
	// around a ClusterClient or a Ring, which New does not recognise. The default is false.
	HashTag bool

	// Timeout is how long a call waits for Redis. The default is 50 ms. A negative value is an
	// error.
	Timeout time.Duration

	// MaxMarks is how many bans and how many revocations Redis holds for the service. The
	// default is 1,000,000 of each. A negative value is an error. Set returns store.ErrFull when
	// there are as many.
	MaxMarks int

	// News is how many changes of bans, and how many of revocations, wait for readers. The
	// default is 10,000 of each. A negative value is an error. A reader that has missed more
	// gets store.ErrGap.
	News int

	// Logger gets a record at level Warn when Redis is not asked any more after failures, and one
	// at level Info when Redis answers again. The default is nil, which logs nothing.
	Logger *slog.Logger
}

// Defaults of Options.
const (
	defaultTimeout  = 50 * time.Millisecond
	defaultMaxMarks = 1_000_000
	defaultNews     = 10_000
)

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Store is the store of one instance of a service. It implements [store.OwnedOnce],
// [store.Slots], [store.Instances], [store.Rates] and [store.Admitter]. Bans and Revocations
// have a [store.Marks] each. Many goroutines may use it at the same time. A call that has failed
// or stopped waiting can leave a goroutine behind, until the client returns. Otherwise a Store has
// no goroutines between its calls. It never closes the client.
type Store struct {
	// Read-only after New.
	client   redis.UniversalClient
	opts     Options
	prefix   string // begins each key
	spread   bool   // keys are in different hash slots
	instance string // different from all other Stores
	bans     *marks
	revoked  *marks

	calls   chan struct{} // has a value for each command that is under way
	breaker breaker       // has a lock of its own
	tallies tallies       // has a lock of its own
}

// maxCalls is how many commands may be under way. So a Redis that does not answer holds that
// many goroutines, and those in which a reader waits for news.
const maxCalls = 128

var _ interface {
	store.OwnedOnce
	store.Slots
	store.Instances
	store.Rates
	store.Admitter
} = (*Store)(nil)

// New returns a store on client. It does not connect. It returns an error if the options are not
// valid, or if the client has no timeout: a negative ReadTimeout or WriteTimeout needs
// ContextTimeoutEnabled in the options of the client. Such a client would never give up a command
// that a stopped Redis does not answer. New looks at a Client, a ClusterClient and a Ring.
func New(client redis.UniversalClient, opts Options) (*Store, error) {
	switch {
	case client == nil:
		return nil, errors.New("wsguardredis: no client")
	case !prefixForm.MatchString(opts.Prefix):
		return nil, errors.New("wsguardredis: Options.Prefix must have 1 to 64 letters, digits, dots, hyphens and underscores")
	case opts.Timeout < 0 || opts.MaxMarks < 0 || opts.News < 0:
		return nil, errors.New("wsguardredis: a negative value in Options")
	case endless(client):
		return nil, errors.New("wsguardredis: the client has no timeout; set its ReadTimeout and WriteTimeout, or ContextTimeoutEnabled")
	}
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxMarks == 0 {
		opts.MaxMarks = defaultMaxMarks
	}
	if opts.News == 0 {
		opts.News = defaultNews
	}
	s := &Store{
		client: client, opts: opts, prefix: opts.Prefix + ":",
		instance: rand.Text(), calls: make(chan struct{}, maxCalls),
		breaker: breaker{logger: opts.Logger},
	}
	switch client.(type) {
	case *redis.ClusterClient, *redis.Ring:
		s.spread = !opts.HashTag
	}
	if opts.HashTag {
		s.prefix = "{" + opts.Prefix + "}:"
	}
	s.bans, s.revoked = newMarks(s, "bans"), newMarks(s, "revocations")
	return s, nil
}

// endless reports whether a command of the client may last for any time.
func endless(client redis.UniversalClient) bool {
	switch c := client.(type) {
	case *redis.Client:
		o := c.Options() // the client has replaced a 0 by a default, and -1 by 0
		return !o.ContextTimeoutEnabled && (o.ReadTimeout <= 0 || o.WriteTimeout <= 0)
	case *redis.ClusterClient:
		o := c.Options()
		return !o.ContextTimeoutEnabled && (o.ReadTimeout < 0 || o.WriteTimeout < 0)
	case *redis.Ring:
		o := c.Options()
		return !o.ContextTimeoutEnabled && (o.ReadTimeout < 0 || o.WriteTimeout < 0)
	}
	return false
}

// Shared returns the SharedConfig that shares everything through the store. The caller may change
// it, for example to let a feature fail closed.
func (s *Store) Shared() wsguard.SharedConfig {
	return wsguard.SharedConfig{
		Slots: s, Rates: s, Admitter: s, Tickets: s, Instances: s,
		Bans: s.Bans(), Revocations: s.Revocations(),
		Timeout: 2 * s.opts.Timeout, // longer than the store waits itself
	}
}

// Bans returns the bans of the service.
func (s *Store) Bans() store.Marks { return s.bans }

// Revocations returns the revocations of the service.
func (s *Store) Revocations() store.Marks { return s.revoked }

// The kinds of keys. A key is the prefix, the kind, a colon, and the key of the call.
const (
	kindOnce     = "once:"
	kindOwner    = "owner:"
	kindSlots    = "slots:"
	kindWide     = "wide:"
	kindRate     = "rate:"
	kindInstance = "instances"
)

func (s *Store) key(kind, key string) string { return s.prefix + kind + key }

func (s *Store) scopeKey(scope store.Scope) string {
	if scope.Wide {
		return s.key(kindWide, scope.Key)
	}
	return s.key(kindSlots, scope.Key)
}

var beatScript = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('ZCARD', KEYS[1])
`)

// Beat implements [store.Instances].
func (s *Store) Beat(ctx context.Context, ttl time.Duration) (int, error) {
	if err := store.ValidateTTL(ttl); err != nil {
		return 0, err
	}
	return call(ctx, s, "beat", func(ctx context.Context) (int, error) {
		return beatScript.Run(ctx, s.client, []string{s.key(kindInstance, "")}, s.instance, ttl.Milliseconds(), keyTTL).Int()
	}, nil)
}

// keyTTL is when Redis forgets a set of leases that is not used, in milliseconds. It is longer
// than each lease. The leases have ends of their own.
const keyTTL = 2 * int64(store.MaxLease/time.Millisecond)

// tallies knows which connections of this instance are in wide scopes. Redis has one number for
// each instance and wide scope. Each change has a sequence number, so that an older number never
// replaces a newer one, whatever the order in which Redis gets them.
type tallies struct {
	mu     sync.Mutex            // no other lock is taken while it is held
	scopes map[string]*wideScope // guarded by mu: by the key of the scope
	seq    uint64                // guarded by mu: the last sequence number
}

// wideScope has the IDs in a wide scope. The mu of its tallies guards it.
type wideScope struct {
	ids  map[string]bool // whether the slot is held; otherwise it is asked for
	held int             // how many are held
	told uint64          // the last sequence number under which Redis is told the whole number
}

// tally is how many connections an instance has in a wide scope.
type tally struct {
	seq   uint64
	n     int  // the slots that are held or asked for
	held  int  // the slots that are held
	fresh bool // the ID was not counted before
}

// tally returns the present numbers under a new sequence number. The caller holds mu. w may be
// nil.
func (t *tallies) tally(w *wideScope) tally {
	t.seq++
	if w == nil {
		return tally{seq: t.seq}
	}
	return tally{seq: t.seq, n: len(w.ids), held: w.held}
}

// add counts id as a slot that is asked for, unless it is counted already.
func (t *tallies) add(key, id string) tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.scopes[key]
	if w == nil {
		if t.scopes == nil {
			t.scopes = map[string]*wideScope{}
		}
		w = &wideScope{ids: map[string]bool{}}
		t.scopes[key] = w
	}
	_, counted := w.ids[id]
	if !counted {
		w.ids[id] = false
	}
	got := t.tally(w)
	got.fresh = !counted
	return got
}

// confirm notes that the slot of id is held, unless it was removed meanwhile.
func (t *tallies) confirm(key, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.scopes[key]
	if w == nil {
		return
	}
	if held, counted := w.ids[id]; counted && !held {
		w.ids[id] = true
		w.held++
	}
}

// tell returns the present numbers, which the caller sends to Redis. The caller holds mu. w may
// be nil.
func (t *tallies) tell(w *wideScope) tally {
	got := t.tally(w)
	if w != nil {
		w.told = got.seq
	}
	return got
}

// now returns the present numbers, which the caller sends to Redis.
func (t *tallies) now(key string) tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tell(t.scopes[key])
}

// remove counts id no longer. It returns the numbers, which the caller sends to Redis.
func (t *tallies) remove(key, id string) tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.scopes[key]
	t.drop(w, key, id)
	return t.tell(w)
}

// forget counts an id that was refused no longer. If Redis was told a number that counts the id,
// told is true, and the caller sends the new numbers to Redis.
func (t *tallies) forget(c counted, id string) (now tally, told bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.scopes[c.key]
	if w == nil {
		return tally{}, false
	}
	t.drop(w, c.key, id)
	if w.told < c.seq {
		return tally{}, false
	}
	return t.tell(w), true
}

// drop removes id from w, which may be nil. The caller holds mu.
func (t *tallies) drop(w *wideScope, key, id string) {
	if w == nil {
		return
	}
	if w.ids[id] {
		w.held--
	}
	delete(w.ids, id)
	if len(w.ids) == 0 {
		delete(t.scopes, key)
	}
}
