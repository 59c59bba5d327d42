package wsguard

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

// inquiry is what a handshake asks the stores in one call.
type inquiry struct {
	store.Request
	about []taken // what each of Takes is for
	ahead spender // whose messages forMessages is for
}

// taken says what tokens are for.
type taken int

const (
	forHandshake taken = iota // of the client
	forNetwork                // the handshake, of the /48
	forFailure                // looks whether the client may fail once more
	forSubject                // the handshake, of the subject
	forMessages               // the first messages of the connection
)

// The scopes of slots. The keys of all but the first end in what the connections have in common.
const (
	scopeAll     = "conns"
	scopeClient  = "client/"
	scopeNetwork = "network/"
	scopeSubject = "subject/"
)

func (q *inquiry) take(about taken, key string, r Rate, least, most int64) {
	if r.off() {
		return
	}
	q.Takes = append(q.Takes, store.Take{Key: key, Limit: r.stored(), Least: least, Most: most})
	q.about = append(q.about, about)
}

// messages takes tokens for the first messages of a connection, so that they need not wait.
func (q *inquiry) messages(sh *shared, of spender, cfg RateConfig) {
	q.ahead = of
	for _, t := range sh.firstTakes(of, cfg) {
		q.Takes = append(q.Takes, t)
		q.about = append(q.about, forMessages)
	}
}

func (q *inquiry) scope(key string, most int, wide bool) {
	if most > 0 {
		q.Scopes = append(q.Scopes, store.Scope{Key: key, Max: most, Wide: wide})
	}
}

func (q *inquiry) empty() bool { return len(q.Takes) == 0 && len(q.Scopes) == 0 && q.Once == "" }

// stored converts r for package store.
func (r Rate) stored() store.Limit {
	return store.Limit{PerSecond: max(r.PerSecond, 1e-9), Burst: int64(r.Burst)}
}

// text is the client in the keys of a store.
func (k clientKey) text() string {
	if k.name != "" {
		return "name/" + k.name
	}
	return k.prefix.String()
}

// sharedKey is the key of a bucket of handshakes or failures in the store. What foreign pages
// send has buckets of its own there, too.
func (a *admission) sharedKey(bucket string) string {
	if !a.known {
		bucket += "foreign/"
	}
	return bucket + a.client.key().text()
}

func (a *admission) sharedNetKey(bucket string, net netip.Prefix) string {
	if !a.known {
		bucket += "foreign/"
	}
	return bucket + "network/" + net.String()
}

// hashed stands for a secret or for a long text in the keys of a store.
func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// put puts a question to the stores. If a scope is full, it waits for the slots that this
// instance is giving back, and asks once more.
func (a *admission) put(q *inquiry) (answer store.Answer, err error) {
	sh, asked := a.g.shared, time.Now()
	before := sh.keeper.soFar()
	answer, err = a.ask(q.Request)
	q.credit(sh, answer.Taken, asked)
	if err != nil || answer.Refused != store.RefusedSlot || sh.keeper == nil {
		return answer, err
	}
	soon, cancel := context.WithTimeout(a.ctx, maxHold)
	defer cancel()
	if !sh.keeper.settle(soon, before) {
		return answer, nil
	}
	again := q.Request
	again.Takes, again.ID = nil, newID()
	second, err := a.ask(again)
	q.ID, second.Taken = again.ID, answer.Taken
	return second, err
}

// ask asks the stores, for at most SharedConfig.Timeout.
func (a *admission) ask(r store.Request) (store.Answer, error) {
	return a.g.shared.ask(a.ctx, "admit", min(a.g.shared.timeout, a.auth.cfg.VerifyTimeout), r)
}

// maxStuck is how many calls may outlive their limit. Further calls fail at once until one of them
// has returned, so that the goroutines that a store holds are bounded.
const maxStuck = 16

// ask asks the stores, and waits for at most limit. op names the call in audit.Snapshot.
func (sh *shared) ask(ctx context.Context, op string, limit time.Duration, r store.Request) (store.Answer, error) {
	return callStore(sh, ctx, op, func(ctx context.Context) (store.Answer, error) {
		if sh.stuck.Load() >= maxStuck {
			return store.Answer{}, errStuck
		}
		var ended atomic.Bool // by the first of the call and the wait for it
		done := func() {
			if ended.Swap(true) {
				sh.stuck.Add(-1)
			}
		}
		answer, err := within(ctx, limit, done, func(ctx context.Context) (store.Answer, error) { return sh.admitter.Admit(ctx, r) })
		switch {
		case err == nil && !answers(r, answer):
			return store.Answer{}, errNoAnswer
		case err == nil:
			return answer, nil
		case !ended.Swap(true):
			sh.stuck.Add(1)
		}
		if ctx.Err() == context.Canceled {
			err = context.Canceled // the client has gone, which says nothing about the store
		}
		return store.Answer{}, err
	})
}

var errStuck = errors.New("wsguard: earlier calls of the store have not returned")

var errNoAnswer = errors.New("wsguard: the store has answered another question")

// answers reports whether a store can have given answer to r.
func answers(r store.Request, answer store.Answer) bool {
	switch answer.Refused {
	case store.RefusedRate:
		return slices.ContainsFunc(r.Takes, func(t store.Take) bool { return t.Key == answer.Key && t.Least > 0 })
	case store.RefusedSlot:
		if !slices.ContainsFunc(r.Scopes, func(s store.Scope) bool { return s.Key == answer.Key }) {
			return false
		}
	case store.RefusedOnce:
		if r.Once == "" {
			return false
		}
	case store.Admitted:
	default:
		return false
	}
	return len(answer.Taken) == len(r.Takes)
}

// credit makes the tokens for the first messages ready for them.
func (q *inquiry) credit(sh *shared, taken []int64, asked time.Time) {
	var takes []store.Take
	var got []int64
	for i, n := range taken {
		if i < len(q.Takes) && q.about[i] == forMessages {
			takes, got = append(takes, q.Takes[i]), append(got, n)
		}
	}
	if len(takes) > 0 {
		sh.credit(q.ahead, takes, got, asked)
	}
}

// maxHold bounds how long a handshake, or a message, waits for what this instance does with the
// store.
const maxHold = 50 * time.Millisecond
