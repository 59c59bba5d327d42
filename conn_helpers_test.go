package wsguard_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

const connOrigin = "https://app.example.com"

// connEvents keeps what a guard reports.
type connEvents struct {
	t        testing.TB
	patience time.Duration
	closes   chan audit.Event
	opens    chan struct{}

	mu  sync.Mutex
	all []audit.Event
}

func (e *connEvents) hook(ev audit.Event) {
	e.mu.Lock()
	e.all = append(e.all, ev)
	e.mu.Unlock()
	switch ev.Kind {
	case audit.Open:
		select {
		case e.opens <- struct{}{}:
		default:
		}
	case audit.Close:
		select {
		case e.closes <- ev:
		default:
		}
	}
}

// closed waits for the next close event.
func (e *connEvents) closed() audit.Event {
	e.t.Helper()
	select {
	case ev := <-e.closes:
		return ev
	case <-time.After(e.patience):
		e.t.Fatal("no close event")
		panic("unreachable")
	}
}

func (e *connEvents) of(kind audit.Kind) (evs []audit.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Kind == kind {
			evs = append(evs, ev)
		}
	}
	return evs
}

// opened waits for the next open event.
func (e *connEvents) opened() {
	e.t.Helper()
	select {
	case <-e.opens:
	case <-time.After(e.patience):
		e.t.Fatal("no open event")
	}
}

// connPatience is for bubbles, where waiting costs nothing.
const connPatience = 1000 * time.Hour

// connGuard returns a guard that admits everybody with connOrigin, and what it
// reports.
func connGuard(t testing.TB, change func(*wsguard.Config)) (*wsguard.Guard, *connEvents) {
	t.Helper()
	ev := &connEvents{t: t, patience: 20 * time.Second, opens: make(chan struct{}, 4096), closes: make(chan audit.Event, 4096)}
	cfg := wsguard.Config{
		Origins: []string{connOrigin},
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
		Caps:    wsguard.CapConfig{MaxConnsPerClient: wsguard.Off},
		Rates:   wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}, MaxInFlightPerClient: wsguard.Off},
		Logger:  slog.New(slog.DiscardHandler),
		OnEvent: ev.hook,
	}
	if change != nil {
		change(&cfg)
	}
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g, ev
}

// connNoRates switches the message and byte rates off.
func connNoRates(cfg *wsguard.Config) {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	r := &cfg.Rates
	r.Messages, r.Bytes, r.ClientMessages, r.ClientBytes, r.SubjectMessages, r.SubjectBytes = off, off, off, off, off, off
}

// connPatient is for tests in real time that are not about it: on a machine that
// has more to do than it can, what takes milliseconds takes seconds, and a client
// that answers no ping is there for longer than a pong may take.
func connPatient(cfg *wsguard.Config) {
	cfg.Messages.Timeout = time.Minute
	h := &cfg.Timeouts
	h.PingInterval, h.CloseGrace, h.Linger = wsguard.Off, time.Minute, time.Minute
}

// connTokens authenticates "Bearer NAME" as NAME.
func connTokens(cfg *wsguard.Config) {
	cfg.Auth = wsguard.AuthConfig{Verifier: wsguard.Verifier(func(_ context.Context, token string) (wsguard.Principal, error) {
		return wsguard.Principal{Subject: token}, nil
	})}
	cfg.Caps.MaxConnsPerSubject = wsguard.Off
}

func connHeader(token string) http.Header {
	h := http.Header{"Origin": {connOrigin}}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h
}

// connDial opens a guarded connection.
func connDial(t testing.TB, s *wstest.Server, token string) *wstest.Client {
	t.Helper()
	c := s.Dial(t)
	connUpgrade(t, c, token)
	return c
}

func connUpgrade(t testing.TB, c *wstest.Client, token string) {
	t.Helper()
	res, err := c.Handshake("/", connHeader(token))
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v %v", res, err)
	}
}

// connGone waits until no slot is held.
func connGone(t testing.TB, g *wsguard.Guard) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); g.Conns() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d slots are still held", g.Conns())
		}
	}
}

// connWantClose reads until the close frame.
func connWantClose(t testing.TB, c *wstest.Client, code int, reason string) {
	t.Helper()
	got, why, err := c.ReadClose()
	if err != nil || got != code || why != reason {
		t.Fatalf("close frame %d %q, error %v; want %d %q", got, why, err, code, reason)
	}
}

// connWantEcho sends a message and expects it back.
func connWantEcho(t testing.TB, c *wstest.Client, msg string) {
	t.Helper()
	if err := c.WriteFrame(wstest.Text(msg)); err != nil {
		t.Fatal(err)
	}
	connWantMessage(t, c, msg)
}

func connWantMessage(t testing.TB, c *wstest.Client, msg string) {
	t.Helper()
	_, p, err := c.ReadMessage()
	if err != nil || string(p) != msg {
		t.Fatalf("message %.80q, error %v; want %.80q", p, err, msg)
	}
}

// connEnding is what a handler saw of the end of its connection.
type connEnding struct{ read, write, cause error }

// connProbe is an echo that tells how its connection ended.
func connProbe(endings chan<- connEnding) func(context.Context, *wsguard.Conn) error {
	return func(ctx context.Context, c *wsguard.Conn) error {
		err := echo(ctx, c)
		endings <- connEnded(ctx, c, err)
		return err
	}
}

func connEnded(ctx context.Context, c *wsguard.Conn, _ error) connEnding {
	<-ctx.Done()
	_, _, read := c.Read(context.Background())
	return connEnding{read, c.Write(context.Background(), wsguard.MessageText, []byte("late")), context.Cause(ctx)}
}

// check compares the views that the server's side has of one end.
func (e connEnding) check(t testing.TB, ev audit.Event, code wsguard.StatusCode, sentinel error, remote bool) {
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

// connFrame is a client's data frame that may be a part of a message.
func connFrame(op byte, fin bool, payload []byte) []byte {
	return wstest.AppendFrame(nil, wstest.Frame{Opcode: op, Fin: fin, Masked: true, Mask: [4]byte{0x5a, byte(rand.N(256)), 3, 0}, Payload: payload})
}

// connSplit cuts a message into frames at random, some of them empty.
func connSplit(op byte, msg []byte, most int) (frames [][]byte) {
	for n := rand.N(most); n > 0; n-- {
		k := 0
		if rand.N(3) > 0 {
			k = rand.N(len(msg) + 1)
		}
		frames = append(frames, connFrame(op, false, msg[:k]))
		op, msg = wstest.OpContinuation, msg[k:]
	}
	return append(frames, connFrame(op, true, msg))
}

// connAnswer reads like a browser: it answers pings, keeps messages, and stops
// at a close frame, which it answers, or at the end.
type connAnswer struct {
	code    int // 1006: none came
	reason  string
	texts   []string
	pings   []time.Time
	codedAt time.Time
}

func connBrowse(c *wstest.Client) <-chan connAnswer {
	done := make(chan connAnswer, 1)
	go func() {
		a := connAnswer{code: 1006}
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

// connRace reports whether the race detector is on: a sync.Pool then drops
// things at random.
func connRace() bool {
	pool := sync.Pool{New: func() any { return new([64]byte) }}
	return testing.AllocsPerRun(1, func() {
		for range 1000 {
			pool.Put(pool.Get())
		}
	}) > 50
}

// connBubble is synctest.Test with time for everything to end in: time stands
// still in a bubble once its first function has returned.
func connBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // runs last
		f(t)
	})
}

// connSettled ends a client's connection and forgets what was reported of it.
func connSettled(t testing.TB, g *wsguard.Guard, ev *connEvents, c *wstest.Client) {
	t.Helper()
	c.Close()
	connGone(t, g)
	for len(ev.closes) > 0 {
		<-ev.closes
	}
}

// connWrapped is a listener as most around another are: what it accepts shows
// no more than a net.Conn, and cannot be half closed.
type connWrapped struct{ net.Listener }

func (l connWrapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

// connServeWrapped is wstest.Serve behind a connWrapped.
func connServeWrapped(t testing.TB, h http.Handler, opts ...func(*http.Server)) *wstest.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return wstest.ServeListener(t, connWrapped{l}, h, opts...)
}
