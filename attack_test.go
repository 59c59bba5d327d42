// These tests are attacks on the identity side that a review has tried.

package wsguard_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/store"
)

// attackPost posts to h from addr.
func attackPost(h http.Handler, addr, target, body string, kv ...string) (int, string) {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.RemoteAddr = addr + ":4711"
	r.Header = header(kv...)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// Bad passwords from one address lock nobody else out of a login that reads the body.
func TestAttackBodyLoginGlobalLockout(t *testing.T) {
	e := newEnv(t, wsguard.Config{InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}})
	h := e.g.TicketHandler(func(r *http.Request) (wsguard.Principal, error) {
		b, _ := io.ReadAll(r.Body)
		if user, ok := strings.CutSuffix(string(b), ":good"); ok {
			return wsguard.Principal{Subject: user}, nil
		}
		return wsguard.Principal{}, errors.New("wrong password")
	})
	if code, b := attackPost(h, "198.51.100.7", "/ticket", "alice:good"); code != 200 {
		t.Fatal(code, b)
	}
	for i := range 10 {
		attackPost(h, "192.0.2.1", "/ticket", fmt.Sprint("x:bad", i))
	}
	for i := range 3 {
		if code, b := attackPost(h, fmt.Sprint("198.51.100.", i+1), "/ticket", "alice:good"); code != 200 {
			t.Errorf("alice, at another address: %d %s", code, b)
		}
	}
}

func attackCert(name string) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Raw: []byte(name), Subject: pkix.Name{CommonName: name}}}}
}

func attackCertLogin(r *http.Request) (wsguard.Principal, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return wsguard.Principal{}, wsguard.ErrNoCredential
	}
	name := r.TLS.PeerCertificates[0].Subject.CommonName
	if strings.HasPrefix(name, "bad") {
		return wsguard.Principal{}, wsguard.ErrUnauthenticated
	}
	return wsguard.Principal{Subject: name}, nil
}

func attackPiece(g *wsguard.Guard, r *http.Request) (int, string) {
	w := httptest.NewRecorder()
	g.Pieces().Auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := wsguard.PrincipalOf(r)
		io.WriteString(w, "in as "+p.Subject)
	})).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// A bad client certificate does not lock a neighbour's good one out.
func TestAttackCertificateNeighbour(t *testing.T) {
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: attackCertLogin}})
	try := func(name string) (int, string) {
		r := httptest.NewRequest("GET", "/ws?room=1", nil)
		r.Header, r.TLS = header(), attackCert(name)
		return attackPiece(e.g, r)
	}
	if code, b := try("alice"); code != 200 {
		t.Fatal(code, b)
	}
	try("bad")
	if code, b := try("alice"); code != 200 {
		t.Errorf("alice behind the address of a bad certificate: %d %s", code, b)
	}
}

// A certificate that Authenticate refuses is not admitted as anonymous.
func TestAttackRefusedBecomesAnonymous(t *testing.T) {
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: attackCertLogin, InsecureAnonymous: true}})
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header, r.TLS = header(), attackCert("bad")
	if code, b := attackPiece(e.g, r); code != 401 {
		t.Errorf("bad certificate: %d %s", code, b)
	}
}

// Guesses count wherever Authenticate finds them.
func TestAttackUncountedGuesses(t *testing.T) {
	for name, h := range map[string]func(i int) http.Header{
		"Sec-WebSocket-Protocol": func(i int) http.Header { return header("Sec-WebSocket-Protocol", fmt.Sprint("chat, key.", i)) },
		"X-Forwarded-User":       func(i int) http.Header { return header("X-Forwarded-User", fmt.Sprint("key.", i)) },
		"control X-Key":          func(i int) http.Header { return header("X-Key", fmt.Sprint("key.", i)) },
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			e := newEnv(t, wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}}, Auth: wsguard.AuthConfig{Authenticate: func(r *http.Request) (wsguard.Principal, error) {
				calls.Add(1)
				return wsguard.Principal{}, errors.New("wrong key")
			}}})
			for i := range 200 {
				r := httptest.NewRequest("GET", "/ws", nil)
				r.Header = http.Header{}
				for k, v := range h(i) {
					r.Header[http.CanonicalHeaderKey(k)] = v
				}
				r.TLS = &tls.ConnectionState{}
				attackPiece(e.g, r)
			}
			if calls.Load() > 20 {
				t.Errorf("%d guesses were judged", calls.Load())
			}
		})
	}
}

// The answers of OriginFunc keep no long Host.
func TestAttackOriginMemory(t *testing.T) {
	long(t)
	e := newEnv(t, wsguard.Config{InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}, Verifier: anyone},
		OriginFunc: func(context.Context, string, string) (bool, error) { return false, nil }})
	e.serve(e.g.TicketHandler(nil))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	codes := map[int]int{}
	for i := range 100 {
		c := e.dial()
		fmt.Fprintf(c, "POST /ticket HTTP/1.1\r\nHost: %s%d.example\r\nOrigin: https://evil.example\r\nContent-Length: 0\r\n\r\n", strings.Repeat("a", 500_000), i)
		res, err := c.ReadResponse()
		if err != nil {
			t.Fatal(err)
		}
		codes[res.StatusCode]++
		c.Close()
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
		t.Errorf("answers %v; the heap grew by %d MB for 100 refused requests", codes, grown>>20)
	}
	runtime.KeepAlive(e)
}

// The calls of OriginFunc have a rate.
func TestAttackOriginFuncUnlimited(t *testing.T) {
	var calls atomic.Int64
	e := serveGuard(t, wsguard.Config{
		Rates:      wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 10}},
		OriginFunc: func(context.Context, string, string) (bool, error) { calls.Add(1); return false, nil }})
	for i := range 500 {
		c, _ := e.try(header("Origin", fmt.Sprintf("https://x%d.example", i)))
		c.Close()
	}
	if calls.Load() > 30 {
		t.Errorf("OriginFunc was called %d times for one client, with a rate of 10", calls.Load())
	}
}

// Bad tickets of a neighbour do not lock a good ticket out.
func TestAttackTicketNeighbour(t *testing.T) {
	e := ticketEnv(t, wsguard.Config{})
	good := e.buy(bearer("alice"))
	for i := range 11 {
		c, _ := e.tryWith(wstest.HandshakeOptions{Path: fmt.Sprint("/ws?ticket=bad", i), Header: header()})
		c.Close()
	}
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + good, Header: header()})
	defer c.Close()
	if res.StatusCode != 101 {
		t.Errorf("a good ticket: %d", res.StatusCode)
	}
}

// A ticket behind the Authenticator of the Guard comes back when its subject is at its cap.
func TestAttackTicketPutBackBehindPiece(t *testing.T) {
	for _, piece := range []bool{false, true} {
		e := ticketGuard(t, wsguard.Config{Caps: wsguard.CapConfig{MaxConnsPerSubject: 1}})
		mux := ticketMux(e.g)
		var h http.Handler = mux
		if piece {
			m := http.NewServeMux()
			m.Handle("/ws", e.g.Pieces().Auth.Handler(echoDoor(e.g)))
			m.Handle("/ticket", e.g.TicketHandler(nil))
			h = m
		}
		e.serve(h)
		a, b := e.buy(bearer("alice")), e.buy(bearer("alice"))
		c, res := e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + a, Header: header()})
		if res.StatusCode != 101 {
			t.Fatal(res.StatusCode)
		}
		_, res = e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + b, Header: header()})
		if res.StatusCode != 429 {
			t.Fatal(res.StatusCode)
		}
		bye(c)
		e.idle()
		c, res = e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + b, Header: header()})
		if res.StatusCode != 101 {
			t.Errorf("piece %t: the ticket that was put back: %d", piece, res.StatusCode)
		}
		c.Close()
	}
}

// A header that changes with each request, or a cookie of analytics, does not make the guard forget
// that a login was accepted or refused.
func TestAttackPerRequestHeader(t *testing.T) {
	for _, name := range []string{"none", "Cf-Ray", "X-Amzn-Trace-Id", "cookie"} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: cookieLogin(&calls)}})
			n := 0
			try := func(session string) int {
				n++
				r := httptest.NewRequest("GET", "/ws", nil)
				r.Header, r.TLS = header("Cookie", "session="+session), &tls.ConnectionState{}
				switch name {
				case "cookie":
					r.Header.Set("Cookie", fmt.Sprintf("session=%s; _ga=%d", session, n))
				case "none":
				default:
					r.Header.Set(name, fmt.Sprint(n))
				}
				code, _ := attackPiece(e.g, r)
				return code
			}
			if code := try("alice"); code != 200 {
				t.Fatal(code)
			}
			for range 12 {
				try("stale") // one stale tab that tries again
			}
			if code := try("alice"); code != 200 {
				t.Errorf("alice, accepted before, behind the address of one stale tab: %d", code)
			}
		})
	}
}

// The header in which an identity proxy says who the client is counts as a credential. Guesses of
// it are limited, and one that is renewed beside the same cookie is not taken for the one refused.
func TestAttackIdentityProxyHeaders(t *testing.T) {
	for _, name := range []string{
		"Cf-Access-Jwt-Assertion", "Cf-Access-Authenticated-User-Email", "Cf-Access-Client-Id", "X-Amzn-Oidc-Data", "X-Amzn-Oidc-Identity",
		"X-Amzn-Mtls-Clientcert", "X-Goog-Iap-Jwt-Assertion", "X-Goog-Authenticated-User-Email", "X-Forwarded-User", "X-Forwarded-Email",
		"X-Forwarded-Client-Cert", "X-Forwarded-Access-Token", "X-Auth-Request-User", "X-Ms-Client-Principal", "X-Ms-Token-Aad-Access-Token",
		"X-Ssl-Client-Cert", "Client-Cert", "Remote-User", "X-Remote-User", "X-Webauth-User", "X-Authentik-Username", "X-Api-Key",
		"X-Vouch-User", "X-Pomerium-Jwt-Assertion", "X-Userinfo", "X-Tailscale-User-Login", "Tailscale-User-Login",
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int64
			e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: func(r *http.Request) (wsguard.Principal, error) {
				calls.Add(1)
				if r.Header.Get(name) != "alice" {
					return wsguard.Principal{}, wsguard.ErrNoCredential
				}
				return wsguard.Principal{Subject: "alice"}, nil
			}}})
			try := func(who string) int {
				r := httptest.NewRequest("GET", "/ws", nil)
				r.Header, r.TLS = header(name, who, "Cookie", "theme=dark"), &tls.ConnectionState{}
				code, _ := attackPiece(e.g, r)
				return code
			}
			if code := try("expired"); code == 200 {
				t.Fatal(code)
			}
			if code := try("alice"); code != 200 {
				t.Errorf("alice, whose header was renewed: %d", code)
			}
			before := calls.Load()
			for i := range 1000 {
				try(fmt.Sprint("guess ", i))
			}
			if n := calls.Load() - before; n > 300 {
				t.Errorf("%d of 1000 guesses were tried", n)
			}
			if code := try("alice"); code != 200 {
				t.Errorf("alice, accepted before, behind the address of one who guesses: %d", code)
			}
		})
	}
}

// A revoked subject does not pass the piece.
func TestAttackRevokedPassesPiece(t *testing.T) {
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}})
	e.g.Admin().Revoke("alice")
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header, r.TLS = bearer("alice"), &tls.ConnectionState{}
	if code, b := attackPiece(e.g, r); code == 200 {
		t.Errorf("revoked: %d %s", code, b)
	}
	if p, err := e.g.Pieces().Auth.Authenticate(r); err == nil {
		t.Errorf("revoked, by Authenticate: %v", p.Subject)
	}
}

// An open anonymous connection does not keep large headers of its handshake.
func TestAttackAnonymousKeepsHeaders(t *testing.T) {
	long(t)
	for _, attach := range []bool{false, true} {
		cfg := wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone, InsecureAnonymous: true}}
		if attach {
			cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, nil }
		}
		// A wrapped connection keeps its request, as its handler does.
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return g.Handler(echo) })
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var open []*wstest.Client
		for range 40 {
			open = append(open, e.open(header("X-Junk", strings.Repeat("x", 900_000))))
		}
		e.events.wait(t, audit.Open, len(open))
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		t.Logf("attach %t: %d open connections, the heap grew by %d MB", attach, len(open), (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>20)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
			t.Errorf("attach %t: the heap grew by %d MB", attach, grown>>20)
		}
		for _, c := range open {
			c.Close()
		}
		e.idle()
	}
}

// Behind Wrap, PrincipalOf does not name somebody whom the Guard has refused.
func TestAttackPrincipalOfStale(t *testing.T) {
	var seen atomic.Value
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, InsecureReportOnly: true}})
	wrapped := e.g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := wsguard.PrincipalOf(r)
		seen.Store(p.Subject)
		w.WriteHeader(400)
	}))
	e.serve(e.g.Pieces().Auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer nobody-at-all")
		wrapped.ServeHTTP(w, r)
	})))
	c, _ := e.try(bearer("alice"))
	c.Close()
	if s := seen.Load(); s != "" {
		t.Errorf("the Guard let an anonymous client in, and PrincipalOf says %q", s)
	}
}

// First messages, evictions, revocations, kicks and Reconfigure at the same time leave nothing behind.
func TestAttackStress(t *testing.T) {
	long(t)
	wstest.CheckGoroutines(t)
	mk := func(cfg *wsguard.Config) {
		noHandshakeLimits(cfg)
		noRates(cfg)
		cfg.Auth = wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
			if rand.N(4) == 0 {
				time.Sleep(time.Duration(rand.N(3)) * time.Millisecond)
			}
			if strings.HasPrefix(token, "bad") {
				return wsguard.Principal{}, errors.New("bad")
			}
			return wsguard.Principal{Subject: token, IssuedAt: time.Now().Add(time.Second), Expires: time.Now().Add(time.Hour), SessionID: token + "s"}, nil
		}, InsecureAnonymous: true, Sources: wsguard.TokenSources{FirstMessage: true, Header: true},
			FirstMessage: &wsguard.FirstMessage{Take: func(m []byte) (string, []byte, error) {
				if string(m) == "none" {
					return "", nil, wsguard.ErrNoCredential
				}
				return string(m), []byte("r"), nil
			}, Accepted: func(wsguard.Principal) []byte { return []byte("ready") }},
			Revalidate:      func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) { return p, nil },
			RevalidateEvery: 5 * time.Millisecond, CacheTTL: time.Minute, RevocationTTL: time.Millisecond}
		cfg.Caps = wsguard.CapConfig{MaxConnsPerClient: wsguard.Off, MaxUnauthenticated: 6, MaxConnsPerSubject: 2, ReplaceOldest: true}
		cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) {
			if rand.N(5) == 0 {
				return nil, errors.New("no")
			}
			return io.NopCloser(nil), nil
		}
	}
	e := serveWith(t, conf(mk), func(g *wsguard.Guard) http.Handler {
		return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				_, m, err := c.Read(ctx)
				if err != nil {
					return err
				}
				s := string(m)
				go c.Refresh(ctx, s)
				c.Value()
				if rand.N(4) == 0 {
					return nil
				}
			}
		})
	})
	stop := time.Now().Add(4 * time.Second)
	var wg sync.WaitGroup
	for w := range 12 {
		wg.Go(func() {
			for time.Now().Before(stop) {
				c := e.s.Dial(t)
				h := header()
				if rand.N(4) == 0 {
					h = bearer(fmt.Sprint("u", w%3))
				}
				res, err := c.Handshake("/", h)
				if err == nil && res.StatusCode == 101 {
					for range rand.N(4) {
						if c.WriteFrame(wstest.Text([]string{"none", "u0", "u1", "u2", "bad1"}[rand.N(5)])) != nil {
							break
						}
						if rand.N(2) == 0 {
							time.Sleep(time.Millisecond)
						}
					}
					if rand.N(10) == 0 {
						time.Sleep(20 * time.Millisecond)
					}
				}
				c.Close()
			}
		})
	}
	wg.Go(func() {
		for i := 0; time.Now().Before(stop); i++ {
			u := fmt.Sprint("u", rand.N(3))
			switch i % 5 {
			case 0:
				e.g.Admin().Revoke(u)
			case 1:
				e.g.Admin().Restore(u)
			case 2:
				e.g.Admin().SignOut(u + "x")
			case 3:
				for s := range e.g.Admin().Sessions() {
					e.g.Admin().Kick(s.ID, 0, "")
					break
				}
			case 4:
				if i%50 == 4 {
					e.g.Reconfigure(e.cfg)
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Wait()
	e.idle()
}

// The same as TestAttackCertificateNeighbour over a real handshake. The User-Agent plays the certificate.
func TestAttackCertificateDoor(t *testing.T) {
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Authenticate: attackCertLogin}, InsecureAllowHTTP: true})
	door := echoDoor(e.g)
	e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = attackCert(r.Header.Get("User-Agent"))
		door.ServeHTTP(w, r)
	}))
	try := func(name, path string) int {
		c, res := e.tryWith(wstest.HandshakeOptions{Path: path, Header: header("User-Agent", name)})
		c.Close()
		return res.StatusCode
	}
	if code := try("alice", "/?room=1"); code != 101 {
		t.Fatal(code)
	}
	if code := try("bad", "/?room=1"); code != 401 {
		t.Fatal(code)
	}
	for _, name := range []string{"alice", "bob"} {
		if code := try(name, "/?room=1"); code != 101 {
			t.Errorf("%s, after a neighbour's bad certificate: %d", name, code)
		}
	}
}

// Handshakes of foreign origins do not take the places in flight that their address needs.
func TestAttackOriginFuncStarves(t *testing.T) {
	long(t)
	for _, hook := range []bool{false, true} {
		cfg := wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{Verifier: anyone},
			Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: 1, Burst: 10}}}
		if hook {
			cfg.OriginFunc = func(context.Context, string, string) (bool, error) {
				time.Sleep(200 * time.Millisecond)
				return false, nil
			}
		}
		e := serveGuard(t, cfg)
		var wg sync.WaitGroup
		var over atomic.Bool
		var tried atomic.Int64
		for i := range 80 {
			wg.Go(func() {
				for n := 0; !over.Load(); n++ {
					c := e.s.Dial(t)
					c.Handshake("/", header("Origin", fmt.Sprintf("https://x%d-%d.example", i, n)))
					tried.Add(1)
					c.Close()
					if !hook {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		eventually(t, "as many tries as there are attackers", func() bool { return tried.Load() >= 80 })
		got := map[int]int{}
		for range 5 {
			c, res := e.try(bearer("alice"))
			got[res.StatusCode]++
			c.Close()
		}
		over.Store(true)
		wg.Wait()
		if got[101] < 5 {
			t.Errorf("OriginFunc %t: alice, whose origin is listed: %v", hook, got)
		}
	}
}

// The login of a cross-site request does not count behind origins that are only reported.
func TestAttackReportOnlyMark(t *testing.T) {
	calls := 0
	cfg := wsguard.Config{InsecureReportOnlyOrigins: true, InsecureAllowHTTP: true, Hosts: []string{"example.com"}, Origins: []string{appOrigin},
		AllowMissingOrigin: true,
		Auth: wsguard.AuthConfig{Authenticate: func(r *http.Request) (wsguard.Principal, error) {
			calls++
			if u, _, ok := r.BasicAuth(); ok {
				return wsguard.Principal{Subject: u}, nil
			}
			return wsguard.Principal{}, wsguard.ErrNoCredential
		}}}
	r := func() *http.Request {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.Header = http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}}
		r.SetBasicAuth("victim", "pw")
		return r
	}
	g := must(wsguard.New(cfg))
	if code, b := attackPiece(g, r()); code != 401 || calls > 0 {
		t.Errorf("the piece of a Guard: %d %s", code, b)
	}
	check, a := must(wsguard.NewOriginCheck(cfg)), must(wsguard.NewAuthenticator(cfg))
	w := httptest.NewRecorder()
	check.Handler(a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := wsguard.PrincipalOf(r)
		fmt.Fprint(w, "in as ", p.Subject)
	}))).ServeHTTP(w, r())
	if w.Code != 401 {
		t.Errorf("pieces that stand alone: %d %s", w.Code, w.Body)
	}
}

// A foreign page does not use up its visitor's failures at an Authenticator that stands alone behind an
// origin check. Without a check nobody can tell the two apart.
func TestAttackStandaloneForeignFailures(t *testing.T) {
	for _, report := range []bool{false, true} {
		cfg := wsguard.Config{Origins: []string{appOrigin}, InsecureReportOnlyOrigins: report, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}}
		a := must(wsguard.NewAuthenticator(cfg))
		h := a.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		h = must(wsguard.NewOriginCheck(cfg)).Handler(h)
		try := func(origin, token string) int {
			r := httptest.NewRequest("GET", "/ws", nil)
			r.Header = header("Origin", origin, "Sec-Websocket-Protocol", "chat, bearer."+token)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		for i := range 11 {
			try("https://evil.example", fmt.Sprint("nope", i))
		}
		if code := try(appOrigin, "alice"); code != 200 {
			t.Errorf("origins only reported %t: alice from the app's page: %d", report, code)
		}
	}
}

// A banned client cannot use Authenticate.
func TestAttackBannedAuthenticate(t *testing.T) {
	e := newEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}})
	e.g.Admin().Ban("192.0.2.1", time.Hour, "")
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header, r.TLS = bearer("alice"), &tls.ConnectionState{}
	if code, _ := attackPiece(e.g, r); code != 429 {
		t.Error(code)
	}
	if p, err := e.g.Pieces().Auth.Authenticate(r); err == nil {
		t.Errorf("banned, by Authenticate: %v", p.Subject)
	}
}

// The same as TestAttackBodyLoginGlobalLockout, with a header or a query that all clients send.
func TestAttackBodyLoginWithHeader(t *testing.T) {
	e := newEnv(t, wsguard.Config{InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}})
	h := e.g.TicketHandler(func(r *http.Request) (wsguard.Principal, error) {
		if r.FormValue("x"); r.ContentLength == 10 {
			return wsguard.Principal{Subject: "alice"}, nil
		}
		return wsguard.Principal{}, wsguard.ErrUnauthenticated
	})
	for i := range 10 {
		attackPost(h, "192.0.2.1", "/ticket", strings.Repeat("x", 20+i), "X-Api-Version", "3")
	}
	if code, b := attackPost(h, "198.51.100.7", "/ticket", "alice:good", "X-Api-Version", "3"); code != 200 {
		t.Errorf("alice, at another address: %d %s", code, b)
	}
}

// Guards of one State do not use the marks and the cached answers of each other.
func TestAttackCombinations(t *testing.T) {
	state := wsguard.NewState()
	a := must(wsguard.New(wsguard.Config{State: state, Origins: []string{appOrigin}, InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Verifier: anyone, CacheTTL: time.Minute}}))
	b := must(wsguard.New(wsguard.Config{State: state, Origins: []string{appOrigin}, InsecureAllowHTTP: true, Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, CacheTTL: time.Minute}}))
	r := func() *http.Request {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.Header = bearer("mallory")
		return r
	}
	if code, _ := attackPiece(a, r()); code != 200 {
		t.Fatal(code)
	}
	if code, _ := attackPiece(b, r()); code != 401 {
		t.Errorf("the cached answer of another Guard: %d", code)
	}
	// The piece of a in front of the piece of b.
	w := httptest.NewRecorder()
	a.Pieces().Auth.Handler(b.Pieces().Auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))).ServeHTTP(w, r())
	if w.Code != 401 {
		t.Errorf("the mark of another Guard: %d", w.Code)
	}
}

// A Ban that fails does not lift an older ban.
func TestAttackFailedBanLifts(t *testing.T) {
	e := newEnv(t, wsguard.Config{})
	if err := e.g.Admin().Ban("192.0.2.1", time.Hour, "first"); err != nil {
		t.Fatal(err)
	}
	for i := range 1023 {
		if err := e.g.Admin().Ban(fmt.Sprintf("198.51.%d.%d", i/256, i%256), time.Hour, ""); err != nil {
			t.Fatal(i, err)
		}
	}
	cfg := e.cfg
	cfg.Proxies.ClientName = func(*http.Request) string { return "" }
	e.reconfigure(cfg)
	err := e.g.Admin().Ban("192.0.2.1", 2*time.Hour, "longer")
	r := httptest.NewRequest("GET", "/ws", nil)
	r.Header = header()
	if code, _ := attackPiece(e.g, r); code != 429 {
		t.Errorf("Ban returned %v, and the client that was banned before gets %d", err, code)
	}
}

// A Verifier that ends its goroutine leaks nothing.
func TestAttackGoexit(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Rates: wsguard.RateConfig{MaxInFlight: 1}, Auth: wsguard.AuthConfig{Verifier: func(ctx context.Context, token string) (wsguard.Principal, error) {
		if token == "exit" {
			runtime.Goexit()
		}
		return wsguard.Principal{Subject: token}, nil
	}}})
	for range 5 {
		e.refused(bearer("exit"), 503, "unavailable")
	}
	bye(e.open(bearer("alice")))
}

// A handshake that is charged once is given back once, also if a middleware changes what is presented.
func TestAttackDoubleRefund(t *testing.T) {
	for _, exchange := range []bool{false, true} {
		attackDoubleRefund(t, exchange)
	}
}

func attackDoubleRefund(t *testing.T, exchange bool) {
	e := newEnv(t, wsguard.Config{
		Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 20}},
		Auth:  wsguard.AuthConfig{Verifier: anyone, InsecureAnonymous: true}})
	door := echoDoor(e.g)
	e.serve(e.g.Pieces().Auth.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" && exchange {
			r.Header.Set("Authorization", a+"-internal") // exchanges the token for an internal one
		}
		door.ServeHTTP(w, r)
	})))
	// 20 anonymous handshakes are all that the client may make.
	n := 0
	for i := range 40 {
		c, res := e.try(header())
		c.Close()
		if res.StatusCode == 101 {
			n++
		}
		c, _ = e.try(bearer(fmt.Sprint("me", i)))
		c.Close()
	}
	if n > 20 {
		t.Errorf("exchange: %d anonymous handshakes with a burst of 20", n)
	}
}

type attackStore struct{ *store.MemoryOnce }

func (s attackStore) Put(ctx context.Context, k string, v []byte, ttl time.Duration) error {
	time.Sleep(time.Duration(rand.N(3)) * time.Millisecond)
	if rand.N(10) == 0 {
		return errors.New("down")
	}
	return s.MemoryOnce.Put(ctx, k, v, ttl)
}

func (s attackStore) Take(ctx context.Context, k string) ([]byte, bool, error) {
	if rand.N(20) == 0 {
		panic("store")
	}
	time.Sleep(time.Duration(rand.N(8)) * time.Millisecond)
	return s.MemoryOnce.Take(ctx, k)
}

// Pieces, a slow store, a login, OriginFunc, short timeouts and both doors at the same time leave
// nothing behind.
func TestAttackStressPieces(t *testing.T) {
	long(t)
	wstest.CheckGoroutines(t)
	mk := func(cfg *wsguard.Config) {
		cfg.Rates = wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: 500, Burst: 50}, MaxInFlight: 8, MaxInFlightPerClient: 6}
		noRates(cfg)
		cfg.OriginFunc = func(ctx context.Context, o, h string) (bool, error) {
			time.Sleep(time.Duration(rand.N(8)) * time.Millisecond)
			return strings.HasSuffix(o, "good.example"), nil
		}
		cfg.Auth = wsguard.AuthConfig{Authenticate: slowCookieLogin, VerifyTimeout: 5 * time.Millisecond,
			Tickets: &wsguard.TicketConfig{Store: attackStore{store.NewOnce(0)}, MaxPerSubject: wsguard.Off}, InsecureAnonymous: true, MaxExplained: 3}
		cfg.Caps = wsguard.CapConfig{MaxConnsPerClient: 20, MaxUsersPerClient: 40, MaxConnsPerSubject: 2, ReplaceOldest: true}
		cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) {
			if rand.N(6) == 0 {
				panic("attach")
			}
			return io.NopCloser(nil), nil
		}
	}
	e := newEnv(t, conf(mk))
	p := e.g.Pieces()
	h := must(e.g.Endpoint(wsguard.EndpointConfig{})).Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			_, m, err := c.Read(ctx)
			if err != nil {
				return err
			}
			go c.Refresh(ctx, string(m))
		}
	})
	mux := http.NewServeMux()
	mux.Handle("/0", h)
	mux.Handle("/1", p.Cap.Handler(p.Auth.Handler(h)))
	mux.Handle("/2", p.Auth.Handler(p.Cap.Handler(p.Origin.Handler(h))))
	mux.Handle("/3", p.Origin.Handler(p.Cap.Handler(h)))
	ticket := e.g.TicketHandler(nil)
	e.serve(mux)
	buy := func(u string) string {
		r := httptest.NewRequest("POST", "/ticket", nil)
		r.Header = header("Cookie", "session="+u)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		ticket.ServeHTTP(w, r)
		_, s, _ := strings.Cut(w.Body.String(), `"ticket":"`)
		s, _, _ = strings.Cut(s, `"`)
		return s
	}
	stop := time.Now().Add(4 * time.Second)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[int]int{}
	for range 12 {
		wg.Go(func() {
			for time.Now().Before(stop) {
				u := fmt.Sprint("u", rand.N(3))
				o := wstest.HandshakeOptions{Path: fmt.Sprint("/", rand.N(4)), Header: header()}
				switch rand.N(6) {
				case 0:
					o.Path += "?ticket=" + buy(u)
				case 1:
					o.Header = header("Cookie", "session="+u)
				case 2:
					o.Header = header("Cookie", "session="+u, "Origin", fmt.Sprintf("https://x%d.good.example", rand.N(50)))
				case 3:
					o.Header = header("Origin", fmt.Sprintf("https://x%d.bad.example", rand.N(50)))
				case 4:
					o.Header = header("Cookie", "session=bad")
				}
				c := e.s.Dial(t)
				res, err := c.HandshakeWith(o)
				if err == nil {
					mu.Lock()
					got[res.StatusCode]++
					mu.Unlock()
					if res.StatusCode == 101 && rand.N(2) == 0 {
						c.WriteFrame(wstest.Text(buy(u)))
						time.Sleep(time.Duration(rand.N(5)) * time.Millisecond)
					}
				}
				c.Close()
			}
		})
	}
	wg.Go(func() {
		for i := 0; time.Now().Before(stop); i++ {
			e.g.Admin().Revoke(fmt.Sprint("u", rand.N(3)))
			e.g.Admin().Restore(fmt.Sprint("u", rand.N(3)))
			if i%20 == 0 {
				e.g.Reconfigure(e.cfg)
			}
			time.Sleep(3 * time.Millisecond)
		}
	})
	wg.Wait()
	e.idle()
	t.Log(got)
	// Nothing is held: the places in flight are all there.
	e.reconfigure(conf(mk, func(c *wsguard.Config) {
		c.Origins = []string{appOrigin}
		c.Rates.MaxInFlight = 1
		c.Attach = nil
		c.Auth.VerifyTimeout = time.Second
	}))
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "/0", Header: header()})
	if res.StatusCode != 101 {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
	c.Close()
}

func slowCookieLogin(r *http.Request) (wsguard.Principal, error) {
	time.Sleep(time.Duration(rand.N(7)) * time.Millisecond)
	c, err := r.Cookie("session")
	if err != nil {
		return wsguard.Principal{}, wsguard.ErrNoCredential
	}
	if c.Value == "bad" {
		return wsguard.Principal{}, errors.New("bad")
	}
	return wsguard.Principal{Subject: c.Value, IssuedAt: time.Now().Add(time.Second)}, nil
}
