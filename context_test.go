package wsguard_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// flood pings and reads nothing, until the connection has ended.
func flood(c *wstest.Client) {
	b := wstest.AppendFrame(nil, wstest.Ping([]byte("are you there")))
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// flooded has a write timeout so long that a call that waits for it cannot be mistaken for a slow
// machine.
func flooded(cfg *wsguard.Config) {
	cfg.Timeouts.Write = 20 * time.Second
	cfg.Messages.ControlFrames = wsguard.Rate{PerSecond: wsguard.Off}
}

// keepDeadlines calls write until it fails, and read meanwhile, and read three more times when the
// socket is full. It fails the test if a call returns long after the deadline that it was given.
func keepDeadlines(t *testing.T, read, write func(deadline time.Time) error) {
	const timeout, slack = 200 * time.Millisecond, 5 * time.Second
	timed := func(what string, f func(time.Time) error) bool {
		start := time.Now()
		err := f(start.Add(timeout))
		if d := time.Since(start); d > timeout+slack {
			t.Errorf("%s returned %v after %v", what, err, d)
		}
		return err == nil
	}
	full := make(chan struct{})
	go func() {
		defer close(full)
		for timed("Write", write) {
		}
	}()
	for n := 0; n < 3; {
		timed("Read", read)
		select {
		case <-full:
			n++
		default:
		}
	}
}

// A peer that sends pings and takes no pongs makes no call outlive its context.
func TestCallsKeepTheirContexts(t *testing.T) {
	long(t)
	bothDoors(t)
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, conf(noRates, noPings, flooded))
			done := make(chan struct{})
			e.serveTransport(name, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				defer close(done)
				keepDeadlines(t, func(by time.Time) error {
					ctx, cancel := context.WithDeadline(context.Background(), by)
					defer cancel()
					_, _, err := c.Read(ctx)
					return err
				}, func(by time.Time) error {
					ctx, cancel := context.WithDeadline(context.Background(), by)
					defer cancel()
					return c.Write(ctx, wsguard.MessageText, make([]byte, 1000))
				})
				return nil
			}))
			c := e.open(header())
			go flood(c)
			<-done
			c.Close()
		})
	}
}

// The write timeout is the connection's: calls that wait for a peer that takes nothing share it.
func TestWritersShareTheirTimeout(t *testing.T) {
	long(t)
	bothDoors(t)
	const writeTimeout, writers = time.Second, 30
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, conf(noRates, noPings, func(cfg *wsguard.Config) { cfg.Timeouts.Write = writeTimeout }))
			results := make(chan error, writers)
			took := make(chan time.Duration, 1)
			e.serveTransport(name, e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				start := time.Now()
				for range writers {
					go func() { results <- c.Write(context.Background(), wsguard.MessageText, make([]byte, 1<<20)) }()
				}
				<-ctx.Done()
				took <- time.Since(start)
				return nil
			}))
			c := e.open(header())
			// With a time for each writer it would be half a minute.
			if d := <-took; d > 10*writeTimeout {
				t.Errorf("the connection ended after %v", d)
			}
			failed, last := 0, error(nil)
			for range writers {
				if last = <-results; errors.Is(last, reason.WriteTimeout) {
					failed++
				}
			}
			if failed == 0 {
				t.Error("no writer has failed by the timeout; the last: ", last)
			}
			c.Close()
		})
	}
}

// The deadlines of a wrapped handler end its calls too, while pongs wait for a peer that takes none.
func TestWrapCallsKeepTheirDeadlines(t *testing.T) {
	long(t)
	bothDoors(t)
	for name := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, conf(noRates, noPings, flooded))
			done := make(chan struct{})
			frame := encode(fromServer(wstest.OpBinary, string(make([]byte, 1000))))
			e.serveTransport(name, e.g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(done)
				conn, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				conn.Write([]byte(switching(r)))
				b := make([]byte, 100)
				keepDeadlines(t, func(by time.Time) error {
					conn.SetReadDeadline(by)
					_, err := conn.Read(b)
					return err
				}, func(by time.Time) error {
					conn.SetWriteDeadline(by)
					_, err := conn.Write(frame)
					return err
				})
			})))
			c := e.open(header())
			go flood(c)
			<-done
			c.Close()
		})
	}
}
