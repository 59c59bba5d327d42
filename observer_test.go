package wsguard_test

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"runtime"
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

// recorder keeps records. It is an observer.
type recorder struct {
	mu      sync.Mutex
	records []audit.Record
	ctxs    []context.Context
}

func (r *recorder) observe(ctx context.Context, rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records, r.ctxs = append(r.records, rec), append(r.ctxs, ctx)
}

// all returns the records, when the guard has handed over all of them.
func (r *recorder) all(t testing.TB, e *env) []audit.Record {
	t.Helper()
	eventually(t, "the observer has every event", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.records) == len(e.events.all())
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records
}

// The observer gets every event that OnEvent gets, in order, with the same fields.
func TestObserverGetsAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var rec recorder
		e := serveGuard(t, conf(anyToken, func(cfg *wsguard.Config) {
			cfg.Observer, cfg.Name = rec.observe, "echo"
			cfg.Messages.OnInvalid = wsguard.ActionReply
			cfg.Messages.Validator = must(wsguard.CompileSchema([]byte(`{"maximum":9}`)))
		}))
		e.refused(header("Origin", "https://evil.test"), 403, "origin")
		c := e.open(bearer("alice"))
		roundTrip(t, c, "1")
		c.WriteFrame(wstest.Text("10"))
		c.ReadMessage()
		e.g.Admin().By("root").Ban("203.0.113.7", time.Hour, "x")
		e.g.Admin().By("root").Lift("203.0.113.7")
		e.g.Admin().By("root").Revoke("alice")
		e.g.Admin().By("root").Restore("alice")
		e.g.Admin().SignOut("login")
		wantClose(t, c, 3000, "revoked")
		e.reconfigure(e.cfg)
		e.closed()
		records := rec.all(t, e)
		for i, ev := range e.events.all() {
			r := reflect.ValueOf(records[i])
			if records[i].Kind() != ev.Kind {
				t.Fatalf("%d: %T for %s", i, records[i], ev.Kind)
			}
			for _, field := range reflect.VisibleFields(r.Type()) {
				name := map[string]string{"ID": "ConnID"}[field.Name]
				if name == "" {
					name = field.Name
				}
				want := reflect.ValueOf(ev).FieldByName(name)
				if !want.IsValid() || field.Anonymous {
					continue
				}
				if got := r.FieldByIndex(field.Index).Interface(); !reflect.DeepEqual(got, want.Interface()) {
					t.Errorf("%T: %s is %v, want %v", records[i], field.Name, got, want.Interface())
				}
			}
		}
		for _, r := range records {
			switch r := r.(type) {
			case audit.HandshakeAccepted:
				if r.ConnID == "" || r.Path != "/" || r.Endpoint != "echo" || r.Subject != "alice" {
					t.Errorf("%+v", r)
				}
			case audit.ClientBanned:
				if r.Operator != "root" || time.Until(r.Until) <= 0 || r.Reason != "by_hand" {
					t.Errorf("%+v", r)
				}
			case audit.SubjectRevoked:
				if r.Operator != "root" || r.Connections != 1 {
					t.Errorf("%+v", r)
				}
			case audit.ConnectionClosed:
				if r.By != audit.ByOperator || r.MessagesIn != 1 || r.Violations != 1 {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}

// The records of a request have its path and its ID, and the values of its context.
func TestObserverRequest(t *testing.T) {
	type key struct{}
	for _, tt := range []struct {
		name          string
		id            func(*http.Request) string
		sent, written string
		want          string
	}{
		{"the request's header", nil, "r-1", "", "r-1"},
		{"what middleware has set", nil, "forged", "r-2", "r-2"},
		{"the application's own", func(r *http.Request) string { return "own " + r.URL.Path }, "r-1", "r-2", "own /a/b"},
		{"a panic", func(r *http.Request) string { panic("x") }, "r-1", "", ""},
		{"none", nil, "", "", ""},
		{"escaped", nil, "a\u202eb", "", `a\u202eb`},
		{"cut", nil, strings.Repeat("x", 5000), "", strings.Repeat("x", 256) + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var rec recorder
				e := serveWith(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
					cfg.Observer, cfg.RequestID = rec.observe, tt.id
				}), func(g *wsguard.Guard) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if tt.written != "" {
							w.Header().Set("X-Request-Id", tt.written)
						}
						echoDoor(g).ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "trace")))
					})
				})
				open, _ := e.tryWith(wstest.HandshakeOptions{Path: "/a/b?token=secret", Header: header("X-Request-Id", tt.sent)})
				e.tryWith(wstest.HandshakeOptions{Path: "/a/b?token=secret", Header: header("X-Request-Id", tt.sent, "Origin", "https://evil.test")})
				open.Close()
				e.closed()
				found := 0
				for i, r := range rec.all(t, e) {
					var about audit.Request
					switch r := r.(type) {
					case audit.HandshakeAccepted:
						about = r.Request
					case audit.HandshakeRefused:
						about = r.Request
					default:
						continue
					}
					found++
					if about.Path != "/a/b" || about.RequestID != tt.want {
						t.Errorf("%T: path %q, request ID %q", r, about.Path, about.RequestID)
					}
					rec.mu.Lock()
					ctx := rec.ctxs[i]
					rec.mu.Unlock()
					if ctx.Value(key{}) != "trace" || ctx.Err() != nil || ctx.Done() != nil {
						t.Errorf("%T: the context has %v, %v", r, ctx.Value(key{}), ctx.Err())
					}
				}
				if found != 2 {
					t.Errorf("%d records of requests", found)
				}
			})
		})
	}
}

// An observer that blocks harms no connection. What it cannot take is counted.
func TestObserverBlocks(t *testing.T) {
	long(t)
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		var got atomic.Int64
		e := serveGuard(t, conf(noHandshakeLimits, func(cfg *wsguard.Config) {
			cfg.Observer = func(context.Context, audit.Record) { <-release; got.Add(1) }
		}))
		c := e.open(header())
		for range 1200 {
			e.refused(header("Origin", "https://evil.test"), 403, "origin")
		}
		roundTrip(t, c, "hello")
		bye(c)
		e.closed()
		synctest.Wait() // OnEvent has the last event a moment before the observer
		dropped := int(e.g.Stats().EventsDropped)
		if dropped != len(e.events.all())-1024-1 {
			t.Errorf("%d of %d events were dropped", dropped, len(e.events.all()))
		}
		began := time.Now()
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("Shutdown waits %v for the observer", d)
		}
		close(release)
		eventually(t, "the observer has what was not dropped", func() bool { return int(got.Load()) == len(e.events.all())-dropped })
	})
}

// Shutdown waits until the observer has got all events.
func TestObserverShutdown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var rec recorder
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Observer = func(ctx context.Context, r audit.Record) { time.Sleep(time.Second / 4); rec.observe(ctx, r) }
		}))
		e.open(header())
		e.opened()
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n := len(rec.records); n != 3 {
			t.Errorf("%d records when Shutdown has returned", n)
		}
	})
}

// An observer that panics, or ends its goroutine, gets the next event.
func TestObserverPanics(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("x") }, "nil panic": func() { panic(nil) }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var got atomic.Int64
				e := serveGuard(t, conf(func(cfg *wsguard.Config) {
					cfg.Observer = func(context.Context, audit.Record) { got.Add(1); end() }
				}))
				for range 5 {
					e.refused(header("Origin", "https://evil.test"), 403, "origin")
				}
				eventually(t, "five calls", func() bool { return got.Load() == 5 })
			})
		})
	}
}

// A name of an endpoint stands in the events of its connections.
func TestObserverEndpoint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noHandshakeLimits))
		mux := http.NewServeMux()
		for i := range 2 {
			end := must(e.g.Endpoint(wsguard.EndpointConfig{Name: fmt.Sprint("room", i)}))
			mux.Handle(fmt.Sprint("/", i), end.Handler(echo))
		}
		e.serve(mux)
		for i := range 2 {
			c, _ := e.tryWith(wstest.HandshakeOptions{Path: fmt.Sprint("/", i), Header: header()})
			c.Close()
			if ev := e.closed(); ev.Endpoint != fmt.Sprint("room", i) {
				t.Errorf("endpoint %q", ev.Endpoint)
			}
		}
	})
}
