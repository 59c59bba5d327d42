package wsguard_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// wrapDial begins a handshake. The response is the test's to read.
func wrapDial(t *testing.T, e *wrapEnv) (*wstest.Client, *served) {
	t.Helper()
	c := e.dial()
	c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	return c, <-e.conns
}

// Until a whole response head has been written, the engine reads what the handler writes
// as HTTP, and holds it, whatever pieces it comes in.
func TestWrapHeadInPieces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, conf(noPings), hijack)
		frames := encode(fromServer(wstest.OpText, "hello"), fromServer(wstest.OpText, strings.Repeat("x", 5000)))
		for _, size := range []int{1, 2, 7, 100, 1 << 20} {
			c, s := wrapDial(t, e)
			all := []byte(switching(s.r, "X-Long: "+strings.Repeat("x", 16<<10-len(switching(s.r))-10)) + string(frames)) // 16 KiB
			head := len(all) - len(frames)
			for i := 0; i < len(all); i += size {
				p := all[i:min(len(all), i+size)]
				if n, err := s.Write(p); n != len(p) || err != nil {
					t.Fatalf("%d at %d: %d, %v", size, i, n, err)
				}
				if i+size < head {
					c.Timeout = time.Nanosecond
					if _, err := c.ReadFrame(); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatalf("pieces of %d: something has gone out at %d of %d: %v", size, i, head, err)
					}
				}
			}
			c.Timeout = 0
			if res, err := c.ReadResponse(); err != nil || res.StatusCode != 101 {
				t.Fatalf("%v %v", res, err)
			}
			wantFrames(t, c, fromServer(wstest.OpText, "hello"), fromServer(wstest.OpText, strings.Repeat("x", 5000)))
			c.Close()
			s.release()
		}
	})
}

// A 101 that is wrong, a head over 16 KiB and what is no HTTP response is not sent: the
// client gets a constant 502, the handler's Write fails, and so does whatever it writes
// behind it; an event says why.
func TestWrapBadAnswer(t *testing.T) {
	good := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) + "\r\n" }
	for name, test := range map[string]struct {
		head, why string
		list      []string
	}{
		"no Upgrade":             {replace("Upgrade: websocket\r\n", ""), "Upgrade", nil},
		"another Upgrade":        {replace("Upgrade: websocket", "Upgrade: h2c"), "Upgrade", nil},
		"two Upgrades":           {good + "Upgrade: websocket\r\n\r\n", "Upgrade", nil},
		"Upgrade of two":         {replace("Upgrade: websocket", "Upgrade: websocket, h2c"), "Upgrade", nil},
		"no Connection":          {replace("Connection: Upgrade\r\n", ""), "Connection", nil},
		"another Connection":     {replace("Connection: Upgrade", "Connection: close"), "Connection", nil},
		"no accept":              {replace("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", ""), "Accept", nil},
		"another accept":         {replace("s3pP", "S3pP"), "Accept", nil},
		"two accepts":            {good + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "Accept", nil},
		"an extension":           {good + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension", nil},
		"a subprotocol":          {good + "Sec-WebSocket-Protocol: chat\r\n\r\n", "subprotocol", nil},
		"another subprotocol":    {good + "Sec-WebSocket-Protocol: other\r\n\r\n", "subprotocol", []string{"chat"}},
		"two subprotocols":       {good + "Sec-WebSocket-Protocol: chat, chat\r\n\r\n", "subprotocol", []string{"chat"}},
		"HTTP/1.0":               {replace("HTTP/1.1", "HTTP/1.0"), "version", nil},
		"no HTTP":                {"hello\r\n\r\n", "HTTP", nil},
		"a frame":                {"\x81\x05hello\r\n\r\n", "HTTP", nil},
		"an impossible status":   {replace("101", "001"), "HTTP", nil},
		"a head hidden by LF":    {strings.Replace(good, "\r\n", "\n", 1) + "\r\n", "HTTP", nil},
		"bytes hidden by LF LF":  {good + "X: y\n\n\x81\x05hello\r\n\r\n", "HTTP", nil},
		"bytes hidden by CR":     {good + "X: y\r\x81\x05hello\r\n\r\n", "HTTP", nil},
		"a folded line":          {good + "X: y\r\n z\r\n\r\n", "HTTP", nil},
		"a name with a space":    {good + "X : y\r\n\r\n", "HTTP", nil},
		"16 KiB and a byte":      {good + "X: " + strings.Repeat("x", 16384+1-len(good)-7) + "\r\n\r\n", "16 KiB", nil},
		"a head without an end":  {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<17), "16 KiB", nil},
		"an interim before it":   {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + replace("s3pP", "S3pP"), "Accept", nil},
		"a 101 of one line only": {"HTTP/1.1 101\r\n\r\n", "Upgrade", nil},
	} {
		for _, piece := range []int{1 << 20, 1, 1000} {
			t.Run(fmt.Sprintf("%s, in pieces of %d", name, piece), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					cfg := conf(noPings)
					cfg.Subprotocols = test.list
					e := wrapWith(t, cfg, hijack)
					c, s := wrapDial(t, e)
					var err error
					var after int
					for p := []byte(test.head); len(p) > 0; p = p[min(piece, len(p)):] {
						failed := err != nil
						_, e := s.Write(p[:min(piece, len(p))])
						if err = errors.Join(err, e); failed && e != nil {
							after++
						} else if failed {
							t.Fatal("a Write behind the 502 succeeds")
						}
					}
					if err == nil {
						t.Fatal("the Write succeeds")
					}
					if _, err := s.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); err == nil {
						t.Error("another head is taken")
					}
					res, err := c.ReadResponse()
					if err == nil && res.StatusCode == 103 {
						res, err = c.ReadResponse()
					}
					if err != nil || res.StatusCode != 502 || res.Header.Get("X") != "" {
						t.Fatalf("%+v %v", res, err)
					}
					checkRefusal(t, res)
					if err := c.ReadEOF(); err != nil {
						t.Error(err)
					}
					s.wantErr(t, io.EOF)
					ev := e.events.wait(t, audit.Refusal, 1)
					if ev.Status != 502 || !errors.Is(ev.Err, reason.Handler) || !strings.Contains(ev.Detail, test.why) {
						t.Errorf("%+v", ev)
					}
					c.Close()
					e.wantGone(t, s)
					if n := len(e.events.all()); n != 1 {
						t.Errorf("%d events:\n%s", n, e.events)
					}
				})
			})
		}
	}
}

// The same of a 101 by WriteHeader: the 502 is all that goes out, Hijack returns an error,
// and what a library does then changes nothing.
func TestWrapBadAnswerByWriteHeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		got := make(chan error, 1)
		e := serveWith(t, conf(noPings), func(g *wsguard.Guard) http.Handler {
			return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.Header.Set("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==") // the accept will not fit
				coderEcho().ServeHTTP(w, r)
				http.Error(w, "what gqlgen does then", 400)
				_, _, err := w.(http.Hijacker).Hijack()
				got <- err
			}))
		})
		c, res := e.try(header())
		if res.StatusCode != 502 {
			t.Errorf("%+v", res)
		}
		checkRefusal(t, res)
		if err := c.ReadEOF(); err != nil {
			t.Error(err)
		}
		if <-got == nil {
			t.Error("Hijack succeeds")
		}
		if all := e.events.all(); len(all) != 1 || all[0].Status != 502 {
			t.Errorf("%+v", all)
		}
	})
}

// A handler that has written no whole head within the write timeout is answered for.
func TestWrapNoAnswer(t *testing.T) {
	for _, part := range []string{"", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websoc"} {
		for _, returns := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				e := wrapWith(t, conf(noPings), hijack)
				c, s := wrapDial(t, e)
				io.WriteString(s.Conn, part)
				if returns {
					s.release()
				}
				read := make(chan error, 1)
				go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
				var res *http.Response
				if d := within(func() { res, _ = c.ReadResponse() }); d != 4*time.Second || res == nil || res.StatusCode != 502 {
					t.Fatalf("%v after %v", res, d)
				}
				checkRefusal(t, res)
				if err := <-read; err != io.EOF {
					t.Errorf("the handler reads %v", err)
				}
				if _, err := s.Write([]byte(switching(s.r))); err == nil {
					t.Error("a late head is taken")
				}
				c.Close()
				if !returns {
					e.wantGone(t, s)
				}
				if ev := e.events.wait(t, audit.Refusal, 1); ev.Status != 502 || !strings.Contains(ev.Detail, "within the write timeout") {
					t.Errorf("%+v", ev)
				}
			})
		}
	}
}

// A handler that closes without an answer is reported; the client reads the end.
func TestWrapClosesWithoutAnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, conf(noPings), hijack)
		c, s := wrapDial(t, e)
		io.WriteString(s.Conn, "HTTP/1.1 101 Switch")
		s.Close()
		if d := within(func() {
			if err := c.ReadEOF(); err != nil {
				t.Error(err)
			}
		}); d > 0 {
			t.Errorf("after %v", d)
		}
		if ev := e.events.wait(t, audit.Refusal, 1); ev.Reason != "handler" || ev.Detail != "closed without a response" {
			t.Errorf("%+v", ev)
		}
		c.Close()
		e.wantGone(t, s)
	})
}

// A client that has left when the handler's 101 goes out is a connection that is lost. The
// handler gets the error of the network, and it is not blamed.
func TestWrapClientLeavesBeforeTheAnswer(t *testing.T) {
	for name, leave := range map[string]struct {
		do   func(*wstest.PipeConn)
		want error
	}{
		"FIN":   {func(c *wstest.PipeConn) { c.Close() }, syscall.EPIPE},
		"reset": {func(c *wstest.PipeConn) { c.Reset() }, syscall.ECONNRESET},
	} {
		for _, how := range []string{"Write", "WriteHeader", "a bad answer", "no answer in time"} {
			t.Run(name+", "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					begin := hijack
					if how == "WriteHeader" {
						begin = func(w http.ResponseWriter, r *http.Request) *served { return &served{w: w, r: r} }
					}
					e := wrapWith(t, conf(noPings), begin)
					c, s := wrapDial(t, e)
					leave.do(c.Conn().(*wstest.PipeConn))
					synctest.Wait()
					var err error
					switch how {
					case "Write":
						_, err = io.WriteString(s.Conn, switching(s.r))
						if _, err := s.Read(make([]byte, 1)); !errors.Is(err, leave.want) {
							t.Errorf("the handler reads %v", err)
						}
					case "WriteHeader":
						head, _ := http.ReadResponse(bufio.NewReader(strings.NewReader(switching(s.r))), nil)
						maps.Copy(s.w.Header(), head.Header)
						s.w.WriteHeader(http.StatusSwitchingProtocols)
						_, _, err = s.w.(http.Hijacker).Hijack()
						http.Error(s.w, "no connection", http.StatusBadGateway) // as httputil.ReverseProxy does
					case "a bad answer":
						if _, err := io.WriteString(s.Conn, "HTTP/1.1 101\r\n\r\n"); err == nil {
							t.Error("the Write succeeds")
						}
						err = leave.want
					default:
						time.Sleep(5 * time.Second)
						err = leave.want
					}
					if !errors.Is(err, leave.want) {
						t.Errorf("the handler gets %v", err)
					}
					if s.Conn != nil {
						s.Close()
					}
					e.wantGone(t, s)
					if all := e.events.all(); len(all) != 1 || !errors.Is(all[0].Err, reason.ConnectionLost) || all[0].Status != 0 {
						t.Errorf("%s", e.events)
					}
				})
			})
		}
	}
}

// A server error with which the handler answers because its client has left is no refusal
// of the handler's: httputil.ReverseProxy writes a 502 then.
func TestWrapClientLeavesTheHandler(t *testing.T) {
	for status, want := range map[int]*reason.Reason{502: reason.ConnectionLost, 403: reason.Handler} {
		bubble(t, func(t *testing.T) {
			e := wrapWith(t, conf(noPings), func(w http.ResponseWriter, r *http.Request) *served {
				<-r.Context().Done()
				http.Error(w, "no", status)
				return nil
			})
			c := e.dial()
			c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
			synctest.Wait()
			c.Close()
			synctest.Wait()
			if all := e.events.all(); len(all) != 1 || !errors.Is(all[0].Err, want) {
				t.Errorf("%d: %s", status, e.events)
			}
		})
	}
}

// A handler that closes its net.Conn after the guard has ended the connection did not leave
// it unanswered. The end is reported once, with its cause.
func TestWrapClosesBehindTheGuardUnanswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newWrapEnv(t, conf(noPings))
		h := e.play(hijack)
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() { _ = recover() }()
			h.ServeHTTP(w, r)
		}))
		c, s := wrapDial(t, e)
		e.panic <- "oh no"
		s.release()
		synctest.Wait()
		s.Close()
		c.ReadEOF()
		c.Close()
		synctest.Wait()
		if all := e.events.of(audit.Refusal); len(all) != 1 || !errors.Is(all[0].Err, reason.Internal) || all[0].Status != 0 {
			t.Errorf("%s", e.events)
		}
	})
}

// If the status is not 101, the answer passes with Connection: close, the handler reads
// EOF, inbound bytes are discarded, and the slot comes back at its Close.
func TestWrapRefusalByHand(t *testing.T) {
	for name, test := range map[string]struct{ head, body string }{
		"without a length": {"HTTP/1.1 403 Forbidden\r\n\r\n", "no such thing"},
		"with a length":    {"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: keep-alive\r\nconnection:Upgrade\r\n\r\n", "bad"},
		"behind an interim": {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" +
			"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n", "who?"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := wrapWith(t, conf(noPings), hijack)
				c, s := wrapDial(t, e)
				c.Write([]byte("what the client sends meanwhile"))
				status := test.head[strings.LastIndex(test.head, "HTTP/1.1 ")+9:][:3]
				for _, b := range []byte(test.head + test.body) {
					if _, err := s.Write([]byte{b}); err != nil {
						t.Fatal(err)
					}
				}
				s.wantErr(t, io.EOF)
				synctest.Wait()
				if n := e.g.Conns(); n != 1 {
					t.Errorf("%d slots", n)
				}
				go func() { time.Sleep(time.Second); s.Close() }()
				res, err := c.ReadResponse()
				for err == nil && res.StatusCode < 200 {
					if res.Close {
						t.Error("an interim response with Connection: close")
					}
					res, err = c.ReadResponse()
				}
				if err != nil || fmt.Sprint(res.StatusCode) != status || !res.Close || len(res.Header["Connection"]) > 1 {
					t.Fatalf("%+v %v", res, err)
				}
				if b := body(t, res); b != test.body {
					t.Errorf("body %q", b)
				}
				if d := within(func() {
					if err := c.ReadEOF(); err != nil {
						t.Error(err)
					}
				}); d > time.Second {
					t.Errorf("EOF after %v", d)
				}
				c.Close()
				e.wantGone(t, s)
				if all := e.events.all(); len(all) != 1 || fmt.Sprint(all[0].Status) != status || all[0].Reason != "handler" {
					t.Errorf("%+v", all)
				}
			})
		})
	}
}

// A handler that never closes after its refusal gives the slot back after the write
// timeout without progress.
func TestWrapRefusalIsNotClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, conf(noPings), hijack)
		c, s := wrapDial(t, e)
		io.WriteString(s.Conn, "HTTP/1.1 403 Forbidden\r\n\r\n")
		s.release()
		for range 10 { // 30 s of progress
			time.Sleep(3 * time.Second)
			if _, err := s.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if n := e.g.Conns(); n != 1 {
			t.Errorf("%d slots", n)
		}
		c.Timeout = time.Minute
		var res *http.Response
		if d := within(func() { res, _ = c.ReadResponse() }); d != 4*time.Second || body(t, res) != strings.Repeat("x", 10) {
			t.Errorf("the end after %v", d)
		}
		c.Close()
		synctest.Wait()
		if n := e.g.Conns(); n != 0 {
			t.Errorf("%d slots", n)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// The body of a refusal may be large, and its client slow.
func TestWrapRefusalWithALargeBody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, conf(noPings), hijack)
		c, s := wrapDial(t, e)
		go func() {
			io.WriteString(s.Conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 300000\r\n\r\n"+strings.Repeat("x", 300_000))
			s.Close()
		}()
		n := 0
		for b := make([]byte, 2000); ; {
			time.Sleep(time.Second)
			m, err := c.Conn().Read(b)
			n += m
			if err != nil {
				break
			}
		}
		if n < 300_000 {
			t.Errorf("%d bytes", n)
		}
		c.Close()
		e.wantGone(t, s)
	})
}
