package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// The tests of Guard.Wrap stand in this order: the handshake (here), what the handler is
// given (wrap_writer_test.go), its response (wrap_answer_test.go), messages
// (wrap_message_test.go, wrap_outbound_test.go), and ends (wrap_end_test.go,
// wrap_close_test.go).

func TestWrapEchoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler { return g.Wrap(coderEcho()) })
		c := e.open(header())
		for _, n := range []int{0, 1, 125, 126, 150, 4085, 4096, 4224, 4225, 32 << 10} {
			roundTrip(t, c, string(make([]byte, n)))
		}
		c.WriteFrame(wstest.CloseFrame(4001, "bye"))
		wantClose(t, c, 4001, "bye")
		ev := e.events.wait(t, audit.Close, 1)
		if ev.Code != 4001 || !ev.Remote || ev.PeerCode != 4001 || ev.MessagesIn != 10 || ev.MessagesOut != 10 || ev.BytesIn != ev.BytesOut {
			t.Errorf("%+v", ev)
		}
	})
}

// All steps of the handshake run before the handler, Attach included; a request that is no
// WebSocket handshake is refused.
func TestWrapRunsTheStepsFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Failures: wsguard.Rate{PerSecond: wsguard.Off}}}
		cfg.Caps.MaxConns = 1
		cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) {
			if p.Subject == "bob" {
				return nil, wsguard.ErrForbidden
			}
			return p.Subject, nil
		}
		e := wrapWith(t, cfg, answer101)
		e.refusedWith(wstest.HandshakeOptions{Header: http.Header{"Origin": {appOrigin}, "Upgrade": nil, "Connection": nil}}, 426, "not_upgrade")
		e.refused(header("Origin", "https://evil.example"), 403, "origin")
		e.refused(bearer("mallory"), 401, "unauthenticated")
		e.refused(bearer("bob"), 403, "forbidden")
		c := e.open(bearer("alice"))
		<-e.conns
		e.refused(bearer("alice"), 503, "max_conns")
		c.Close()
		if len(e.conns) > 0 {
			t.Error("the handler has run for a request that was refused")
		}
	})
}

// The place in flight is given back before the handler runs; the slot is held.
func TestWrapHoldsTheSlotOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		cfg.Rates.MaxInFlight, cfg.Rates.MaxInFlightPerClient = 1, 1
		go_ := make(chan struct{})
		e := wrapWith(t, cfg, func(w http.ResponseWriter, r *http.Request) *served {
			if r.URL.Path == "/slow" {
				<-go_
			}
			return answer101(w, r)
		})
		slow := e.dial()
		done := make(chan error, 1)
		go func() { _, err := slow.Handshake("/slow", header()); done <- err }()
		synctest.Wait()
		if n := e.g.Conns(); n != 1 {
			t.Errorf("%d slots held, want 1", n)
		}
		e.open(header())
		<-e.conns
		close(go_)
		if err := <-done; err != nil {
			t.Error(err)
		}
		<-e.conns
	})
}

// When the 101 has gone out, the connection is opened and reported, and not before.
func TestWrapOpensWithThe101(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, wsguard.Config{}, hijack)
		c := e.dial()
		go c.Handshake("/", header())
		s := <-e.conns
		head := switching(s.r)
		s.Write([]byte(head[:len(head)-1]))
		synctest.Wait()
		if len(e.events.of(audit.Open)) > 0 || len(sessionsOf(e.g)) > 0 {
			t.Error("open before the 101")
		}
		s.Write([]byte(head[len(head)-1:]))
		synctest.Wait()
		if len(e.events.of(audit.Open)) != 1 || len(sessionsOf(e.g)) != 1 {
			t.Error("not open after the 101")
		}
	})
}

// The connection is registered before the handler runs: after a Revoke, a ban or Shutdown
// meanwhile it is closed with its code directly after the 101.
func TestWrapEndsDirectlyAfterThe101(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(g *wsguard.Guard)
		code int
		why  string
	}{
		"Revoke":   {func(g *wsguard.Guard) { g.Admin().Revoke("alice") }, 3000, "revoked"},
		"SignOut":  {func(g *wsguard.Guard) { g.Admin().SignOut("login") }, 3000, "revoked"},
		"Ban":      {func(g *wsguard.Guard) { g.Admin().Ban("127.0.0.1", time.Hour, "") }, 1013, "banned"},
		"Shutdown": {func(g *wsguard.Guard) { go g.Shutdown(context.Background()) }, 1012, "draining"},
	} {
		for _, coder := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, coder %t", name, coder), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					cfg := wsguard.Config{}
					cfg.Auth.Verifier = func(context.Context, string) (wsguard.Principal, error) {
						return wsguard.Principal{Subject: "alice", SessionID: "login"}, nil
					}
					var g *wsguard.Guard
					e := wrapWith(t, cfg, func(w http.ResponseWriter, r *http.Request) *served {
						end.do(g)
						synctest.Wait()
						if coder {
							coderEcho().ServeHTTP(w, r)
							return nil
						}
						return answer101(w, r)
					})
					g = e.g
					c := e.open(bearer("x"))
					if f, err := c.ReadFrame(); err != nil || f.Opcode != wstest.OpClose || string(f.Payload) != closing(end.code, end.why) {
						t.Fatalf("%+v, %v", f, err)
					}
					if !coder {
						s := <-e.conns
						if s.err != nil {
							t.Fatalf("the handler's 101: %v", s.err)
						}
						s.wantEnd(t, end.code, end.why)
					}
				})
			})
		}
	}
}

// The handler sees the request as Attach does: credentials that end up in logs are gone,
// the Authorization header stays, and the offer of extensions is struck.
func TestWrapRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}
		cfg.Auth.Sources = wsguard.TokenSources{Header: true, Subprotocol: "bearer.", InsecureQuery: "token"}
		cfg.Attach = func(r *http.Request, p wsguard.Principal) (any, error) { return "attached to " + p.Subject, nil }
		e := wrapWith(t, cfg, answer101)
		for name, o := range map[string]wstest.HandshakeOptions{
			"header":      {Path: "/?a=b", Header: header("Authorization", "Bearer alice", "Sec-WebSocket-Extensions", "permessage-deflate")},
			"query":       {Path: "/?a=b&token=alice", Header: header("Sec-WebSocket-Extensions", "permessage-deflate")},
			"subprotocol": {Path: "/?a=b", Header: header("Sec-WebSocket-Protocol", "chat, bearer.alice", "Sec-WebSocket-Extensions", "permessage-deflate")},
		} {
			c, res := e.tryWith(o)
			if res.StatusCode != 101 {
				t.Fatal(name, res.Status)
			}
			s := <-e.conns
			if p, ok := wsguard.PrincipalOf(s.r); !ok || p.Subject != "alice" {
				t.Errorf("%s: PrincipalOf is %+v, %t", name, p, ok)
			}
			if v := wsguard.ValueOf(s.r); v != "attached to alice" {
				t.Errorf("%s: ValueOf is %v", name, v)
			}
			if s.r.URL.RawQuery != "a=b" || s.r.RequestURI != "/?a=b" {
				t.Errorf("%s: %s, %s", name, s.r.URL, s.r.RequestURI)
			}
			if _, ok := s.r.Header["Sec-Websocket-Extensions"]; ok {
				t.Errorf("%s: extensions are offered on", name)
			}
			offered, auth := s.r.Header["Sec-Websocket-Protocol"], s.r.Header["Authorization"]
			if name == "subprotocol" && !reflect.DeepEqual(offered, []string{"chat"}) || name != "subprotocol" && offered != nil {
				t.Errorf("%s: offered on: %q", name, offered)
			}
			if (name == "header") != reflect.DeepEqual(auth, []string{"Bearer alice"}) {
				t.Errorf("%s: Authorization: %q", name, auth)
			}
			c.Close()
		}
		if v := wsguard.ValueOf(&http.Request{}); v != nil {
			t.Error(v)
		}
	})
}

// PrincipalOf is what the handshake saw; Revalidate changes only the guard's own copy.
func TestWrapPrincipalStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, RevalidateEvery: time.Second}}
		cfg.Auth.Revalidate = func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			p.Scopes = []string{"new"}
			return p, nil
		}
		e := wrapWith(t, cfg, answer101)
		e.open(bearer("alice"))
		s := <-e.conns
		time.Sleep(10 * time.Second)
		if p, _ := wsguard.PrincipalOf(s.r); p.Subject != "alice" || p.Scopes != nil {
			t.Errorf("%+v", p)
		}
		if all := sessionsOf(e.g); len(all["alice "].Scopes) != 1 {
			t.Errorf("%+v", all)
		}
	})
}

// With a list of subprotocols the one that the guard negotiated is the only one offered
// on, and the engine adds it to a 101 that names none. Without a list the offer goes on.
func TestWrapSubprotocol(t *testing.T) {
	for name, test := range map[string]struct {
		list, offer []string
		on, got     string
		head        []string // of the handler's 101
	}{
		"negotiated, and named":     {[]string{"b", "a"}, []string{"a, b"}, "b", "b", []string{"Sec-WebSocket-Protocol: b"}},
		"negotiated, and not named": {[]string{"b", "a"}, []string{"a", "b"}, "b", "b", nil},
		"none offered":              {[]string{"b"}, nil, "", "", nil},
		"no list":                   {nil, []string{"x", "y, z"}, "x, y, z", "y", []string{"Sec-WebSocket-Protocol: y"}},
		"no list, and not named":    {nil, []string{"x", "y"}, "x, y", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := wrapWith(t, wsguard.Config{Subprotocols: test.list}, func(w http.ResponseWriter, r *http.Request) *served {
					s := hijack(w, r)
					s.Write([]byte(switching(r, test.head...)))
					return s
				})
				h := header()
				h["Sec-WebSocket-Protocol"] = test.offer
				if test.offer == nil {
					delete(h, "Sec-WebSocket-Protocol")
				}
				_, res := e.try(h)
				s := <-e.conns
				if on, got := s.r.Header.Get("Sec-WebSocket-Protocol"), res.Header.Get("Sec-WebSocket-Protocol"); on != test.on || got != test.got || res.StatusCode != 101 {
					t.Errorf("offered on %q, answered %q; want %q, %q", on, got, test.on, test.got)
				}
			})
		})
	}
	// A library that names none, and reads what was negotiated from the ResponseWriter.
	t.Run("coder", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			seen := make(chan string, 1)
			e := serveWith(t, wsguard.Config{Subprotocols: []string{"chat"}}, func(g *wsguard.Guard) http.Handler {
				return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					coderEcho().ServeHTTP(w, r)
					seen <- w.Header().Get("Sec-WebSocket-Protocol")
				}))
			})
			c, res := e.try(header("Sec-WebSocket-Protocol", "chat"))
			if got := res.Header["Sec-Websocket-Protocol"]; !reflect.DeepEqual(got, []string{"chat"}) {
				t.Errorf("answered %q", got)
			}
			bye(c)
			if got := <-seen; got != "chat" {
				t.Errorf("Header has %q", got)
			}
		})
	})
}

// A first-message credential needs Guard.Handler: Wrap panics with one, and a Reconfigure
// that adds one is refused.
func TestWrapWithFirstMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{Header: true, FirstMessage: true}}}
		wantPanic := func(f func()) {
			t.Helper()
			defer func() {
				ce, ok := recover().(*wsguard.ConfigError)
				if !ok || ce.Field != "Auth.Sources.FirstMessage" {
					t.Errorf("panic with %v", ce)
				}
			}()
			f()
		}
		e := newEnv(t, first)
		wantPanic(func() { e.g.Wrap(coderEcho()) })

		without := wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}
		e = newEnv(t, without)
		e.g.Wrap(coderEcho())
		first.Origins = without.Origins
		var ce *wsguard.ConfigError
		if err := e.g.Reconfigure(first); !errors.As(err, &ce) || ce.Field != "Auth.Sources.FirstMessage" {
			t.Errorf("Reconfigure: %v", err)
		}
		e.reconfigure(without)
	})
}

func TestWrapNil(t *testing.T) {
	e := newEnv(t, wsguard.Config{})
	defer func() {
		if _, ok := recover().(*wsguard.ConfigError); !ok {
			t.Error("no panic with a ConfigError")
		}
	}()
	e.g.Wrap(nil)
}

// A refusal by the handler passes, and is an event with its status. It counts towards no
// failure and no ban.
func TestWrapRefusalByTheHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Failures: wsguard.Rate{PerSecond: never, Burst: 1}}}
		cfg.Penalties.Violations = wsguard.Rate{PerSecond: never, Burst: 1}
		cfg.Rates.Handshakes.PerSecond = wsguard.Off
		cfg.Proxies = wsguard.Proxies{ClientName: func(*http.Request) string { return "somebody" }} // loopback is never banned
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Of-The-Handler", "yes")
				http.Error(w, "a page of the handler's", http.StatusUnauthorized)
			}))
		})
		for i := range 20 {
			_, res := e.try(bearer("alice"))
			if b := body(t, res); res.StatusCode != 401 || res.Header.Get("X-Of-The-Handler") != "yes" || b != "a page of the handler's\n" {
				t.Fatalf("%d: %s %q", i, res.Status, b)
			}
			ev := e.events.wait(t, audit.Refusal, i+1)
			if ev.Reason != "handler" || ev.Status != 401 || ev.Subject != "alice" || !errors.Is(ev.Err, reason.Handler) {
				t.Fatalf("%+v", ev)
			}
		}
		if n := len(e.events.of(audit.Banned)); n > 0 {
			t.Errorf("%d bans", n)
		}
	})
}

// A handler that returns without an answer has answered 200, as net/http does.
func TestWrapHandlerThatOnlyReturns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, wsguard.Config{}, func(g *wsguard.Guard) http.Handler {
			return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		})
		if _, res := e.try(header()); res.StatusCode != 200 {
			t.Error(res.Status)
		}
		if ev := e.events.wait(t, audit.Refusal, 1); ev.Status != 200 || ev.Reason != "handler" {
			t.Errorf("%+v", ev)
		}
	})
}

// A hook that panics during the handshake holds up no drain.
func TestWrapPanicInAHookHoldsUpNoDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		cfg.Proxies.ClientName = func(*http.Request) string { return "x" }
		e := newEnv(t, cfg)
		wrapped := e.g.Wrap(coderEcho())
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			wrapped.ServeHTTP(panicWriter{w}, r)
		}), func(s *http.Server) { s.ErrorLog = nil })
		c := e.dial()
		if _, err := c.Handshake("/", header("Origin", "https://evil.example")); err == nil {
			t.Error("a response")
		}
		if err := e.g.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// panicWriter is a ResponseWriter of somebody else's that panics.
type panicWriter struct{ http.ResponseWriter }

func (w panicWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w panicWriter) WriteHeader(int)             { panic(http.ErrAbortHandler) }
