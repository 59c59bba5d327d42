package wsguard_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// admits is a store.Admitter of the application.
type admits func(context.Context, store.Request) (store.Answer, error)

func (f admits) Admit(ctx context.Context, r store.Request) (store.Answer, error) { return f(ctx, r) }

// serveAdmits serves an instance that asks f.
func serveAdmits(t *testing.T, f admits, cfg wsguard.Config) *env {
	t.Helper()
	c := newCluster()
	cfg.Shared = c.shared()
	cfg.Shared.Admitter, cfg.Shared.MessagesPerInstance = f, true
	e := serveGuard(t, cfg)
	t.Cleanup(func() { shutDown(t, e) })
	return e
}

// An answer that does not belong to the question counts as an outage.
func TestSharedNonsense(t *testing.T) {
	for name, answer := range map[string]store.Answer{
		"tokens of nobody":  {Taken: make([]int64, 99)},
		"no tokens":         {},
		"unknown refusal":   {Refused: 17},
		"negative refusal":  {Refused: -1},
		"rate of nobody":    {Refused: store.RefusedRate, Key: "x", Wait: time.Hour},
		"slot of nobody":    {Refused: store.RefusedSlot, Key: "x"},
		"value not asked":   {Refused: store.RefusedOnce},
		"slot without key":  {Refused: store.RefusedSlot},
		"rate without wait": {Refused: store.RefusedRate, Wait: -time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := serveAdmits(t, func(context.Context, store.Request) (store.Answer, error) { return answer, nil },
					wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}})
				for range 3 {
					bye(e.open(bearer("alice")))
				}
				if s := e.g.Stats().Shared; s.LocalDecisions == 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A store that never returns, whatever its context says, delays each handshake by a bounded time,
// and takes no places in flight away.
func TestSharedBlocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		free := make(chan struct{})
		var calls atomic.Int64
		e := serveAdmits(t, func(context.Context, store.Request) (store.Answer, error) {
			calls.Add(1)
			<-free
			return store.Answer{}, errors.New("gone")
		}, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Auth.Verifier, cfg.Rates.MaxInFlightPerClient, cfg.Rates.MaxInFlight = anyone, 2, 2
		}))
		defer close(free)
		var conns []*wstest.Client
		for range 40 {
			begun := time.Now()
			conns = append(conns, e.open(bearer("alice")))
			if took := time.Since(begun); took > 250*time.Millisecond {
				t.Errorf("a handshake took %v", took)
			}
			if len(conns) == 8 {
				for _, c := range conns {
					bye(c)
				}
				conns = nil
				e.idleTo(t, 0)
			}
		}
		if n := calls.Load(); n > 20 {
			t.Errorf("%d calls are stuck", n)
		}
		if n := e.g.Stats().Shared.LocalDecisions; n < 40 {
			t.Errorf("%d decisions without the store", n)
		}
	})
}

// A failed ticket of the memory waits no longer than others for a store that blocks.
func TestSharedChargeBlocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		free := make(chan struct{})
		e := serveAdmits(t, func(ctx context.Context, r store.Request) (store.Answer, error) {
			for _, take := range r.Takes {
				if take.Least == 0 && take.Most == 1 {
					<-free
				}
			}
			return store.Answer{Taken: make([]int64, len(r.Takes))}, nil
		}, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone, Tickets: &wsguard.TicketConfig{Store: store.NewOnce(0)}}})
		defer close(free)
		begun := time.Now()
		e.redeemRefused("AAAAAAAAAAAAAAAAAAAAAA", header(), 401, "unauthenticated")
		if took := time.Since(begun); took > 250*time.Millisecond {
			t.Errorf("a refusal took %v", took)
		}
	})
}

// InsecureReportOnly lets clients in that have failed too often at other instances.
func TestSharedFailuresReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveAdmits(t, func(_ context.Context, r store.Request) (store.Answer, error) {
			for _, take := range r.Takes {
				if take.Least == 1 && take.Most == 0 {
					return store.Answer{Refused: store.RefusedRate, Key: take.Key, Wait: time.Minute}, nil
				}
			}
			return store.Answer{Taken: make([]int64, len(r.Takes))}, nil
		}, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone, InsecureReportOnly: true}})
		bye(e.open(bearer("alice")))
	})
}

// ReportOnly refuses nothing because of a rate, also while RatesFailClosed would.
func TestSharedReportOnlyOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		c.gone.Store(true)
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}, Rates: wsguard.RateConfig{ReportOnly: true}}
		cfg.Shared = c.shared()
		cfg.Shared.RatesFailClosed, cfg.Shared.MessagesPerInstance = true, true
		e := serveGuard(t, cfg)
		defer shutDown(t, e)
		bye(e.open(bearer("alice")))
	})
}

// unreleased is a store.Slots that cannot release.
type unreleased struct{ clusterSlots }

func (unreleased) Release(context.Context, ...store.Lease) error { return errGone }

// A store that cannot release still renews.
func TestSharedReleaseFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster()
		cfg := conf(noPings, func(cfg *wsguard.Config) {
			cfg.Auth.Verifier, cfg.Caps.MaxConns, cfg.Timeouts.Idle = anyone, 2, wsguard.Off
		})
		other := c.join(t, cfg, guarding)
		cfg.Shared = c.shared()
		cfg.Shared.Slots = unreleased{clusterSlots{c}}
		e := serveGuard(t, cfg)
		defer shutDown(t, e)
		stays := e.open(bearer("alice"))
		bye(e.open(bearer("bob")))
		time.Sleep(2 * time.Minute)
		second := other.open(bearer("carol"))
		other.refused(bearer("dave"), 503, "max_conns")
		bye(second)
		bye(stays)
	})
}
