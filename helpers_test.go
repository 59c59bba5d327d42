package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

const appOrigin = "https://app.example.com"

// never is a rate that does not come back within a test.
const never = 1e-9

// env is a guard behind a server on TCP, and all that it reported.
type env struct {
	t      *testing.T
	g      *wsguard.Guard
	s      *wstest.Server
	events *eventLog
	log    *wstest.Log
}

// serveGuard serves cfg with an echo handler. When the test ends, every slot
// must be back; goroutines are the top-level test's to check, since those below
// it run at once.
func serveGuard(t *testing.T, cfg wsguard.Config) *env {
	t.Helper()
	return serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
}

func serveWith(t *testing.T, cfg wsguard.Config, handler func(*wsguard.Guard) http.Handler, opts ...func(*http.Server)) *env {
	t.Helper()
	e := newEnv(t, cfg)
	t.Cleanup(e.idle)
	e.s = wstest.Serve(t, handler(e.g), opts...)
	return e
}

// newEnv makes the guard. What cfg leaves open is what most tests want.
func newEnv(t *testing.T, cfg wsguard.Config) *env {
	t.Helper()
	e := &env{t: t, events: &eventLog{}, log: &wstest.Log{}}
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
		if hook != nil {
			hook(ev)
		}
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.g = g
	return e
}

// servePipe is serveWith in a bubble of synctest.
func servePipe(t *testing.T, cfg wsguard.Config, handler func(*wsguard.Guard) http.Handler) *env {
	t.Helper()
	e := newEnv(t, cfg)
	t.Cleanup(e.endBubble)
	e.s = wstest.ServePipe(t, handler(e.g))
	return e
}

// endBubble ends what a failed test has left open: a bubble that cannot end
// takes the other tests with it.
func (e *env) endBubble() {
	if e.t.Failed() {
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

func bearer(token string) http.Header { return header("Authorization", "Bearer "+token) }

// try makes a handshake on a connection of its own.
func (e *env) try(h http.Header) (*wstest.Client, *http.Response) {
	e.t.Helper()
	return e.tryWith(wstest.HandshakeOptions{Header: h})
}

func (e *env) tryWith(o wstest.HandshakeOptions) (*wstest.Client, *http.Response) {
	e.t.Helper()
	c := e.s.Dial(e.t)
	res, err := c.HandshakeWith(o)
	if err != nil {
		e.t.Fatalf("handshake: %v", err)
	}
	return c, res
}

// open is try for a handshake that must succeed.
func (e *env) open(h http.Header) *wstest.Client {
	e.t.Helper()
	c, res := e.try(h)
	if res.StatusCode != 101 {
		e.t.Fatalf("status %d, want 101; events:\n%s", res.StatusCode, e.events)
	}
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
func checkRefusal(t *testing.T, res *http.Response) {
	t.Helper()
	if !res.Close && res.ProtoMajor == 1 {
		t.Errorf("status %d without Connection: close", res.StatusCode)
	}
	if got := res.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("status %d: Cache-Control is %q, want no-store", res.StatusCode, got)
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

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// roundTrip checks that the connection echoes.
func roundTrip(t *testing.T, c *wstest.Client, text string) {
	t.Helper()
	if err := c.WriteFrame(wstest.Text(text)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := c.ReadMessage(); err != nil || string(got) != text {
		t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}

// wantClose reads until the close frame.
func wantClose(t *testing.T, c *wstest.Client, code int, reason string) {
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

// eventually waits for what another goroutine does without telling anybody.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not within 15 s: %s", what)
			return
		}
	}
}

// eventLog keeps events.
type eventLog struct {
	mu     sync.Mutex
	events []audit.Event
}

func (l *eventLog) add(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) all() []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func (l *eventLog) of(kind audit.Kind) []audit.Event {
	return slices.DeleteFunc(l.all(), func(e audit.Event) bool { return e.Kind != kind })
}

// wait returns the nth event of a kind, counted from 1.
func (l *eventLog) wait(t testing.TB, kind audit.Kind, n int) audit.Event {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events of kind %v", n, kind), func() bool { return len(l.of(kind)) >= n })
	if got := l.of(kind); len(got) >= n {
		return got[n-1]
	}
	return audit.Event{}
}

func (l *eventLog) String() string {
	var b strings.Builder
	all := l.all()
	for _, e := range all[max(0, len(all)-6):] {
		fmt.Fprintf(&b, "%v %d %s %q, client %s, subject %s\n", e.Kind, e.Status, e.Reason, e.Detail, e.Client, e.Subject)
	}
	return b.String()
}

// renderEvent is everything that a hook could put somewhere.
func renderEvent(e audit.Event) string {
	return fmt.Sprintf("%v id=%s subject=%s client=%s origin=%s host=%s reason=%s detail=%s status=%d code=%d err=%v %+v",
		e.Kind, e.ConnID, e.Subject, e.Client, e.Origin, e.Host, e.Reason, e.Detail, e.Status, e.Code, e.Err, e)
}

// tokens is a Verifier that knows alice, bob and carol, and every way to
// misbehave.
type tokens struct {
	calls   atomic.Int64
	entered chan string   // gets the token of each call that hangs
	release chan struct{} // ends the calls that ignore their context
	issued  time.Time
}

func newTokens() *tokens {
	return &tokens{entered: make(chan string, 1024), release: make(chan struct{})}
}

var errNoSuchToken = errors.New("no such token")

func (v *tokens) Verify(ctx context.Context, token string) (wsguard.Principal, error) {
	v.calls.Add(1)
	name, mode, _ := strings.Cut(token, "-")
	switch name {
	case "alice", "bob", "carol", "dave":
	case "unavailable":
		return wsguard.Principal{}, fmt.Errorf("store of %s: %w", token, wsguard.ErrUnavailable)
	case "panic":
		panic("verifier of " + token)
	case "nobody":
		return wsguard.Principal{}, nil
	case "expired":
		return wsguard.Principal{Subject: "alice", Expires: time.Now().Add(-time.Second)}, nil
	case "hang": // honours its context
		v.entered <- token
		<-ctx.Done()
		return wsguard.Principal{}, ctx.Err()
	case "stuck": // does not
		v.entered <- token
		<-v.release
		name = "alice"
	default:
		return wsguard.Principal{}, fmt.Errorf("%w: %s", errNoSuchToken, token)
	}
	p := wsguard.Principal{Subject: name, IssuedAt: v.issued}
	switch mode {
	case "stuck":
		v.entered <- token
		<-v.release
	case "short":
		p.Expires = time.Now().Add(time.Second)
	}
	return p, nil
}

// must are errors of a test's own set-up.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
