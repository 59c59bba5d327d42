package wraptest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wraptest"
	"github.com/wsguard/wsguard/internal/wstest"
)

// How long a connection has to end. A bare handler gets what no attacker would
// call short; what is wrapped gets as much as a busy machine may need.
const (
	bareLimit    = 2 * time.Second
	wrappedLimit = 30 * time.Second
)

// Tokens that the guards of the tests know.
const (
	goodToken  = "alice"
	briefToken = "brief" // expires with its connection just open
	briefTime  = time.Second
)

// target is a handler of a library that is being served, bare or wrapped.
type target struct {
	lib      *library
	t        testing.TB
	origin   string // of the server
	addr     string
	guard    *wsguard.Guard // nil when bare
	http     *http.Server
	calls    atomic.Int64 // of the library's handler
	returned atomic.Int64
	limit    time.Duration
	stop     func()
}

// serve starts a server for the library's handler. The guard of a wrapped one
// allows what good clients do; change says what else.
func (l *library) serve(t testing.TB, wrapped bool, change func(*wsguard.Config)) *target {
	s := &target{lib: l, t: t, limit: bareLimit}
	srv := httptest.NewUnstartedServer(nil)
	s.addr = srv.Listener.Addr().String()
	s.origin = "http://" + s.addr
	s.http = srv.Config
	var panics panicLog // a bare x/net panics in some attacks
	s.http.ErrorLog = log.New(&panics, "", 0)
	if wrapped {
		s.limit = wrappedLimit
		s.guard = newGuard(t, s, change)
	}
	free := noStop
	if l.own != nil {
		s.http.Handler = l.own(s.guard)
	} else {
		var h http.Handler
		h, free = l.handler()
		s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.calls.Add(1)
			defer s.returned.Add(1)
			h.ServeHTTP(w, r)
		})
		if wrapped {
			s.http.Handler = wraptest.Wrap(s.guard, s.http.Handler)
		}
	}
	srv.Start()
	s.stop = func() {
		srv.Close()
		if s.guard != nil {
			ctx, cancel := context.WithTimeout(context.Background(), wrappedLimit)
			defer cancel()
			if err := s.guard.Shutdown(ctx); err != nil {
				t.Errorf("%s: shutdown: %v", l.name, err)
			}
			if n := s.guard.Conns(); n != 0 {
				t.Errorf("%s: %d slots are held at the end", l.name, n)
			}
			if s := panics.String(); s != "" {
				t.Errorf("%s: %s", l.name, s)
			}
		}
		if err := poll(wrappedLimit, func() error {
			if n := s.calls.Load() - s.returned.Load(); n != 0 {
				return fmt.Errorf("%s: %d handlers have not returned", l.name, n)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		free()
	}
	return s
}

// panicLog keeps what an http.Server logs of panics of its handlers.
type panicLog struct {
	mu   sync.Mutex
	text []byte
}

func (p *panicLog) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if bytes.Contains(b, []byte("panic")) {
		p.text = append(p.text, b...)
	}
	return len(b), nil
}

func (p *panicLog) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.text)
}

func newGuard(t testing.TB, s *target, change func(*wsguard.Config)) *wsguard.Guard {
	cfg := wsguard.Config{
		Origins:      []string{s.origin},
		Hosts:        []string{s.addr},
		Subprotocols: []string{s.lib.dialect.subprotocol},
		Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
			switch token {
			case goodToken:
				return wsguard.Principal{Subject: token}, nil
			case briefToken:
				return wsguard.Principal{Subject: token, Expires: time.Now().Add(briefTime)}, nil
			}
			return wsguard.Principal{}, wsguard.ErrUnauthenticated
		}},
		Logger: slog.New(slog.DiscardHandler),
	}
	off := wsguard.Rate{PerSecond: wsguard.Off}
	cfg.Rates.Handshakes = off
	cfg.Rates.MaxInFlightPerClient = wsguard.Off
	cfg.Rates.Messages = off
	cfg.Rates.Bytes = off
	cfg.Caps.MaxConnsPerSubject = 64
	cfg.Messages.MaxBytes = guardMaxBytes
	if change != nil {
		change(&cfg)
	}
	guard, err := wsguard.New(cfg)
	if err != nil {
		t.Error(err)
	}
	return guard
}

// guardMaxBytes is the size of the largest message that the guards of the
// tests let pass.
const guardMaxBytes = 96 << 10

// good returns what a good client sends to open a connection.
func (s *target) good() wstest.HandshakeOptions {
	h := http.Header{}
	h.Set("Origin", s.origin)
	h.Set("Authorization", "Bearer "+goodToken)
	h.Set("Sec-WebSocket-Protocol", s.lib.dialect.subprotocol)
	return wstest.HandshakeOptions{Host: s.addr, Header: h}
}

// session is a connection to a target.
type session struct {
	*wstest.Client
	target *target
	until  time.Time      // for all that it does
	res    *http.Response // to its handshake
}

// Write writes b as it is. One goroutine may write while another reads.
func (c *session) Write(b []byte) (int, error) {
	c.Conn().SetWriteDeadline(time.Now().Add(wrappedLimit))
	return c.Conn().Write(b)
}

// WriteFrame writes f in a single Write.
func (c *session) WriteFrame(f wstest.Frame) error {
	_, err := c.Write(wstest.AppendFrame(nil, f))
	return err
}

// dial connects.
func (s *target) dial() (*session, error) {
	conn, err := net.DialTimeout("tcp", s.addr, wrappedLimit)
	if err != nil {
		return nil, err
	}
	c := &session{Client: wstest.NewClient(s.t, conn), target: s}
	c.Timeout = wrappedLimit
	return c, nil
}

// open opens a connection as a good client does, greeting included. From then
// on the target's limit runs.
func (s *target) open() (*session, error) { return s.openBy(s.good()) }

func (s *target) openBy(o wstest.HandshakeOptions) (*session, error) {
	c, err := s.shake(o)
	if err != nil {
		return nil, err
	}
	if greet := s.lib.dialect.greet; greet != "" {
		if err = c.WriteFrame(wstest.Text(greet)); err == nil {
			_, _, err = c.ReadMessage()
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("the greeting: %w", err)
		}
	}
	c.until = time.Now().Add(s.limit)
	return c, nil
}

// shake is openBy without the greeting.
func (s *target) shake(o wstest.HandshakeOptions) (*session, error) {
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	c.res, err = c.HandshakeWith(o)
	if err == nil && c.res.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("status %d", c.res.StatusCode)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("the handshake: %w", err)
	}
	c.until = time.Now().Add(s.limit)
	return c, nil
}

// next returns the next text that the handler sends, before c.until.
func (c *session) next() (string, error) {
	for {
		c.Timeout = max(time.Until(c.until), time.Nanosecond)
		_, msg, err := c.ReadMessage()
		if err != nil {
			return "", err
		}
		if text, ok := c.target.lib.dialect.heard(string(msg)); ok {
			return text, nil
		}
	}
}

// ask says a text and waits for its echo.
func (c *session) ask(text string) error {
	err := c.WriteFrame(wstest.Text(c.target.lib.dialect.say(0, text)))
	if err != nil {
		return err
	}
	got, err := c.next()
	if err == nil && got != text {
		err = fmt.Errorf("got %q, want %q", got, text)
	}
	return err
}

// end reads to the end of the connection. It returns the close code, 0 if no
// close frame came, and the texts that came before. It is an error when the
// connection does not end.
func (c *session) end() (code int, texts []string, err error) {
	for {
		text, err := c.next()
		if err == nil {
			texts = append(texts, text)
			continue
		}
		var closed *wstest.CloseError
		switch {
		case errors.As(err, &closed):
			return closed.Code, texts, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, texts, errors.New("the connection stays open")
		case errors.Is(err, wstest.ErrProtocol):
			return 0, texts, err
		}
		return 0, texts, nil
	}
}

// emptied waits until a wrapped target holds no connection any more.
func (s *target) emptied() error {
	if s.guard == nil {
		return nil
	}
	return poll(wrappedLimit, func() error {
		if n := s.guard.Conns(); n != 0 {
			return fmt.Errorf("%d slots are held after the end", n)
		}
		return nil
	})
}

// poll calls f until it returns nil, for at most limit.
func poll(limit time.Duration, f func() error) error {
	until := time.Now().Add(limit)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(until) {
			return err
		}
		time.Sleep(wait)
	}
}
