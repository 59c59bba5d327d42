package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// post is a request for a ticket.
func post(extra string) string {
	return "POST /ticket HTTP/1.1\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nAuthorization: Bearer alice\r\n" + extra
}

// readsBody is a login that reads a form, as a login of the application's would.
func readsBody(r *http.Request) (wsguard.Principal, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return wsguard.Principal{}, fmt.Errorf("login: %w", err)
	}
	if s := string(b); s != "user=alice" {
		return wsguard.Principal{}, fmt.Errorf("the form is %q", s)
	}
	return wsguard.Principal{Subject: "alice"}, nil
}

// A ticket request whose body does not come is answered, and nothing is left of it
// while the client stays.
func TestTicketBodyNeverComes(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct {
		name, request string
		login         func(*http.Request) (wsguard.Principal, error)
		within        time.Duration
		status        int
	}{
		{"Content-Length", post("Content-Length: 10\r\n\r\n"), nil, time.Second, 200},
		{"half of it", post("Content-Length: 10\r\n\r\nabc"), nil, time.Second, 200},
		{"large", post("Content-Length: 100000000000\r\n\r\nabc"), nil, time.Second, 200},
		{"chunked", post("Transfer-Encoding: chunked\r\n\r\n"), nil, time.Second, 200},
		{"half a chunk", post("Transfer-Encoding: chunked\r\n\r\n10\r\nabc"), nil, time.Second, 200},
		{"chunks without a last one", post("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), nil, time.Second, 200},
		{"no trailer", post("Transfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3\r\nabc\r\n0\r\n"), nil, time.Second, 200},
		{"Expect", post("Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"), nil, time.Second, 200},
		{"the client wants the connection closed", post("Connection: close\r\nContent-Length: 10\r\n\r\n"), nil, time.Second, 200},
		{"HTTP/1.0", strings.Replace(post("Content-Length: 10\r\n\r\n"), "1.1", "1.0", 1), nil, time.Second, 200},
		{"refused", strings.Replace(post("Content-Length: 10\r\n\r\n"), "alice", "wrong", 1), nil, time.Second, 401},
		{"a login that does not read it", post("Content-Length: 10\r\n\r\n"), func(*http.Request) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: "alice"}, nil
		}, time.Second, 200},
		{"a login that reads it", post("Content-Length: 10\r\n\r\n"), readsBody, 4 * time.Second, 503},
		{"a login that reads it, half of it", post("Transfer-Encoding: chunked\r\n\r\n5\r\nuser=\r\n"), readsBody, 4 * time.Second, 503},
		{"a login that reads it, Expect", post("Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"), readsBody, 4 * time.Second, 503},
		{"a login that reads it again and again", post("Content-Length: 10\r\n\r\n"), func(r *http.Request) (wsguard.Principal, error) {
			for range 100 {
				r.Body.Read(make([]byte, 1))
			}
			return wsguard.Principal{}, errors.New("nothing came")
		}, 4 * time.Second, 503},
		{"a login that closes it", post("Content-Length: 10\r\n\r\n"), func(r *http.Request) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: "alice"}, r.Body.Close()
		}, time.Second, 200},
		{"a login that leaves a reader behind", post("Content-Length: 10\r\n\r\n"), func(r *http.Request) (wsguard.Principal, error) {
			go io.Copy(io.Discard, r.Body)
			eventually(t, "the login reads the body", func() bool {
				return slices.ContainsFunc(ownGoroutines(), func(stack string) bool { return strings.Contains(stack, ".(*lentBody).Read(") })
			})
			return wsguard.Principal{Subject: "alice"}, nil
		}, time.Second, 200},
		{"a login that panics in it", post("Content-Length: 10\r\n\r\n"), func(r *http.Request) (wsguard.Principal, error) {
			go io.Copy(io.Discard, r.Body)
			panic("login")
		}, time.Second, 503},
	} {
		for _, server := range []string{"pipe", "TCP"} {
			run := func(t *testing.T) {
				e := ticketGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{VerifyTimeout: 3 * time.Second}})
				mux := http.NewServeMux()
				mux.Handle("/ticket", e.g.TicketHandler(tt.login))
				e.serve(mux)
				var clients []*wstest.Client
				n := 5
				if server == "TCP" {
					n = 1
				}
				for range n {
					c := e.dial()
					clients = append(clients, c)
					start := time.Now()
					c.Write([]byte(tt.request))
					res, err := c.ReadResponse()
					if err == nil && res.StatusCode == 100 {
						if tt.login == nil {
							t.Error("the server asks for a body that nobody reads")
						}
						res, err = c.ReadResponse()
					}
					if err != nil {
						t.Fatal(err)
					}
					b, err := io.ReadAll(res.Body)
					if d := time.Since(start); res.StatusCode != tt.status || err != nil || d > tt.within {
						t.Errorf("status %d after %v, %v; events:\n%s", res.StatusCode, d, err, e.events)
					}
					if tt.status == 200 && !strings.Contains(string(b), `"ticket":`) {
						t.Errorf("the answer is %s", b)
					}
				}
				// The clients are still there. Nothing of the server's is.
				for _, c := range clients {
					c.Timeout = time.Second
					if err := c.ReadEOF(); err != nil && !strings.Contains(err.Error(), "reset") {
						t.Error(err)
					}
				}
			}
			if server == "pipe" {
				t.Run(tt.name, func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						run(t)
						synctest.Wait()
						time.Sleep(3 * time.Second)
						synctest.Wait()
						// The test, the server, and two of its helpers.
						if n := bubbled(); n > 5 {
							t.Errorf("%d goroutines", n)
						}
					})
				})
			} else if tt.within <= time.Second {
				t.Run(tt.name+", TCP", func(t *testing.T) {
					long(t) // net/http waits for the body for a while
					t.Parallel()
					run(t)
				})
			}
		}
	}
}

// A client that sends what it promised keeps its connection, and each request on it
// has a context that nobody has cancelled.
func TestTicketBodyKeepsTheConnection(t *testing.T) {
	form := "Content-Type: application/x-www-form-urlencoded\r\n"
	for _, tt := range []struct {
		name  string
		parts []string // of the request, with pauses between them
		login func(*http.Request) (wsguard.Principal, error)
	}{
		{"none", []string{post("Content-Length: 0\r\n\r\n")}, nil},
		{"neither length nor chunks", []string{post("\r\n")}, nil},
		{"small", []string{post("Content-Length: 10\r\n\r\nuser=alice")}, nil},
		{"small, later", []string{post("Content-Length: 10\r\n\r\n"), "user=alice"}, nil},
		{"in pieces", []string{post("Content-Length: 10\r\n\r\n"), "user=", "alice"}, nil},
		{"chunked", []string{post("Transfer-Encoding: chunked\r\n\r\na\r\nuser=alice\r\n0\r\n\r\n")}, nil},
		{"chunked, in pieces", []string{post("Transfer-Encoding: chunked\r\n\r\n"), "a\r\nuser=alice\r\n", "0\r\n\r\n"}, nil},
		{"200 KiB", []string{post("Content-Length: 204800\r\n\r\n"), strings.Repeat("x", 200<<10)}, nil},
		{"a form", []string{post(form + "Content-Length: 10\r\n\r\nuser=alice")}, readsBody},
		{"a form, later", []string{post(form + "Content-Length: 10\r\n\r\n"), "user=alice"}, readsBody},
		{"a form, Expect", []string{post(form + "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n"), "user=alice"}, readsBody},
		{"a form that is parsed", []string{post(form + "Content-Length: 10\r\n\r\n"), "user=alice"}, func(r *http.Request) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: r.PostFormValue("user")}, nil
		}},
		{"a form that is not read", []string{post(form + "Content-Length: 10\r\n\r\n"), "user=alice"}, func(r *http.Request) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: "alice"}, nil
		}},
		{"a form of which a part is read", []string{post(form + "Content-Length: 10\r\n\r\n"), "user=", "alice"}, func(r *http.Request) (wsguard.Principal, error) {
			_, err := io.ReadFull(r.Body, make([]byte, 3))
			return wsguard.Principal{Subject: "alice"}, err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := ticketGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{
					Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
						return wsguard.Principal{Subject: token}, ctx.Err()
					},
					Tickets: &wsguard.TicketConfig{MaxPerSubject: wsguard.Off},
				}})
				var cancelled atomic.Int64
				tickets := e.g.TicketHandler(tt.login)
				e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Context().Err() != nil {
						cancelled.Add(1)
					}
					tickets.ServeHTTP(w, r)
				}), func(s *http.Server) { s.IdleTimeout = time.Minute })
				c := e.dial()
				for n := range 3 {
					for i, part := range tt.parts {
						if i > 0 {
							time.Sleep(20 * time.Millisecond)
						}
						c.Write([]byte(part))
					}
					res, err := c.ReadResponse()
					if err == nil && res.StatusCode == 100 {
						res, err = c.ReadResponse()
					}
					if err != nil {
						t.Fatal(n, err)
					}
					b, err := io.ReadAll(res.Body)
					if err != nil || res.StatusCode != 200 || res.Close {
						t.Fatalf("request %d: status %d, close %t, %v: %s; events:\n%s", n, res.StatusCode, res.Close, err, b, e.events)
					}
					time.Sleep(10 * time.Second) // longer than any deadline of ours
				}
				if cancelled.Load() > 0 {
					t.Error("a request began with a cancelled context")
				}
				c.Close()
			})
		})
	}
}

// A login that waits for a body that does not come is nobody's guess.
func TestTicketBodyIsNoGuess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := ticketGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{VerifyTimeout: time.Second, Failures: wsguard.Rate{PerSecond: never, Burst: 1}}})
		e.serve(e.g.TicketHandler(readsBody))
		for range 3 {
			c := e.dial()
			c.Write([]byte(post("Content-Length: 10\r\n\r\nuser")))
			res, err := c.ReadResponse()
			if err != nil {
				t.Fatal(err)
			}
			want(t, "half a form", res.StatusCode, 503)
			c.Close()
			synctest.Wait()
		}
		for _, ev := range e.events.of(audit.Refusal) {
			if ev.Reason != "unavailable" {
				t.Errorf("%+v", ev)
			}
		}
		c := e.dial()
		defer c.Close()
		c.Write([]byte(post("Content-Length: 10\r\n\r\nuser=alice")))
		if res, err := c.ReadResponse(); err != nil || res.StatusCode != 200 {
			t.Error(res, err)
		}
	})
}
