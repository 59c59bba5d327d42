package wsguard_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// ticketEnv serves a guard at /ws and its tickets at /ticket.
func ticketEnv(t *testing.T, cfg wsguard.Config) *env {
	t.Helper()
	e := ticketGuard(t, cfg)
	e.serve(ticketMux(e.g))
	return e
}

func ticketGuard(t *testing.T, cfg wsguard.Config) *env {
	t.Helper()
	if cfg.Auth.Verifier == nil {
		cfg.Auth.Verifier = newTokens().Verify
	}
	if cfg.Auth.Tickets == nil {
		cfg.Auth.Tickets = &wsguard.TicketConfig{}
	}
	if cfg.Rates.Handshakes == (wsguard.Rate{}) {
		cfg.Rates.Handshakes = wsguard.Rate{PerSecond: wsguard.Off}
	}
	return newEnv(t, cfg)
}

func ticketMux(g *wsguard.Guard) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("/ws", echoDoor(g))
	mux.Handle("/ticket", g.TicketHandler(nil))
	return mux
}

// request makes a plain HTTP request on a connection of its own.
func (e *env) request(method, path string, h http.Header) *http.Response {
	e.t.Helper()
	c := e.dial()
	defer c.Close()
	req := method + " " + path + " HTTP/1.1\r\nHost: " + e.s.Addr + "\r\nContent-Length: 0\r\n"
	for name, values := range h {
		for _, v := range values {
			req += name + ": " + v + "\r\n"
		}
	}
	c.Write([]byte(req + "\r\n"))
	res, err := c.ReadResponse()
	if err != nil {
		e.t.Fatal(err)
	}
	return res
}

// buy returns a ticket.
func (e *env) buy(h http.Header) string {
	e.t.Helper()
	res := e.request("POST", "/ticket", h)
	b := body(e.t, res)
	if res.StatusCode != 200 {
		e.t.Fatalf("status %d %s", res.StatusCode, b)
	}
	if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Content-Type") != "application/json" {
		e.t.Errorf("header %v", res.Header)
	}
	var got struct {
		Ticket    string `json:"ticket"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(b), &got); err != nil {
		e.t.Fatal(err)
	}
	if raw, err := base64.RawURLEncoding.DecodeString(got.Ticket); err != nil || len(raw) < 16 {
		e.t.Errorf("ticket %q: %d bytes, %v", got.Ticket, len(raw), err)
	}
	return got.Ticket
}

func (e *env) redeem(ticket string, h http.Header) (*wstest.Client, *http.Response) {
	e.t.Helper()
	return e.tryWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + ticket, Header: h})
}

func (e *env) redeemRefused(ticket string, h http.Header, status int, reason string) {
	e.t.Helper()
	e.refusedWith(wstest.HandshakeOptions{Path: "/ws?ticket=" + ticket, Header: h}, status, reason)
}

func TestTicketT31(t *testing.T) {
	wstest.CheckGoroutines(t)
	t.Run("T31 once", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		ticket := e.buy(bearer("alice"))
		c, res := e.redeem(ticket, header())
		if res.StatusCode != 101 {
			t.Fatal(res.StatusCode)
		}
		roundTrip(t, c, "hello")
		if ev := e.events.wait(t, audit.Open, 1); ev.Subject != "alice" {
			t.Errorf("subject %q", ev.Subject)
		}
		e.redeemRefused(ticket, header(), 401, "unauthenticated")
		if s := e.events.String() + e.log.String(); strings.Contains(s, ticket) {
			t.Error("the ticket is in the log")
		}
	})
	t.Run("T31 at once", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Failures: wsguard.Rate{PerSecond: wsguard.Off}}})
		for range 20 {
			ticket := e.buy(bearer("alice"))
			got := make(chan int, 4)
			for range cap(got) {
				c := e.dial()
				go func() {
					res, err := c.Handshake("/ws?ticket="+ticket, header())
					if err != nil {
						t.Error(err)
						got <- 0
						return
					}
					got <- res.StatusCode
					c.Close()
				}()
			}
			statuses := map[int]int{}
			for range cap(got) {
				statuses[<-got]++
			}
			if statuses[101] != 1 {
				t.Fatalf("statuses %v, want one 101", statuses)
			}
			e.idle()
		}
	})
	t.Run("T31 other origin", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{Origins: []string{appOrigin, "https://other.example.com"}})
		ticket := e.buy(bearer("alice"))
		e.redeemRefused(ticket, header("Origin", "https://other.example.com"), 401, "unauthenticated")
		e.redeemRefused(ticket, header(), 401, "unauthenticated") // used up
	})
	t.Run("T05 T31 the same origin, written otherwise", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		for _, from := range []string{"HTTPS://APP.example.com", appOrigin + ":443"} {
			if _, res := e.redeem(e.buy(bearer("alice")), header("Origin", from)); res.StatusCode != 101 {
				t.Error(from, res.StatusCode)
			}
			h := bearer("alice")
			h.Set("Origin", from)
			if _, res := e.redeem(e.buy(h), header()); res.StatusCode != 101 {
				t.Error("bought at", from, res.StatusCode)
			}
		}
	})
	t.Run("T31 forged", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		ticket := e.buy(bearer("alice"))
		for _, bad := range []string{"", "x", ticket + "A", ticket[1:], strings.ToUpper(ticket) + "_", ticket + "&ticket=" + ticket} {
			e.redeemRefused(bad, header(), 401, "unauthenticated")
		}
		e.redeemRefused(ticket, bearer("alice"), 401, "unauthenticated") // two credentials
		if _, res := e.redeem(ticket, header()); res.StatusCode != 101 {
			t.Error("the ticket was lost", res.StatusCode)
		}
	})
	t.Run("T31 as another credential", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		e.refusedWith(wstest.HandshakeOptions{Path: "/ws", Header: bearer(e.buy(bearer("alice")))}, 401, "unauthenticated")
		e.redeemRefused("alice", header(), 401, "unauthenticated") // nor the other way round
	})
	t.Run("T31 seventeen", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		var last string
		for range 16 {
			last = e.buy(bearer("alice"))
		}
		res := e.request("POST", "/ticket", bearer("alice"))
		checkRefusal(t, res)
		if res.StatusCode != 429 {
			t.Errorf("status %d", res.StatusCode)
		}
		e.buy(bearer("bob"))
		e.redeem(last, header())
		e.buy(bearer("alice"))
	})
	t.Run("T31 in all", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{MaxTotal: 2}}})
		e.buy(bearer("alice"))
		e.buy(bearer("bob"))
		res := e.request("POST", "/ticket", bearer("carol"))
		if checkRefusal(t, res); res.StatusCode != 503 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
	t.Run("T31 revoked", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		tickets := []string{e.buy(bearer("alice")), e.buy(bearer("alice"))}
		bobs := e.buy(bearer("bob"))
		e.g.Admin().Revoke("alice")
		e.redeemRefused(tickets[0], header(), 401, "revoked")
		if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 401 {
			t.Errorf("a ticket for a revoked subject: %d", res.StatusCode)
		}
		e.g.Admin().Restore("alice")
		e.redeemRefused(tickets[1], header(), 401, "revoked") // died then
		for range 16 {
			e.buy(bearer("alice"))
		}
		if _, res := e.redeem(bobs, header()); res.StatusCode != 101 {
			t.Errorf("bob's: %d", res.StatusCode)
		}
	})
}

// T31: a ticket dies after its time, and carries what the credential has.
func TestTicketT31Time(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(40 * time.Second)
		e := ticketGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: wsguard.Verifier(func(context.Context, string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: "alice", Scopes: []string{"read"}, Expires: expires}, nil
		})}})
		e.serve(ticketMux(e.g))
		old := e.buy(bearer("x"))
		time.Sleep(30*time.Second - time.Nanosecond)
		young := e.buy(bearer("x"))
		c, res := e.redeem(old, header())
		if res.StatusCode != 101 {
			t.Errorf("just before its time: %d", res.StatusCode)
		}
		old = young
		time.Sleep(9 * time.Second)
		third := e.buy(bearer("x"))
		c.Timeout = time.Minute
		wantClose(t, c, 3000, "expired")
		e.redeemRefused(third, header(), 401, "unauthenticated") // its credential has expired
		time.Sleep(30 * time.Second)
		e.redeemRefused(old, header(), 401, "unauthenticated")
		if res := e.request("POST", "/ticket", bearer("x")); res.StatusCode != 401 {
			t.Errorf("an expired credential buys: %d", res.StatusCode)
		}
	})
}

// expires_in is the TTL in whole seconds.
func TestTicketExpiresIn(t *testing.T) {
	for _, ttl := range []time.Duration{1500 * time.Millisecond, 30 * time.Second, time.Hour} {
		e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{TTL: ttl}}})
		b := body(t, e.request("POST", "/ticket", bearer("alice")))
		if want := fmt.Sprintf(`"expires_in":%d}`, int64(ttl/time.Second)); !strings.HasSuffix(strings.TrimSpace(b), want) {
			t.Errorf("a ticket of %v: %s, want %s", ttl, b, want)
		}
	}
}

func TestTicketRefusals(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct {
		name, method string
		header       http.Header
		host         string
		status       int
	}{
		{"T31 GET", "GET", bearer("alice"), "", 405},
		{"T31 PUT", "PUT", bearer("alice"), "", 405},
		{"T31 OPTIONS", "OPTIONS", bearer("alice"), "", 405},
		{"T31 no credential", "POST", header(), "", 401},
		{"T31 wrong credential", "POST", bearer("wrong"), "", 401},
		{"T31 credential twice", "POST", header("Authorization", "Bearer alice", "Authorization", "Bearer alice"), "", 401},
		{"T31 unavailable", "POST", bearer("unavailable"), "", 503},
		{"T31 panic", "POST", bearer("panic"), "", 503},
		{"T31 foreign origin", "POST", header("Origin", "https://evil.test", "Authorization", "Bearer alice"), "", 403},
		{"T31 null origin", "POST", header("Origin", "null", "Authorization", "Bearer alice"), "", 403},
		{"T31 two origins", "POST", header("Origin", appOrigin, "Origin", appOrigin, "Authorization", "Bearer alice"), "", 403},
		{"T31 cookie, no origin", "POST", header("Origin", "", "Cookie", "a=b", "Authorization", "Bearer alice"), "", 403},
		{"T31 clear text", "POST", header("Via", "1.1 x", "Authorization", "Bearer alice"), "", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := ticketEnv(t, wsguard.Config{})
			res := e.request(tt.method, "/ticket", tt.header)
			checkRefusal(t, res)
			if res.StatusCode != tt.status {
				t.Errorf("status %d, want %d", res.StatusCode, tt.status)
			}
			if tt.status == 405 && res.Header.Get("Allow") != "POST" {
				t.Errorf("Allow is %q", res.Header.Get("Allow"))
			}
			if n := len(e.events.of(audit.Refusal)); n != 1 {
				t.Errorf("%d events", n)
			}
		})
	}
	t.Run("T31 host", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{Hosts: []string{"app.example.com"}})
		if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 421 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
	t.Run("T31 shares the handshake rate", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}}})
		e.buy(bearer("alice"))
		e.refusedWith(wstest.HandshakeOptions{Path: "/ws", Header: header()}, 401, "unauthenticated")
		if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 429 {
			t.Errorf("status %d", res.StatusCode)
		}
		// Foreign pages take nothing from it.
		e2 := ticketEnv(t, wsguard.Config{Rates: wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: never, Burst: 1}}})
		for range 5 {
			e2.request("POST", "/ticket", header("Origin", "https://evil.test"))
			e2.request("GET", "/ticket", header())
		}
		e2.buy(bearer("alice"))
	})
	t.Run("T31 has a failure bucket", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Failures: wsguard.Rate{PerSecond: never, Burst: 3}}})
		for i := range 3 {
			e.request("POST", "/ticket", bearer(fmt.Sprint("guess", i)))
		}
		if res := e.request("POST", "/ticket", bearer("alice")); res.StatusCode != 429 {
			t.Errorf("status %d", res.StatusCode)
		}
		// Tickets have a bucket of their own.
		for i := range 3 {
			e.redeemRefused(fmt.Sprint("guess", i), header(), 401, "unauthenticated")
		}
		e.redeemRefused("guess", header(), 429, "guessing")
	})
	t.Run("T31 draining", func(t *testing.T) {
		t.Parallel()
		e := ticketEnv(t, wsguard.Config{})
		e.g.Shutdown(context.Background())
		res := e.request("POST", "/ticket", bearer("alice"))
		if checkRefusal(t, res); res.StatusCode != 503 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
	authBubble(t, "T31 login of the user's own", func(t *testing.T) {
		e := ticketGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{VerifyTimeout: 50 * time.Millisecond}})
		login := func(r *http.Request) (wsguard.Principal, error) {
			switch c, _ := r.Cookie("session"); {
			case c == nil:
				return wsguard.Principal{}, errors.New("no session")
			case c.Value == "down":
				return wsguard.Principal{}, wsguard.ErrUnavailable
			case c.Value == "hang":
				<-r.Context().Done()
				return wsguard.Principal{}, r.Context().Err()
			case c.Value == "panic":
				panic("login")
			default:
				return wsguard.Principal{Subject: c.Value}, nil
			}
		}
		mux := http.NewServeMux()
		mux.Handle("/ws", echoDoor(e.g))
		mux.Handle("/ticket", e.g.TicketHandler(login))
		e.serve(mux)
		for cookie, want := range map[string]int{"session=alice": 200, "x=y": 401, "session=down": 503, "session=hang": 503, "session=panic": 503} {
			if res := e.request("POST", "/ticket", header("Cookie", cookie)); res.StatusCode != want {
				t.Errorf("%s: status %d, want %d", cookie, res.StatusCode, want)
			}
		}
		if _, res := e.redeem(e.buy(header("Cookie", "session=alice")), header()); res.StatusCode != 101 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
}

// A ticket is its subject's to the byte, whatever bytes these are.
func TestTicketSubjectBytes(t *testing.T) {
	subjects := []string{"\xfe\x01", "\xff\x01", "\ufffd\x01", "a\x00", "<&>"}
	e := ticketEnv(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
		n, err := strconv.Atoi(token)
		return wsguard.Principal{Subject: subjects[n], SessionID: subjects[n], Scopes: []string{subjects[n]}}, err
	}}})
	for i, want := range subjects {
		c, res := e.redeem(e.buy(bearer(strconv.Itoa(i))), header())
		if res.StatusCode != 101 {
			t.Fatal(res.Status)
		}
		e.events.wait(t, audit.Open, i+1)
		for s := range e.g.Admin().Sessions() {
			if p := s; p.Subject != want || p.SessionID != want || len(p.Scopes) != 1 || p.Scopes[0] != want {
				t.Errorf("%q became %+v", want, p)
			}
		}
		bye(c)
		e.idle()
	}
}

// A ticket, and a Conn that refreshes itself by one, know the Origin of a page with
// the longest name there is.
func TestTicketLongOrigin(t *testing.T) {
	wstest.CheckGoroutines(t)
	label := strings.Repeat("a", 63)
	long := "https://" + strings.Join([]string{label, label, label, strings.Repeat("a", 61)}, ".") + ":65535" // 267 bytes
	refreshed := make(chan error, 1)
	e := ticketGuard(t, wsguard.Config{Origins: []string{appOrigin, long}})
	tickets := must(wsguard.New(wsguard.Config{Origins: []string{appOrigin, long}, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}},
		OnEvent: func(ev audit.Event) {
			if ev.Kind == audit.Accepted {
				e.answered.Add(1) // the harness waits for its own guard otherwise
			}
		}}))
	mux := ticketMux(e.g)
	mux.Handle("/only/ticket", tickets.TicketHandler(func(*http.Request) (wsguard.Principal, error) { return wsguard.Principal{Subject: "alice"}, nil }))
	mux.Handle("/only/ws", tickets.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		_, msg, err := c.Read(ctx)
		if err == nil {
			refreshed <- c.Refresh(ctx, string(msg))
		}
		return err
	}))
	e.serve(mux)
	ticket := e.buy(header("Origin", long, "Authorization", "Bearer alice"))
	if _, res := e.redeem(ticket, header("Origin", long)); res.StatusCode != 101 {
		t.Errorf("status %d", res.StatusCode)
	}
	ticket = e.buy(header("Origin", long, "Authorization", "Bearer alice"))
	if _, res := e.redeem(ticket, header()); res.StatusCode != 401 {
		t.Errorf("status %d with another origin", res.StatusCode)
	}
	var bought [2]string
	for i := range bought {
		var answer struct{ Ticket string }
		if err := json.Unmarshal([]byte(body(t, e.request("POST", "/only/ticket", header("Origin", long)))), &answer); err != nil {
			t.Fatal(err)
		}
		bought[i] = answer.Ticket
	}
	c, res := e.tryWith(wstest.HandshakeOptions{Path: "/only/ws?ticket=" + bought[0], Header: header("Origin", long)})
	if res.StatusCode != 101 {
		t.Fatalf("status %d", res.StatusCode)
	}
	c.WriteFrame(wstest.Text(bought[1]))
	if err := <-refreshed; err != nil {
		t.Error(err)
	}
	wantClose(t, c, 1000, "")
	c.Close()
	eventually(t, "no slots held", func() bool { return tickets.Conns() == 0 })
}
