package wsguard_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// crowd has as many connections as wanted, of subjects u0, u1 and so on, and a Revalidate that
// the test plays.
type crowd struct {
	*env
	mu    sync.Mutex
	asked map[string][]time.Time // by subject
	now   atomic.Int64           // calls that have not returned
	most  atomic.Int64
}

// newCrowd opens n connections, and asks hook about each of them every interval.
func newCrowd(t *testing.T, n int, every time.Duration, hook func(context.Context)) *crowd {
	t.Helper()
	cr := &crowd{asked: map[string][]time.Time{}}
	cr.env = serveGuard(t, conf(noHandshakeLimits, noPings, anyToken, func(cfg *wsguard.Config) {
		cfg.Timeouts.Idle = wsguard.Off
		cfg.Auth.RevalidateEvery = every
		cfg.Auth.Revalidate = func(ctx context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			cr.mu.Lock()
			cr.asked[p.Subject] = append(cr.asked[p.Subject], time.Now())
			cr.mu.Unlock()
			cr.most.Store(max(cr.most.Load(), cr.now.Add(1)))
			defer cr.now.Add(-1)
			hook(ctx)
			return p, nil
		}
	}))
	for i := range n {
		browse(cr.open(bearer(fmt.Sprint("u", i))))
	}
	synctest.Wait()
	return cr
}

func (cr *crowd) leave() {
	for i := range 10_000 {
		cr.g.Admin().Revoke(fmt.Sprint("u", i))
		if cr.g.Conns() == 0 {
			break
		}
	}
}

// about returns when the hook was asked about which subject.
func (cr *crowd) about() map[string][]time.Time {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	return maps.Clone(cr.asked)
}

// calls returns how many calls there were, and the longest time between two about a subject.
func (cr *crowd) calls() (n int, gap time.Duration) {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	for _, at := range cr.asked {
		n += len(at)
		for i := range at[1:] {
			gap = max(gap, at[i+1].Sub(at[i]))
		}
	}
	return n, gap
}

// However many are due in one run of the sweeper, each is asked about in time.
func TestRevalidateMany(t *testing.T) {
	for _, tt := range []struct {
		n     int
		every time.Duration
		takes time.Duration
	}{
		{500, time.Second, 2 * time.Millisecond},
		{500, time.Second, 100 * time.Millisecond},
		{2000, 5 * time.Second, 100 * time.Millisecond},
	} {
		t.Run(fmt.Sprint(tt.n, " ", tt.takes), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cr := newCrowd(t, tt.n, tt.every, func(context.Context) { time.Sleep(tt.takes) })
				time.Sleep(10 * tt.every)
				synctest.Wait()
				n, gap := cr.calls()
				if closed := len(cr.events.of(audit.Close)); closed > 0 {
					t.Errorf("%d of %d are closed", closed, tt.n)
				}
				if len(cr.about()) != tt.n || n < 7*tt.n || gap > 2*tt.every {
					t.Errorf("asked %d times about %d of %d, and once not for %v", n, len(cr.about()), tt.n, gap)
				}
				if cr.most.Load() > 64 {
					t.Errorf("%d at once", cr.most.Load())
				}
				cr.leave()
			})
		})
	}
}

// A hook that cannot keep up costs only the connections that it cannot keep up with. They
// go when they have waited for a whole interval.
func TestRevalidateTooSlow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 1000
		// 64 places are good for 640 in a second, so with an interval and a wait of one second
		// for 1,280 at most: that is enough for all.
		cr := newCrowd(t, n, time.Second, func(context.Context) { time.Sleep(100 * time.Millisecond) })
		time.Sleep(20 * time.Second)
		if closed := len(cr.events.of(audit.Close)); closed > 0 {
			t.Errorf("%d of %d are closed, and there was time for all", closed, n)
		}
		cr.leave()
	})
	bubble(t, func(t *testing.T) {
		const n = 1000
		cr := newCrowd(t, n, time.Second, func(context.Context) { time.Sleep(400 * time.Millisecond) })
		time.Sleep(20 * time.Second)
		closed := cr.events.of(audit.Close)
		if left := n - len(closed); left < 250 || left > 420 { // 160 in a second
			t.Errorf("%d of %d are left", left, n)
		}
		for _, ev := range closed {
			if ev.Code != 1013 || ev.Reason != "unavailable" || ev.Detail != "revalidation: too many at once" {
				t.Fatalf("closed with %d %q: %s", ev.Code, ev.Reason, ev.Detail)
			}
			at := cr.about()[ev.Subject]
			if len(at) > 0 && ev.Time.Sub(at[len(at)-1]) < 1900*time.Millisecond {
				t.Errorf("%s was closed %v after a call", ev.Subject, ev.Time.Sub(at[len(at)-1]))
			}
		}
		cr.leave()
	})
}

// stuckCrowd has 64 connections that hold all places, and more that wait for one.
func stuckCrowd(t *testing.T, n int) (cr *crowd, release func()) {
	t.Helper()
	stuck := make(chan struct{})
	cr = newCrowd(t, n, time.Minute, func(context.Context) { <-stuck })
	cfg := cr.cfg
	cfg.Auth.VerifyTimeout = time.Hour
	cr.reconfigure(cfg)
	time.Sleep(time.Minute)
	synctest.Wait()
	return cr, func() { close(stuck) }
}

// left returns how many connections are open, as the events say.
func (cr *crowd) left() int { return len(cr.events.of(audit.Open)) - len(cr.events.of(audit.Close)) }

// A connection that waits for a place has no goroutine, and leaves the queue when it ends.
func TestRevalidateEndsInQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 300
		cr, release := stuckCrowd(t, n)
		if running, waiting := wsguard.Revalidations(cr.g); running != 64 || waiting != n-64 {
			t.Errorf("%d asked about, %d wait, of %d", running, waiting, n)
		}
		calling := 0
		for _, stack := range ownGoroutines() {
			if strings.Contains(stack, ".revalidate(") {
				calling++
			}
		}
		if calling > 64 { // and may be fewer, because the stacks of a busy process are cut
			t.Errorf("%d goroutines revalidate", calling)
		}
		asked := cr.about()
		for i := range n {
			if name := fmt.Sprint("u", i); i%2 == 0 && asked[name] == nil {
				cr.g.Admin().Revoke(name)
			}
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		left := cr.left()
		if running, waiting := wsguard.Revalidations(cr.g); running != 64 || waiting != left-64 {
			t.Errorf("%d asked about, %d wait, of %d that are left", running, waiting, left)
		}
		release()
		synctest.Wait()
		if len(cr.about()) != left || len(asked) != 64 || cr.left() != left {
			t.Errorf("asked about %d of %d, and then %d are left", len(cr.about()), left, cr.left())
		}
		if running, waiting := wsguard.Revalidations(cr.g); running != 0 || waiting != 0 {
			t.Errorf("%d asked about, %d wait, and the hook does not hang any more", running, waiting)
		}
		cr.leave()
	})
}

// Shutdown does not wait for the queue, and leaves none.
func TestRevalidateShutdown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cr, release := stuckCrowd(t, 300)
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := cr.g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, waiting := wsguard.Revalidations(cr.g); waiting != 0 {
			t.Errorf("%d wait", waiting)
		}
	})
}

// An operator who raises RevalidateEvery, or switches Revalidate off, because the hook cannot
// keep up, helps those that wait already.
func TestRevalidateReconfigured(t *testing.T) {
	for name, change := range map[string]func(*wsguard.Config){
		"a longer interval": func(cfg *wsguard.Config) { cfg.Auth.RevalidateEvery = time.Hour },
		"no hook":           func(cfg *wsguard.Config) { cfg.Auth.Revalidate = nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cr, release := stuckCrowd(t, 200)
				cfg := cr.cfg
				cfg.Auth.VerifyTimeout = time.Hour
				change(&cfg)
				cr.reconfigure(cfg)
				time.Sleep(10 * time.Minute)
				if cr.left() != 200 {
					t.Errorf("%d of 200 are left", cr.left())
				}
				release()
				synctest.Wait() // those that wait have had their turn, and do not wait too long by the old interval
				cr.reconfigure(cr.cfg)
				time.Sleep(5 * time.Minute)
				if cr.left() != 200 || len(cr.about()) != 200 {
					t.Errorf("%d of 200 are left, and asked about %d", cr.left(), len(cr.about()))
				}
				cr.leave()
			})
		})
	}
}

// Connections that Reconfigure has begun to ask about do not come together.
func TestRevalidateSpread(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 600
		cr := newCrowd(t, n, time.Minute, func(context.Context) {})
		off := cr.cfg
		off.Auth.Revalidate = nil
		cr.reconfigure(off)
		time.Sleep(5 * time.Minute)
		cr.mu.Lock()
		clear(cr.asked)
		cr.mu.Unlock()
		cr.reconfigure(cr.cfg)
		start := time.Now()
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		early := 0
		for _, at := range cr.about() {
			if at[0].Sub(start) < 30*time.Second {
				early++
			}
		}
		if len(cr.about()) != n || early < n/3 || early > n*2/3 {
			t.Errorf("asked about %d of %d, about %d in the first half", len(cr.about()), n, early)
		}
		cr.leave()
	})
}

// A Refresh ends with its context while another one of the connection is under way.
func TestRefreshWaitsNoLongerThanItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		asked := make(chan struct{}, 1)
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Auth = wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
				if token == "slow" {
					asked <- struct{}{}
					<-ctx.Done()
				}
				return wsguard.Principal{Subject: "alice"}, nil
			}}
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			first := make(chan struct{})
			go func() { defer close(first); c.Refresh(ctx, "slow") }()
			<-asked
			own, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			var err error
			if d := within(func() { err = c.Refresh(own, "fast") }); err != context.DeadlineExceeded || d != 200*time.Millisecond {
				t.Errorf("%v after %v", err, d)
			}
			<-first
			if d := within(func() { err = c.Refresh(ctx, "fast") }); err != nil || d != 0 {
				t.Errorf("%v after %v", err, d)
			}
			return nil
		}))
		c := e.open(bearer("alice"))
		wantClose(t, c, 1000, "")
		wstest.KeepAlive(t, c)
	})
}
