package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// A wrapped connection works over what the engine can read past net.Conn, and over what it
// cannot.
func TestWrapNets(t *testing.T) {
	wstest.CheckGoroutines(t)
	for name, serve := range sockets {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, conf(patient))
			e.s = serve(t, e.g.Wrap(coderEcho()))
			for _, end := range []string{"peer", "kick", "vanish", "hostile"} {
				c := e.open(header())
				for _, n := range []int{0, 5, 4096, 32 << 10} {
					roundTrip(t, c, strings.Repeat("x", n))
				}
				switch end {
				case "peer":
					c.WriteFrame(wstest.CloseFrame(4001, "bye"))
					wantClose(t, c, 4001, "bye")
				case "kick":
					e.kick(0, "")
					wantClose(t, c, 3003, "kicked")
					c.WriteFrame(wstest.CloseFrame(3003, ""))
				case "hostile":
					c.Write([]byte("\x81\x05hello"))
					wantClose(t, c, 1002, "protocol_error")
					c.Close()
				case "vanish":
					c.Close()
				}
				e.closed()
				c.ReadEOF()
				c.Close()
				e.idle()
			}
		})
	}
}

// A peer that does not read is cut after the write timeout, over any net.Conn; the handler
// is told.
func TestWrapStuckPeer(t *testing.T) {
	long(t)
	wstest.CheckGoroutines(t)
	for name, serve := range sockets {
		for _, by := range []string{"its own deadline", "the guard's"} {
			t.Run(name+", "+by, func(t *testing.T) {
				t.Parallel()
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					h := &cfg.Timeouts
					h.Write, h.CloseGrace, h.Linger = 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
				}))
				errs := make(chan error, 1)
				e.s = serve(t, e.g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h := answer101(w, r)
					frame := encode(fromServer(wstest.OpBinary, strings.Repeat("x", 1<<20)))
					var err error
					for err == nil {
						if by == "its own deadline" {
							h.SetWriteDeadline(time.Now().Add(30 * time.Millisecond))
						}
						_, err = h.Write(frame)
					}
					errs <- err
					h.Close()
				})))
				c := e.open(header())
				if err := <-errs; !isTimeoutError(err) {
					t.Error(err)
				}
				if ev := e.closed(); by == "the guard's" && ev.Reason != "write_timeout" {
					t.Errorf("%+v", ev)
				}
				e.idle()
				wstest.KeepAlive(t, c)
				c.Close()
			})
		}
	}
}

func isTimeoutError(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// httputil.ReverseProxy works behind Wrap: a kick reaches the backend as a close frame,
// and the backend's end the client.
func TestWrapReverseProxy(t *testing.T) {
	wstest.CheckGoroutines(t)
	codes := make(chan int, 1)
	backend := wstest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nc, brw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		io.WriteString(nc, switching(r))
		s := &served{Conn: nc, in: brw.Reader}
		for {
			f, err := s.frame()
			switch {
			case err != nil:
				codes <- 1006
				return
			case f.Opcode == wstest.OpClose:
				if string(f.Payload) == "\x03\xe9" { // 1001: it only goes away
					return
				}
				s.Write(encode(fromServer(wstest.OpClose, string(f.Payload))))
				codes <- int(f.Payload[0])<<8 | int(f.Payload[1])
				return
			case string(f.Payload) == "bye":
				s.Write(encode(fromServer(wstest.OpClose, closing(4002, "bye"))))
				return
			case string(f.Payload) == "vanish":
				return
			}
			s.Write(encode(fromServer(f.Opcode, string(f.Payload))))
		}
	}))
	target := must(url.Parse(backend.URL))
	e := newEnv(t, conf(noHandshakeLimits, patient))
	e.serve(e.g.Wrap(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}))
	for _, end := range []string{"kick", "peer", "peer, unanswered", "backend", "backend vanishes", "client vanishes"} {
		t.Run(end, func(t *testing.T) {
			e := e.in(t)
			c := e.open(header())
			for _, n := range []int{1, 125, 4096, 32 << 10} {
				roundTrip(t, c, strings.Repeat("x", n))
			}
			switch end {
			case "kick":
				e.kick(4000, "")
				wantClose(t, c, 4000, "")
				c.WriteFrame(wstest.CloseFrame(4000, ""))
				if code := <-codes; code != 4000 {
					t.Errorf("the backend sees %d", code)
				}
			case "peer":
				c.WriteFrame(wstest.CloseFrame(4001, "me"))
				wantClose(t, c, 4001, "me")
				<-codes
			case "peer, unanswered":
				c.WriteFrame(wstest.CloseFrame(1001, ""))
				wantClose(t, c, 1001, "")
			case "backend":
				c.WriteFrame(wstest.Text("bye"))
				wantClose(t, c, 4002, "bye")
				c.WriteFrame(wstest.CloseFrame(4002, ""))
			case "backend vanishes":
				c.WriteFrame(wstest.Text("vanish"))
				if err := c.ReadEOF(); err != nil {
					t.Error(err)
				}
			case "client vanishes":
				c.Close()
				<-codes
			}
			c.Close()
			if ev := e.closed(); end == "backend" && ev.Code != 4002 || end == "kick" && ev.Code != 4000 {
				t.Errorf("%+v", ev)
			}
			e.idle()
		})
	}
}

// Whatever a handler does from several goroutines at once, while its peer and the guard
// end the connection: everything is back in bounded time, and each connection has one
// event of its end.
func TestWrapRaces(t *testing.T) {
	long(t)
	wstest.CheckGoroutines(t)
	const n = 25
	for name, serve := range sockets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, conf(noHandshakeLimits, noRates, func(cfg *wsguard.Config) {
				h := &cfg.Timeouts
				h.CloseGrace, h.Linger, h.PingInterval, h.Pong = 50*time.Millisecond, 50*time.Millisecond, 20*time.Millisecond, 10*time.Millisecond
				cfg.Messages.OnInvalid = wsguard.ActionReply
				cfg.Messages.Validator = judge(func(msg []byte) error {
					if len(msg)%7 == 0 {
						return errors.New("bad")
					}
					return nil
				})
			}))
			e.s = serve(t, e.g.Wrap(http.HandlerFunc(raceHandler)))
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range n {
						c := e.dial()
						if res, err := c.Handshake("/", header()); err != nil || res.StatusCode != 101 {
							t.Errorf("%v %v", res, err)
							return
						}
						go raceClient(c)
						time.Sleep(rand.N(20 * time.Millisecond))
						switch rand.N(4) {
						case 0:
							e.kick(0, "")
						case 1:
							c.Close()
						}
					}
				})
			}
			wg.Wait()
			e.idle()
			if opens, closes := len(e.events.of(audit.Open)), len(e.events.of(audit.Close)); opens != 4*n || closes != opens {
				t.Errorf("%d connections, %d opened, %d closed", 4*n, opens, closes)
			}
		})
	}
}

// raceHandler does what a handler may from many goroutines.
func raceHandler(w http.ResponseWriter, r *http.Request) {
	h := answer101(w, r)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(r.Context(), 100*time.Millisecond)
	defer cancel()
	for range 2 {
		wg.Go(func() { // a reader
			b := make([]byte, 1+rand.N(5000))
			for {
				if _, err := h.Read(b); err != nil && !isTimeoutError(err) {
					return
				}
			}
		})
		wg.Go(func() { // and a writer of whole frames
			for {
				f := fromServer(wstest.OpBinary, strings.Repeat("x", rand.N(10_000)))
				if rand.N(5) == 0 {
					f = fromServer(wstest.OpPing, "p")
				}
				if _, err := h.Write(encode(f)); err != nil && !isTimeoutError(err) {
					return
				}
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				h.SetReadDeadline(time.Now().Add(rand.N(3 * time.Millisecond)))
				h.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
				time.Sleep(rand.N(2 * time.Millisecond))
				h.SetDeadline(time.Time{})
			}
		})
	}
	<-ctx.Done()
	switch rand.N(4) {
	case 0:
		h.Write(encode(fromServer(wstest.OpClose, closing(4000, ""))))
	case 1:
		h.Conn.(halfCloser).CloseWrite()
	}
	wg.Go(func() { h.Close() })
	h.Close()
}

// raceClient sends all kinds of frames, and reads or does not.
func raceClient(c *wstest.Client) {
	if rand.N(3) > 0 {
		go io.Copy(io.Discard, c.Conn())
	}
	for range 20 {
		var err error
		switch rand.N(6) {
		case 0:
			err = c.WriteFrame(wstest.Ping(nil))
		case 1:
			err = c.WriteFrame(wstest.Pong([]byte("p")))
		case 2:
			for _, f := range fragments(wstest.OpText, []byte(strings.Repeat("x", rand.N(9000))), 4) {
				_, err = c.Write(f)
			}
		case 3:
			err = c.WriteFrame(wstest.CloseFrame(1000, fmt.Sprint(rand.N(100))))
		default:
			err = c.WriteFrame(wstest.Text(strings.Repeat("x", rand.N(100))))
		}
		if err != nil {
			break
		}
	}
	time.Sleep(rand.N(100 * time.Millisecond))
	c.Close()
}
