package wsguard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
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

// This is the harness of the root's tests. A test makes an env, which is a guard, its server,
// and all that the guard reported. The smallest tests over TCP, in a bubble of synctest, and
// with a wrapped handler that the test plays are:
//
//	e := serveGuard(t, wsguard.Config{}) // an echo on 127.0.0.1
//	roundTrip(t, e.open(header()), "hello")
//
//	bubble(t, func(t *testing.T) { // the same code: in a bubble, the server is a pipe
//		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) { cfg.Messages.MaxBytes = 9 }))
//		c := e.open(bearer("alice")) // waits as long as it takes, because that costs nothing
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
// A handler of one's own goes between newEnv and serve: e := newEnv(t, cfg);
// e.serve(e.g.Handler(func…)). When a test ends, every slot must be back. Goroutines are for
// the test itself to check, with wstest.CheckGoroutines, because subtests run at once.

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
}

// newEnv makes the guard. What cfg leaves open is what most tests want.
func newEnv(t testing.TB, cfg wsguard.Config) *env {
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

// anyToken authenticates "Bearer NAME" as NAME.
func anyToken(cfg *wsguard.Config) {
	cfg.Auth = wsguard.AuthConfig{Verifier: wsguard.Verifier(func(_ context.Context, token string) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: token}, nil
	})}
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
	return c
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

// opened waits for the next open event.
func (e *env) opened() audit.Event {
	e.t.Helper()
	return e.events.next(e.t, audit.Open)
}

// closed waits for the next close event.
func (e *env) closed() audit.Event {
	e.t.Helper()
	return e.events.next(e.t, audit.Close)
}

// ids are the connections that were opened, in this order.
func (e *env) ids() (ids []string) {
	for _, ev := range e.events.of(audit.Open) {
		ids = append(ids, ev.ConnID)
	}
	return ids
}

// wantEachOnce checks that each connection was reported open and then closed, once.
func (e *env) wantEachOnce() {
	e.t.Helper()
	opened, closed, order := map[string]int{}, map[string]int{}, 0
	for _, ev := range e.events.all() {
		switch ev.Kind {
		case audit.Open:
			opened[ev.ConnID]++
			if closed[ev.ConnID] > 0 {
				order++
			}
		case audit.Close:
			closed[ev.ConnID]++
		}
	}
	for id, n := range opened {
		if n != 1 || closed[id] != 1 {
			e.t.Errorf("%s: opened %d times, closed %d times", id, n, closed[id])
		}
	}
	if order > 0 {
		e.t.Errorf("%d connections were reported closed before they were reported open", order)
	}
}

// eventLog keeps events. Its methods may be called from any goroutine.
type eventLog struct {
	mu     sync.Mutex
	events []audit.Event
	taken  map[audit.Kind]int // how many events of a kind next has returned
	more   chan struct{}      // closed by the next event; nil while nobody waits
}

func (l *eventLog) add(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

func (l *eventLog) all() []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func (l *eventLog) of(kind audit.Kind) (events []audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.events {
		if l.events[i].Kind == kind {
			events = append(events, l.events[i])
		}
	}
	return events
}

// wait returns the nth event of a kind, counted from 1, when it has come.
func (l *eventLog) wait(t testing.TB, kind audit.Kind, n int) audit.Event {
	t.Helper()
	for timeout := time.After(patience()); ; {
		l.mu.Lock()
		left := n
		for i := range l.events {
			if l.events[i].Kind == kind {
				if left--; left == 0 {
					defer l.mu.Unlock()
					return l.events[i]
				}
			}
		}
		if l.more == nil {
			l.more = make(chan struct{})
		}
		more := l.more
		l.mu.Unlock()
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no event %d of kind %v; events:\n%s", n, kind, l)
		}
	}
}

// next waits for the first event of a kind that it has not yet returned.
func (l *eventLog) next(t testing.TB, kind audit.Kind) audit.Event {
	t.Helper()
	l.mu.Lock()
	if l.taken == nil {
		l.taken = map[audit.Kind]int{}
	}
	l.taken[kind]++
	n := l.taken[kind]
	l.mu.Unlock()
	return l.wait(t, kind, n)
}

// skip makes next wait for an event of a kind that is still to come.
func (l *eventLog) skip(kind audit.Kind) {
	n := len(l.of(kind))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken == nil {
		l.taken = map[audit.Kind]int{}
	}
	l.taken[kind] = n
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

// handlerEnd is what a handler saw of the end of its connection.
type handlerEnd struct{ read, write, cause error }

// probe is an echo that tells how its connection ended.
func probe(endings chan<- handlerEnd) func(context.Context, *wsguard.Conn) error {
	return func(ctx context.Context, c *wsguard.Conn) error {
		err := echo(ctx, c)
		endings <- handlerEnded(ctx, c, err)
		return err
	}
}

func handlerEnded(ctx context.Context, c *wsguard.Conn, _ error) handlerEnd {
	<-ctx.Done()
	_, _, read := c.Read(context.Background())
	return handlerEnd{read, c.Write(context.Background(), wsguard.MessageText, []byte("late")), context.Cause(ctx)}
}

// check compares the views that the server's side has of one end.
func (e handlerEnd) check(t testing.TB, ev audit.Event, code wsguard.StatusCode, sentinel error, remote bool) {
	t.Helper()
	for name, err := range map[string]error{"Read": e.read, "Write": e.write, "context.Cause": e.cause, "the event": ev.Err} {
		var ce *wsguard.CloseError
		if !errors.As(err, &ce) || ce.Code != code || ce.Remote != remote || !errors.Is(err, sentinel) {
			t.Errorf("%s says %#v, want code %d, remote %t, %v", name, err, code, remote, sentinel)
			continue
		}
		if want := remote && (code == 1000 || code == 1001); errors.Is(err, io.EOF) != want {
			t.Errorf("%s is io.EOF: %t", name, !want)
		}
	}
	if ev.Code != code || ev.Remote != remote {
		t.Errorf("the event says %d, remote %t; want %d, %t", ev.Code, ev.Remote, code, remote)
	}
}

// fragment is a client's data frame that may be a part of a message.
func fragment(op byte, fin bool, payload []byte) []byte {
	return wstest.AppendFrame(nil, wstest.Frame{Opcode: op, Fin: fin, Masked: true, Mask: [4]byte{0x5a, byte(rand.N(256)), 3, 0}, Payload: payload})
}

// fragments cuts a message into frames at random, some of them empty.
func fragments(op byte, msg []byte, most int) (frames [][]byte) {
	for n := rand.N(most); n > 0; n-- {
		k := 0
		if rand.N(3) > 0 {
			k = rand.N(len(msg) + 1)
		}
		frames = append(frames, fragment(op, false, msg[:k]))
		op, msg = wstest.OpContinuation, msg[k:]
	}
	return append(frames, fragment(op, true, msg))
}

// browsed reads like a browser: it answers pings, keeps messages, and stops
// at a close frame, which it answers, or at the end.
type browsed struct {
	code    int // 1006: none came
	reason  string
	texts   []string
	pings   []time.Time
	codedAt time.Time
}

func browse(c *wstest.Client) <-chan browsed {
	done := make(chan browsed, 1)
	go func() {
		a := browsed{code: 1006}
		defer func() { a.codedAt = time.Now(); c.Close(); done <- a }()
		for {
			f, err := c.ReadFrame()
			if err != nil {
				return
			}
			switch f.Opcode {
			case wstest.OpText:
				a.texts = append(a.texts, string(f.Payload))
			case wstest.OpPing:
				a.pings = append(a.pings, time.Now())
				c.WriteFrame(wstest.Pong(f.Payload))
			case wstest.OpClose:
				a.code = 1005
				if len(f.Payload) >= 2 {
					a.code, a.reason = int(f.Payload[0])<<8|int(f.Payload[1]), string(f.Payload[2:])
				}
				c.WriteFrame(wstest.CloseFrame(a.code, ""))
				return
			}
		}
	}()
	return done
}

// raceDetector reports whether the race detector is on: a sync.Pool then drops
// things at random.
func raceDetector() bool {
	pool := sync.Pool{New: func() any { return new([64]byte) }}
	return testing.AllocsPerRun(1, func() {
		for range 1000 {
			pool.Put(pool.Get())
		}
	}) > 50
}

// plainListener is a listener as most around another are: what it accepts shows
// no more than a net.Conn, and cannot be half closed.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

func listenTCP() net.Listener { return must(net.Listen("tcp", "127.0.0.1:0")) }

// sockets are what a server can listen on.
var sockets = map[string]func(testing.TB, http.Handler, ...func(*http.Server)) *wstest.Server{
	"TCP": wstest.Serve, "TLS": wstest.ServeTLS,
	"a listener around it": func(t testing.TB, h http.Handler, opts ...func(*http.Server)) *wstest.Server {
		return wstest.ServeListener(t, plainListener{listenTCP()}, h, opts...)
	},
}
