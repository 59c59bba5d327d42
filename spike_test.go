package wsguard_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// spikeEnv is a guard behind a proxy, whose clients are named by a header.
type spikeEnv struct {
	*env
	h http.Handler

	mu      sync.Mutex
	records []audit.Record // guarded by mu
}

func newSpikeEnv(t *testing.T, changes ...func(*wsguard.Config)) *spikeEnv {
	t.Helper()
	e := &spikeEnv{}
	cfg := conf(append([]func(*wsguard.Config){noHandshakeLimits, noRates, noPings, func(cfg *wsguard.Config) {
		cfg.Proxies.Trusted = []string{"127.0.0.0/8", "192.0.2.0/24"}
		cfg.Observer = func(_ context.Context, r audit.Record) {
			switch r.(type) {
			case audit.SpikeBegun, audit.SpikeEnded:
				e.mu.Lock()
				defer e.mu.Unlock()
				e.records = append(e.records, r)
			}
		}
	}}, changes...)...)
	e.env = newEnv(t, cfg)
	e.h = echoDoor(e.g)
	return e
}

// refuse makes the guard refuse n handshakes of a client, because of their origin.
func (e *spikeEnv) refuse(client string, n int) {
	for range n {
		e.request(client, "https://evil.example")
	}
}

func (e *spikeEnv) request(client, origin string, changes ...func(*http.Request)) {
	r := httptest.NewRequest("GET", "/", nil)
	for k, v := range header("Origin", origin, "X-Forwarded-For", client, "X-Forwarded-Proto", "https") {
		r.Header[k] = v
	}
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(k, v)
	}
	r.RemoteAddr = "192.0.2.1:1234"
	for _, change := range changes {
		change(r)
	}
	e.h.ServeHTTP(unusable{httptest.NewRecorder()}, r)
}

// unusable is a Recorder that can be hijacked until somebody tries.
type unusable struct{ *httptest.ResponseRecorder }

func (unusable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("no") }

// pass lets d pass, and calls do every 5 seconds.
func pass(d time.Duration, do func()) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Second) {
		do()
	}
	synctest.Wait()
}

// begun returns the only record of a spike that has begun.
func (e *spikeEnv) begun(t *testing.T) audit.SpikeBegun {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.records) == 1 {
		if b, ok := e.records[0].(audit.SpikeBegun); ok {
			return b
		}
	}
	t.Fatalf("not one spike has begun: %+v", e.records)
	return audit.SpikeBegun{}
}

// A flood is reported within 30 seconds, with the client that it comes from, and its end is, too.
func TestSpikeOfRefusals(t *testing.T) {
	for _, test := range []struct {
		name   string
		before time.Duration
		usual  int // refusals in 5 seconds
		flood  int
	}{
		{"usual", 20 * time.Minute, 2, 30},
		{"usually many", 20 * time.Minute, 20, 250},
		{"first of all", 15 * time.Minute, 0, 20},
		{"soon", 6 * time.Minute, 0, 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newSpikeEnv(t)
				n := 0
				usual := func() {
					for range test.usual {
						n++
						e.refuse(fmt.Sprintf("198.51.100.%d", n%200), 1)
					}
				}
				pass(test.before, usual)
				start := time.Now()
				pass(30*time.Second, func() {
					usual()
					e.refuse("203.0.113.66", test.flood)
				})
				b := e.begun(t)
				if d := b.Time.Sub(start); d > 30*time.Second {
					t.Errorf("after %v", d)
				}
				if b.Of != "refusals" || b.Reason != "origin" || b.Rate <= 5*b.Baseline || b.Kind() != audit.SpikeStart {
					t.Errorf("%+v", b)
				}
				if len(b.Offenders) == 0 || b.Offenders[0].Client != "203.0.113.66" || b.Offenders[0].Count < uint64(test.flood) {
					t.Errorf("offenders %+v", b.Offenders)
				}
				ev := e.events.wait(t, audit.SpikeStart, 1)
				if ev.Reason != "refusals" || !strings.Contains(ev.Detail, "for origin") || !strings.Contains(ev.Detail, "203.0.113.66 (") {
					t.Errorf("%+v", ev)
				}
				s := e.g.Stats()
				if s.Spikes["refusals"] != 1 || len(s.Spiking) != 1 || s.Spiking[0].Reason != "origin" || s.Spiking[0].Since.After(b.Time) {
					t.Errorf("stats %v %+v", s.Spikes, s.Spiking)
				}
				if top := e.g.Admin().Activity().Offenders; len(top) == 0 || top[0].Client != "203.0.113.66" || top[0].Of != "refusals" || top[0].Reason != "origin" {
					t.Errorf("activity %+v", top)
				}
				pass(30*time.Second, func() {
					usual()
					e.refuse("203.0.113.66", test.flood)
				})
				pass(3*time.Minute, usual)
				e.mu.Lock()
				last, ok := e.records[len(e.records)-1].(audit.SpikeEnded)
				count := len(e.records)
				e.mu.Unlock()
				if !ok || count != 2 || last.Of != "refusals" || last.Reason != "origin" || last.Settled || last.Peak < b.Rate/2 ||
					last.Duration < 30*time.Second || last.Duration > 90*time.Second || last.Kind() != audit.SpikeOver {
					t.Errorf("%d records, the last %+v", count, last)
				}
				if ev := e.events.wait(t, audit.SpikeOver, 1); ev.Duration != last.Duration || ev.Reason != "refusals" {
					t.Errorf("%+v", ev)
				}
				if s := e.g.Stats(); s.Spikes["refusals"] != 1 || len(s.Spiking) != 0 {
					t.Errorf("stats %v %+v", s.Spikes, s.Spiking)
				}
			})
		})
	}
}

// Refusals for many reasons, none of which is unusual alone, are one spike of all.
func TestSpikeOfAllRefusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t, func(cfg *wsguard.Config) {
			cfg.Auth.InsecureAnonymous = false
			cfg.Auth.Failures = wsguard.Rate{PerSecond: wsguard.Off}
			cfg.Auth.Verifier = newTokens().Verify
			cfg.Hosts = []string{"example.com"}
		})
		pass(15*time.Minute, func() {})
		pass(2*time.Minute, func() {
			e.refuse("203.0.113.1", 1)
			e.request("203.0.113.2", appOrigin)
			e.request("203.0.113.2", appOrigin, func(r *http.Request) { r.Host = "evil.example" })
			e.request("203.0.113.2", appOrigin, func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "http") })
		})
		b := e.begun(t)
		if b.Of != "refusals" || b.Reason != "" || len(b.Offenders) != 2 || b.Offenders[0].Client != "203.0.113.2" {
			t.Errorf("%+v", b)
		}
		if spikes := e.g.Stats().Spiking; len(spikes) != 1 || spikes[0].Reason != "" {
			t.Errorf("%+v", spikes)
		}
	})
}

// What is rare, or soon over, is no spike.
func TestNoSpike(t *testing.T) {
	for name, during := range map[string]func(*spikeEnv){
		"three refusals": func(e *spikeEnv) {
			e.refuse("203.0.113.66", 3)
			pass(2*time.Minute, func() {})
		},
		"a short burst": func(e *spikeEnv) {
			e.refuse("203.0.113.66", 500)
			pass(2*time.Minute, func() {})
		},
		"the usual": func(e *spikeEnv) { pass(20*time.Minute, func() { e.refuse("203.0.113.66", 5) }) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newSpikeEnv(t)
				if name == "the usual" {
					pass(20*time.Minute, func() { e.refuse("203.0.113.66", 5) })
				} else {
					pass(15*time.Minute, func() {})
				}
				during(e)
				if got := e.events.of(audit.SpikeStart); len(got) != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// Warnings of WarnAt refuse nothing, and what is only reported counts as a refusal.
func TestSpikeInReportOnlyMode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t, func(cfg *wsguard.Config) {
			cfg.InsecureReportOnlyOrigins = true
			cfg.Caps.MaxConns = 1
		})
		pass(15*time.Minute, func() {})
		pass(30*time.Second, func() { e.refuse("203.0.113.66", 30) }) // a Recorder cannot be hijacked
		found := false
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, r := range e.records {
			b, ok := r.(audit.SpikeBegun)
			found = found || ok && b.Reason == "origin"
		}
		if !found {
			t.Errorf("%+v", e.records)
		}
	})
}

// The connections that send most are found although others have sent more before.
func TestSpikeOfMessages(t *testing.T) {
	for _, of := range []string{"messages", "bytes"} {
		t.Run(of, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newSpikeEnv(t)
				e.serveOn(wstest.NewListener(wstest.PipeOptions{}), e.h)
				open := func(client string) *wstest.Client {
					return e.open(header("X-Forwarded-For", client, "X-Forwarded-Proto", "https"))
				}
				old, quiet := open("198.51.100.1"), open("2001:db8:1:2:3::4")
				say := func(c *wstest.Client, n, size int) {
					for range n {
						roundTrip(t, c, strings.Repeat("x", size))
					}
				}
				pass(20*time.Minute, func() {
					say(old, 15, 100)
					say(quiet, 1, 100)
				})
				pass(40*time.Second, func() {
					say(old, 15, 100)
					if of == "messages" {
						say(quiet, 200, 1)
					} else {
						say(quiet, 15, 1500)
					}
				})
				b := e.begun(t)
				if b.Of != of || b.Reason != "" || len(b.Offenders) == 0 || b.Offenders[0].Client != "2001:db8:1:2::/64" || b.Offenders[0].Of != of {
					t.Errorf("%+v", b)
				}
				if err := e.g.Admin().Ban(b.Offenders[0].Client, time.Minute, "flood"); err != nil {
					t.Error(err)
				}
				bye(old)
				bye(quiet)
			})
		})
	}
}

// Clients that connect again and again are found although their connections have ended.
func TestSpikeOfConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t)
		e.serveOn(wstest.NewListener(wstest.PipeOptions{}), e.h)
		connect := func(client string, n int) {
			for range n {
				bye(e.open(header("X-Forwarded-For", client, "X-Forwarded-Proto", "https")))
			}
		}
		pass(10*time.Minute, func() { connect("198.51.100.1", 2) })
		pass(35*time.Second, func() { connect("203.0.113.66", 25) })
		b := e.begun(t)
		if b.Of != "connections" || len(b.Offenders) == 0 || b.Offenders[0].Client != "203.0.113.66" {
			t.Errorf("%+v", b)
		}
	})
}

// With Off there are no spikes, and no timer.
func TestSpikesOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t, func(cfg *wsguard.Config) { cfg.SpikeFactor = wsguard.Off })
		pass(15*time.Minute, func() {})
		pass(time.Minute, func() { e.refuse("203.0.113.66", 100) })
		if got := e.events.of(audit.SpikeStart); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		if top := e.g.Admin().Activity().Offenders; len(top) != 1 {
			t.Errorf("offenders %+v", top)
		}
		cfg := e.cfg
		cfg.SpikeFactor = 0 // the default
		e.reconfigure(cfg)
		pass(15*time.Minute, func() {})
		pass(30*time.Second, func() { e.refuse("203.0.113.66", 100) })
		e.begun(t)
		cfg.SpikeFactor = wsguard.Off
		e.reconfigure(cfg)
		pass(30*time.Second, func() { e.refuse("203.0.113.66", 100) })
		if got := e.events.of(audit.SpikeOver); len(got) != 1 {
			t.Errorf("switched off: %+v", got)
		}
	})
}

func TestSpikeFactor(t *testing.T) {
	for _, factor := range []float64{1, 1.9, -2, 1e7, nan(), 1 / zero(), -1 / zero()} {
		_, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, SpikeFactor: factor})
		var fault *wsguard.ConfigError
		if !errors.As(err, &fault) || fault.Field != "SpikeFactor" {
			t.Errorf("%v: %v", factor, err)
		}
	}
	bubble(t, func(t *testing.T) { // a larger factor finds less
		e := newSpikeEnv(t, func(cfg *wsguard.Config) { cfg.SpikeFactor = 100 })
		pass(20*time.Minute, func() { e.refuse("198.51.100.1", 5) })
		pass(time.Minute, func() { e.refuse("203.0.113.66", 50) })
		if got := e.events.of(audit.SpikeStart); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

func zero() float64 { return 0 }
func nan() float64  { return zero() / zero() }

// The timer stops when nothing happens, and when the Guard is shut down.
func TestSpikeTimerStops(t *testing.T) {
	t.Run("quiet", func(t *testing.T) {
		collected := make(chan struct{})
		synctest.Test(t, func(t *testing.T) {
			g, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}})
			if err != nil {
				t.Fatal(err)
			}
			e := &spikeEnv{h: echoDoor(g)}
			e.refuse("203.0.113.66", 10)
			time.Sleep(2 * time.Second) // the summary of the log
			runtime.AddCleanup(g, func(done chan struct{}) { close(done) }, collected)
		})
		eventually(t, "the Guard is collected", func() bool {
			runtime.GC()
			select {
			case <-collected:
				return true
			default:
				return false
			}
		})
	})
	t.Run("shutdown", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			e := newSpikeEnv(t)
			pass(15*time.Minute, func() {})
			pass(15*time.Second, func() { e.refuse("203.0.113.66", 100) })
			if err := e.g.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			pass(time.Minute, func() { e.refuse("203.0.113.66", 100) })
			if got := e.events.of(audit.SpikeStart); len(got) != 0 {
				t.Errorf("%+v", got)
			}
		})
	})
}

// The lines of a spike, which docs/operators.md shows.
func TestGoldenSpike(t *testing.T) {
	bothDoors(t)
	var log syncBuffer
	bubble(t, func(t *testing.T) {
		e := newSpikeEnv(t, func(cfg *wsguard.Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		n := 0
		usual := func() {
			n++
			e.refuse(fmt.Sprintf("198.51.100.%d", n%50), 2)
		}
		usual() // starts the ticks
		time.Sleep(2 * time.Second)
		pass(20*time.Minute, usual)
		pass(time.Minute, func() {
			usual()
			e.refuse("203.0.113.66", 30)
			e.refuse("203.0.113.67", 3)
		})
		pass(3*time.Minute, usual)
	})
	var lines []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "websocket spike") {
			_, line, _ = strings.Cut(line, " ") // the time
			lines = append(lines, line)
		}
	}
	golden(t, "spike.golden", strings.Join(lines, ""))
	page, err := os.ReadFile("docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(strings.ReplaceAll(string(page), "\r\n", "\n"), line) {
			t.Errorf("docs/operators.md does not show %s", line)
		}
	}
}
