// This is the harness of the root's tests. A test makes an env, which is a guard, its server,
// and all that the guard reported. The smallest tests over TCP, in a bubble of synctest, and
// with a wrapped handler that the test plays are:
//
//	e := serveGuard(t, wsguard.Config{}) // an echo on 127.0.0.1
//	roundTrip(t, e.open(header()), "hello")
//
//	bubble(t, func(t *testing.T) { // in a bubble the server is a pipe, and waiting costs nothing
//		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) { cfg.Messages.MaxBytes = 9 }))
//		c := e.open(header())
//		c.WriteFrame(wstest.Text("0123456789"))
//		wantClose(t, c, 1009, "message_too_big")
//		if ev := e.closed(); ev.Reason != "message_too_big" { … } // the next close event
//	})
//
//	bubble(t, func(t *testing.T) {
//		e, c, s := wrapOpen(t, conf(noPings)) // s is what Hijack returned, and has answered 101
//		s.send(t, fromServer(wstest.OpText, "hello"))
//		wantMessage(t, c, "hello")
//	})
//
// For a handler of its own, a test calls e := newEnv(t, cfg), and then e.serve(e.g.Handler(…)).
// When a test ends, every slot must be back. A test that runs alone also calls
// wstest.CheckGoroutines. The other files of the harness are harness_events_test.go,
// harness_peers_test.go for clients, verifiers and listeners, and harness_wrap_test.go.

package wsguard_test

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// TestMain lets more subtests run at once than there are processors, since most that do wait
// for something. The flag -parallel is stronger.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "8")
	os.Exit(m.Run())
}

// long skips a test that takes half a second or more, in the inner loop.
func long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves this out, because it takes long")
	}
}

// bothDoors is for a slow test that chooses its doors by itself. It skips the test where the others run
// through the second door.
func bothDoors(t testing.TB) {
	t.Helper()
	if os.Getenv("WSGUARD_DOOR") == "wrap" {
		t.Skip("runs without WSGUARD_DOOR")
	}
}

// rounds is how often a test of a race repeats: less often in the inner loop.
func rounds(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}

const appOrigin = "https://app.example.com"

// never is a rate that does not come back within a test.
const never = 1e-9

// env is a guard, its server, and all that it reported.
type env struct {
	t      testing.TB
	g      *wsguard.Guard
	cfg    wsguard.Config // what g was made of, for Reconfigure
	s      *wstest.Server // nil until serve
	events *eventLog
	log    *wstest.Log

	asked    *atomic.Uint64 // the handshakes whose 101 has come
	answered *atomic.Uint64 // those that the guard has reported
}

// newEnv makes the guard. What cfg leaves open is what most tests want.
func newEnv(t testing.TB, cfg wsguard.Config) *env {
	t.Helper()
	e := &env{t: t, events: &eventLog{}, log: &wstest.Log{}, asked: &atomic.Uint64{}, answered: &atomic.Uint64{}}
	if len(cfg.Origins) == 0 && !cfg.AllowMissingOrigin {
		cfg.Origins = []string{appOrigin}
	}
	if cfg.Auth.Verifier == nil && cfg.Auth.Tickets == nil && cfg.Auth.Authenticate == nil {
		cfg.Auth.InsecureAnonymous = true
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(e.log)
	}
	hook := cfg.OnEvent
	cfg.OnEvent = func(ev audit.Event) {
		e.events.add(ev)
		if ev.Kind == audit.Accepted || ev.Kind == audit.Refusal && ev.Status == http.StatusSwitchingProtocols {
			e.answered.Add(1)
		}
		if hook != nil {
			hook(ev)
		}
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.g, e.cfg = g, cfg
	t.Cleanup(e.end)
	return e
}

// serveGuard serves cfg with an echo handler.
func serveGuard(t testing.TB, cfg wsguard.Config, opts ...func(*http.Server)) *env {
	t.Helper()
	e := newEnv(t, cfg)
	e.serve(echoDoor(e.g), opts...)
	return e
}

func serveWith(t testing.TB, cfg wsguard.Config, handler func(*wsguard.Guard) http.Handler, opts ...func(*http.Server)) *env {
	t.Helper()
	e := newEnv(t, cfg)
	e.serve(handler(e.g), opts...)
	return e
}

// serve starts the server: over TCP, or over a pipe in a bubble.
func (e *env) serve(h http.Handler, opts ...func(*http.Server)) {
	e.t.Helper()
	if inBubble() {
		e.serveOn(wstest.NewListener(wstest.PipeOptions{}), h, opts...)
	} else {
		e.s = wstest.Serve(e.t, h, opts...)
	}
}

func (e *env) serveTLS(h http.Handler, opts ...func(*http.Server)) {
	e.t.Helper()
	e.s = wstest.ServeTLS(e.t, h, opts...)
}

func (e *env) serveOn(l net.Listener, h http.Handler, opts ...func(*http.Server)) {
	e.t.Helper()
	e.s = wstest.ServeListener(e.t, l, h, opts...)
}

// reconfigure changes the Config of the guard, which must be a good one.
func (e *env) reconfigure(cfg wsguard.Config) {
	e.t.Helper()
	if err := e.g.Reconfigure(cfg); err != nil {
		e.t.Fatal(err)
	}
}

// in returns e for a subtest, which fails by itself.
func (e *env) in(t testing.TB) *env {
	sub := *e
	sub.t = t
	return &sub
}

// end checks at the end of a test that nothing is held. It ends what a failed test has
// left open, because a bubble that cannot end takes the other tests with it.
func (e *env) end() {
	if e.t.Failed() && inBubble() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.g.Shutdown(ctx)
	}
	e.idle()
}

// idle waits until no slot is held.
func (e *env) idle() {
	e.t.Helper()
	eventually(e.t, "no slots held", func() bool { return e.g.Conns() == 0 })
}

// bubble is synctest.Test with time for everything to end in, because time stands still in a
// bubble once its first function has returned. A test that shows that everything ends at once
// calls synctest.Test itself.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // runs last
		f(t)
	})
}

// inBubble reports whether the caller is in a bubble, whose clock starts in the year 2000.
func inBubble() bool { return time.Now().Year() < 2020 }

// patience is how long a test waits for what must come: in a bubble, where that costs
// nothing, for longer than any timeout of a guard.
func patience() time.Duration {
	if inBubble() {
		return 1000 * time.Hour
	}
	return 30 * time.Second
}

// eventually waits for what another goroutine does without telling anybody.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not within 30 s: %s", what)
			return
		}
	}
}

// conf returns the Config that changes make of the zero Config, one after the other.
func conf(changes ...func(*wsguard.Config)) (cfg wsguard.Config) {
	for _, change := range changes {
		if change != nil {
			change(&cfg)
		}
	}
	return cfg
}

// noHandshakeLimits admits as many connections of one client as a test opens, as fast as it
// opens them. A test with more than a few connections needs that, because all of them come
// from one address.
func noHandshakeLimits(cfg *wsguard.Config) {
	cfg.Caps.MaxConnsPerClient = wsguard.Off
	cfg.Rates.Handshakes.PerSecond = wsguard.Off
	cfg.Rates.MaxInFlightPerClient = wsguard.Off
}

// noRates switches the message and byte rates off.
func noRates(cfg *wsguard.Config) {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	r := &cfg.Rates
	r.Messages, r.Bytes, r.ClientMessages, r.ClientBytes, r.SubjectMessages, r.SubjectBytes = off, off, off, off, off, off
}

// noPings switches the guard's pings off.
func noPings(cfg *wsguard.Config) { cfg.Timeouts.PingInterval = wsguard.Off }

// patient is for tests in real time that are not about time. On a machine that has more to
// do than it can, what takes milliseconds takes seconds, and a client that answers no ping
// is there for longer than a pong may take.
func patient(cfg *wsguard.Config) {
	noPings(cfg)
	cfg.Messages.Timeout, cfg.Timeouts.CloseGrace, cfg.Timeouts.Linger = time.Minute, time.Minute, time.Minute
}

// anyone accepts every token as the name of its owner.
func anyone(_ context.Context, token string) (wsguard.Principal, error) {
	return wsguard.Principal{Subject: token}, nil
}

// anyToken lets everybody in by a name, with as many connections as wanted.
func anyToken(cfg *wsguard.Config) {
	cfg.Auth = wsguard.AuthConfig{Verifier: anyone}
	cfg.Caps.MaxConnsPerSubject = wsguard.Off
}

// header builds the header of a handshake, with the listed Origin. An empty
// value removes a name; a name that comes again adds a line.
func header(kv ...string) http.Header {
	h := http.Header{"Origin": {appOrigin}}
	own := map[string]bool{}
	for i := 0; i < len(kv); i += 2 {
		if !own[kv[i]] {
			own[kv[i]] = true
			h[kv[i]] = nil
		}
		if kv[i+1] != "" {
			h[kv[i]] = append(h[kv[i]], kv[i+1])
		}
	}
	return h
}

// bearer is header with a token, unless that is empty.
func bearer(token string) http.Header {
	if token == "" {
		return header()
	}
	return header("Authorization", "Bearer "+token)
}

// dial connects without a handshake.
func (e *env) dial() *wstest.Client {
	e.t.Helper()
	c := e.s.Dial(e.t)
	if inBubble() {
		c.Timeout = patience()
	}
	c.Upgraded = e.registered
	return c
}

// registered waits until the guard has the connections whose 101 has come. net/http sends the 101 a
// moment before the guard has the connection, so that a client may be faster.
func (e *env) registered() {
	asked := e.asked.Add(1)
	for range 10_000 { // another guard may have answered
		if e.answered.Load() >= asked {
			return
		}
		runtime.Gosched()
		if !inBubble() {
			time.Sleep(10 * time.Microsecond)
		}
	}
}

// upgrade makes a handshake on c, which must succeed.
func (e *env) upgrade(c *wstest.Client, h http.Header) {
	e.t.Helper()
	if res, err := c.Handshake("/", h); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		e.t.Fatalf("handshake: %v %v; events:\n%s", res, err, e.events)
	}
}

// try makes a handshake on a connection of its own.
func (e *env) try(h http.Header) (*wstest.Client, *http.Response) {
	e.t.Helper()
	return e.tryWith(wstest.HandshakeOptions{Header: h})
}

func (e *env) tryWith(o wstest.HandshakeOptions) (*wstest.Client, *http.Response) {
	e.t.Helper()
	c := e.dial()
	res, err := c.HandshakeWith(o)
	if err != nil {
		e.t.Fatalf("handshake: %v", err)
	}
	return c, res
}

// open is try for a handshake that must succeed.
func (e *env) open(h http.Header) *wstest.Client {
	e.t.Helper()
	c := e.dial()
	e.upgrade(c, h)
	return c
}

// refused is try for a handshake that must be refused, and closes it.
func (e *env) refused(h http.Header, status int, reason string) *http.Response {
	e.t.Helper()
	return e.refusedWith(wstest.HandshakeOptions{Header: h}, status, reason)
}

func (e *env) refusedWith(o wstest.HandshakeOptions, status int, reason string) *http.Response {
	e.t.Helper()
	before := len(e.events.of(audit.Refusal))
	c, res := e.tryWith(o)
	defer c.Close()
	if res.StatusCode != status {
		e.t.Errorf("status %d, want %d %s; events:\n%s", res.StatusCode, status, reason, e.events)
		return res
	}
	checkRefusal(e.t, res)
	// The response goes out when the handler returns, the event before.
	got := e.events.of(audit.Refusal)[before:]
	if len(got) != 1 {
		e.t.Errorf("%d refusal events for one refusal: %v", len(got), got)
	} else if got[0].Reason != reason || got[0].Status != status {
		e.t.Errorf("event %d %s, want %d %s", got[0].Status, got[0].Reason, status, reason)
	}
	return res
}

// checkRefusal checks what every refusal has.
func checkRefusal(t testing.TB, res *http.Response) {
	t.Helper()
	if !res.Close && res.ProtoMajor == 1 {
		t.Errorf("status %d without Connection: close", res.StatusCode)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("status %d: Cache-Control is %q, want no-store", res.StatusCode, got)
	}
	if got := res.Header.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("status %d: Content-Type is %q", res.StatusCode, got)
	}
	for name := range res.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("status %d has the header %s", res.StatusCode, name)
		}
	}
	if b := body(t, res); !strings.HasPrefix(b, http.StatusText(res.StatusCode)+": ") {
		t.Errorf("status %d: body %q", res.StatusCode, b)
	}
	switch res.StatusCode {
	case 429, 503:
		if ra := res.Header.Get("Retry-After"); ra == "" || strings.Trim(ra, "0123456789") != "" || ra == "0" {
			t.Errorf("status %d: Retry-After is %q", res.StatusCode, ra)
		}
	case 401:
		if res.Header.Get("WWW-Authenticate") == "" {
			t.Error("401 without WWW-Authenticate")
		}
	}
}

func body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// roundTrip checks that the connection echoes.
func roundTrip(t testing.TB, c *wstest.Client, text string) {
	t.Helper()
	if err := c.WriteFrame(wstest.Text(text)); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, c, text)
}

func wantMessage(t testing.TB, c *wstest.Client, text string) {
	t.Helper()
	if _, got, err := c.ReadMessage(); err != nil || string(got) != text {
		t.Fatalf("message %.80q, %v; want %.80q", got, err, text)
	}
}

// wantClose reads until the close frame.
func wantClose(t testing.TB, c *wstest.Client, code int, reason string) {
	t.Helper()
	got, why, err := c.ReadClose()
	if err != nil || got != code || why != reason {
		t.Errorf("closed with %d %q, %v; want %d %q", got, why, err, code, reason)
	}
}

// bye ends a connection from the client's side.
func bye(c *wstest.Client) {
	c.WriteFrame(wstest.CloseFrame(1000, ""))
	c.ReadClose()
	c.Close()
}

// settle ends a client's connection and forgets the close events so far.
func (e *env) settle(c *wstest.Client) {
	e.t.Helper()
	c.Close()
	e.idle()
	e.events.skip(audit.Close)
}
