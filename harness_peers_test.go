package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

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
