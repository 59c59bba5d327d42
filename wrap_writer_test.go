package wsguard_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// The ResponseWriter implements what its contract says, and has no Unwrap. The net.Conn
// has the methods of net.Conn and CloseWrite, and no others.
func TestWrapMethods(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, _, s := wrapOpen(t, conf(noPings))
		methods := func(v any) (names []string) {
			typ := reflect.TypeOf(v)
			for i := range typ.NumMethod() {
				names = append(names, typ.Method(i).Name)
			}
			return names
		}
		want := []string{"Close", "CloseWrite", "LocalAddr", "Read", "RemoteAddr", "SetDeadline", "SetReadDeadline", "SetWriteDeadline", "Write"}
		if got := methods(s.Conn); !slices.Equal(got, want) {
			t.Errorf("the net.Conn has %v", got)
		}
		want = []string{"EnableFullDuplex", "Flush", "Header", "Hijack", "SetReadDeadline", "SetWriteDeadline", "Write", "WriteHeader", "WriteHeaderNow"}
		if got := methods(s.w); !slices.Equal(got, want) {
			t.Errorf("the ResponseWriter has %v", got)
		}
		if _, ok := s.Conn.(syscall.Conn); ok {
			t.Error("the socket can be reached")
		}
	})
}

// Hijack returns a Reader and a Writer of 4,096 bytes, the Reader empty. What came with
// the handshake is judged after the 101 and comes through Read.
func TestWrapHijack(t *testing.T) {
	for _, early := range []string{"", "hello", strings.Repeat("x", 3000)} {
		bubble(t, func(t *testing.T) {
			e := wrapWith(t, wsguard.Config{}, hijack)
			o := wstest.HandshakeOptions{Header: header()}
			if early != "" {
				o.Early = encode(wstest.Text(early), wstest.Text("second"), wstest.Binary([]byte("refused")))
			}
			c := e.dial()
			go c.HandshakeWith(o)
			s := <-e.conns
			if s.brw.Reader.Size() != 4096 || s.brw.Writer.Size() != 4096 || s.brw.Reader.Buffered() != 0 {
				t.Errorf("buffers of %d and %d bytes, with %d", s.brw.Reader.Size(), s.brw.Writer.Size(), s.brw.Reader.Buffered())
			}
			read := make(chan struct{})
			s.in = s.brw.Reader
			go func() {
				defer close(read)
				if early != "" {
					s.wantFrame(t, wstest.OpText, early)
					s.wantFrame(t, wstest.OpText, "second")
				}
			}()
			synctest.Wait()
			if n := len(e.events.all()); n > 0 {
				t.Errorf("%d events before the 101", n)
			}
			s.brw.WriteString(switching(s.r))
			s.brw.Flush()
			<-read
			if early != "" {
				s.wantEnd(t, 1003, "message_type")
			}
		})
	}
}

// A wrapper around the ResponseWriter may have buffers of another size.
func TestWrapHijackWithSmallBuffers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newWrapEnv(t, wsguard.Config{})
		h := e.play(answer101)
		e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(smallWriter{w}, r) }))
		c := e.open(header())
		s := <-e.conns
		if s.brw.Reader.Size() != 4096 || s.brw.Writer.Size() != 4096 {
			t.Errorf("buffers of %d and %d bytes", s.brw.Reader.Size(), s.brw.Writer.Size())
		}
		c.WriteFrame(wstest.Text("hello"))
		s.wantFrame(t, wstest.OpText, "hello")
	})
}

type smallWriter struct{ http.ResponseWriter }

func (w smallWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, _, err := w.ResponseWriter.(http.Hijacker).Hijack()
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16)), err
}

// After Hijack, Write and a second Hijack give http.ErrHijacked, and the deadlines are
// those of the guarded net.Conn.
func TestWrapWriterAfterHijack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, c, s := wrapOpen(t, conf(noPings))
		if _, err := s.w.Write([]byte("x")); err != http.ErrHijacked {
			t.Error(err)
		}
		if _, _, err := s.w.(http.Hijacker).Hijack(); err != http.ErrHijacked {
			t.Error(err)
		}
		s.w.WriteHeader(500) // harmless
		s.w.(http.Flusher).Flush()
		s.w.(interface{ WriteHeaderNow() }).WriteHeaderNow()

		rc := http.NewResponseController(s.w)
		rc.SetReadDeadline(time.Now().Add(time.Minute))
		if d := within(func() { s.wantErr(t, os.ErrDeadlineExceeded) }); d != time.Minute {
			t.Errorf("Read's deadline after %v", d)
		}
		rc.SetReadDeadline(time.Time{})
		rc.SetWriteDeadline(time.Now())
		if _, err := s.Write(encode(fromServer(wstest.OpText, "late"))); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		rc.SetWriteDeadline(time.Time{})
		s.send(t, fromServer(wstest.OpText, "hello"))
		wantFrames(t, c, fromServer(wstest.OpText, "hello"))
	})
}

// WriteHeader(101) hijacks at once and gives the head to the engine, with the headers set
// so far; Hijack then returns that connection.
func TestWrapWriteHeader101(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := wrapWith(t, wsguard.Config{}, func(w http.ResponseWriter, r *http.Request) *served {
			head, _ := http.ReadResponse(bufio.NewReader(strings.NewReader(switching(r))), nil)
			for name, values := range head.Header {
				w.Header()[name] = values
			}
			w.Header().Set("X-Before", "yes")
			w.WriteHeader(http.StatusProcessing) // an interim response passes
			w.WriteHeader(http.StatusSwitchingProtocols)
			w.Header().Set("X-After", "yes")
			if _, err := w.Write([]byte("x")); err != http.ErrHijacked {
				t.Error(err)
			}
			return hijack(w, r)
		})
		c := e.dial()
		res, err := c.Handshake("/", header())
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusProcessing {
			res, err = c.ReadResponse()
		}
		if err != nil || res.StatusCode != 101 || res.Header.Get("X-Before") != "yes" || res.Header.Get("X-After") != "" {
			t.Fatalf("%+v %v", res, err)
		}
		s := <-e.conns
		if s.err != nil {
			t.Fatal(s.err)
		}
		c.WriteFrame(wstest.Text("hello"))
		s.wantFrame(t, wstest.OpText, "hello")
		s.send(t, fromServer(wstest.OpText, "hello"))
		wantFrames(t, c, fromServer(wstest.OpText, "hello"))
	})
}

// If the hijack fails, no 101 has gone out, Hijack returns the error, and the handler's
// own 500 passes, without the headers of its 101.
func TestWrapHijackFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		broken := errors.New("cannot be hijacked")
		for _, coder := range []bool{false, true} {
			e := newEnv(t, wsguard.Config{})
			got := make(chan error, 1)
			h := e.g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if coder {
					coderEcho().ServeHTTP(w, r)
				}
				_, _, err := w.(http.Hijacker).Hijack()
				if got <- err; !coder {
					http.Error(w, "no", http.StatusInternalServerError)
				}
			}))
			e.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(unhijackable{w, broken}, r)
			}))
			_, res := e.try(header())
			if res.StatusCode != 500 || !res.Close || len(res.Header["Upgrade"])+len(res.Header["Sec-Websocket-Accept"]) > 0 {
				t.Errorf("coder %t: %s %v", coder, res.Status, res.Header)
			}
			if err := <-got; coder != errors.Is(err, broken) && err == nil {
				t.Errorf("coder %t: Hijack returned %v", coder, err)
			}
		}
	})
}

type unhijackable struct {
	http.ResponseWriter
	err error
}

func (w unhijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, w.err }

// The handler's deadlines are its own: they end its Read with os.ErrDeadlineExceeded,
// which loses nothing, also in the middle of a frame.
func TestWrapReadDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, c, s := wrapOpen(t, conf(noPings))
		var got []byte
		b := make([]byte, 1000)
		read := func(d time.Duration) {
			t.Helper()
			s.SetReadDeadline(time.Now().Add(d))
			for start := time.Now(); ; {
				n, err := s.Read(b)
				got = append(got, b[:n]...)
				if err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != d {
						t.Fatalf("%v after %v", err, time.Since(start))
					}
					return
				}
			}
		}
		frame := encode(wstest.Text(strings.Repeat("hello", 1000)), wstest.Text("second"))
		for i := range frame {
			if i%97 == 0 || i > len(frame)-20 {
				read(time.Millisecond)
			}
			c.Write(frame[i : i+1])
		}
		read(time.Second)
		if string(got) != string(frame) {
			t.Errorf("%d bytes of %d, or others", len(got), len(frame))
		}

		// A deadline that has passed goes before bytes that have come; without one they are
		// there. One that is moved wakes a Read that waits.
		c.WriteFrame(wstest.Text("third"))
		synctest.Wait()
		read(0)
		s.SetReadDeadline(time.Time{})
		s.wantFrame(t, wstest.OpText, "third")
		woken := make(chan error)
		go func() { _, err := s.Read(b); woken <- err }()
		synctest.Wait()
		s.SetReadDeadline(time.Now().Add(time.Minute))
		synctest.Wait()
		if d := within(func() {
			s.SetReadDeadline(time.Unix(1, 0))
			if err := <-woken; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}); d > 0 {
			t.Errorf("after %v", d)
		}
		s.SetReadDeadline(time.Now().Add(time.Second))
		go func() { _, err := s.Read(b); woken <- err }()
		synctest.Wait()
		s.SetReadDeadline(time.Now().Add(time.Minute))
		if d := within(func() { <-woken }); d != time.Minute {
			t.Errorf("a deadline that was moved later: %v", d)
		}
	})
}

// A deadline of the handler's ends its Write with os.ErrDeadlineExceeded, and the next
// Write goes on where it stopped.
func TestWrapWriteDeadline(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, size := range []int{3000, 300_000} {
		for _, outbound := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, held %t", size, outbound), func(t *testing.T) {
				cfg := conf(noPings)
				cfg.Messages.MaxBytes = 1 << 20
				if outbound {
					cfg.Messages.Outbound = judge(func([]byte) error { return nil })
				}
				e := newWrapEnv(t, cfg)
				e.serveOn(smallBuffers{listenTCP()}, e.play(answer101))
				c := e.dial()
				c.Conn().(*net.TCPConn).SetReadBuffer(32 << 10)
				e.upgrade(c, header())
				s := <-e.conns
				n := 50
				if size > 100_000 {
					n = 5
				}
				stuck, done := make(chan struct{}, 1000), make(chan struct{})
				go func() {
					defer close(done)
					for i := range n {
						for p := encode(fromServer(wstest.OpText, strings.Repeat(string(rune('a'+i%26)), size))); len(p) > 0; {
							s.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
							start := time.Now()
							m, err := s.Write(p)
							if p = p[m:]; err == nil {
								continue
							}
							if d := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || d < 9*time.Millisecond {
								t.Errorf("%v after %v", err, d)
								return
							}
							stuck <- struct{}{}
						}
					}
					// What has been taken may still have to go out.
					for s.SetWriteDeadline(time.Time{}); ; {
						if _, err := s.Write(encode(fromServer(wstest.OpPing, ""))); err == nil {
							return
						}
					}
				}()
				for range 3 {
					<-stuck
				}
				for i := range n {
					f, err := c.ReadFrame()
					if err != nil || len(f.Payload) != size || strings.Trim(string(f.Payload), string(rune('a'+i%26))) != "" {
						t.Fatalf("%d bytes, %v; events:\n%s", len(f.Payload), err, e.events)
					}
				}
				wantFrames(t, c, fromServer(wstest.OpPing, ""))
				<-done
			})
		}
	}
}

// Where a write that was cut short cannot be resumed, as over TLS, the handler's deadline
// ends the connection with it.
func TestWrapWriteDeadlineOverTLS(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// An in-memory connection is as good: the engine resumes sockets only.
		e, c, s := wrapOpen(t, conf(noPings))
		s.SetWriteDeadline(time.Now().Add(time.Second))
		if d := within(func() {
			if _, err := s.Write(encode(fromServer(wstest.OpText, strings.Repeat("x", 1<<20)))); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}); d != time.Second {
			t.Errorf("after %v", d)
		}
		if ev := e.events.wait(t, audit.Close, 1); ev.Reason != "write_timeout" {
			t.Errorf("%+v", ev)
		}
		if _, err := c.ReadFrame(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
}

// The handler's deadlines never move the engine's: a write of the engine's own has the
// connection's write timeout.
func TestWrapDeadlinesLeaveTheEngineAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := wsguard.Config{}
		cfg.Timeouts.PingInterval, cfg.Timeouts.Pong = 10*time.Second, 5*time.Second
		_, c, s := wrapOpen(t, cfg)
		s.SetDeadline(time.Now()) // has passed
		for range 5 {
			c.WriteFrame(wstest.Ping([]byte("x")))
			s.SetReadDeadline(time.Now().Add(time.Second)) // the engine works in Read
			s.Read(make([]byte, 10))
			wantFrames(t, c, fromServer(wstest.OpPong, "x"))
		}
		s.SetDeadline(time.Time{})
		s.send(t, fromServer(wstest.OpText, "hello"))
		for {
			f, err := c.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if f.Opcode == wstest.OpText {
				break
			}
		}
		go s.Read(make([]byte, 10))
		c.Timeout = time.Minute
		s.SetReadDeadline(time.Now().Add(time.Hour))
		for {
			f, err := c.ReadFrame()
			if err != nil || f.Opcode != wstest.OpPing && f.Opcode != wstest.OpClose {
				t.Fatalf("%+v %v", f, err)
			}
			if f.Opcode == wstest.OpClose {
				break // the ping was not answered, although the handler would wait for an hour
			}
		}
	})
}

// Close wakes a Read and a Write that are under way, at once. A second Close is harmless.
func TestWrapCloseWakes(t *testing.T) {
	for _, early := range []bool{false, true} { // before the 101
		bubble(t, func(t *testing.T) {
			e := wrapWith(t, wsguard.Config{}, func(w http.ResponseWriter, r *http.Request) *served {
				if early {
					return hijack(w, r)
				}
				return answer101(w, r)
			})
			c := e.dial()
			go c.Handshake("/", header())
			s := <-e.conns
			synctest.Wait()
			errs := make(chan error, 8)
			for range 2 {
				go func() { _, err := s.Read(make([]byte, 10)); errs <- err }()
			}
			n := 2
			if !early {
				n = 4
				for range 2 {
					go func() {
						_, err := s.Write(encode(fromServer(wstest.OpBinary, strings.Repeat("x", 1<<20))))
						errs <- err
					}()
				}
			}
			time.Sleep(time.Second)
			start := time.Now()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			for range n {
				if err := <-errs; !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			}
			if d := time.Since(start); d > 0 {
				t.Errorf("after %v", d)
			}
			s.Close()
			for _, err := range []error{s.SetDeadline(time.Now()), s.SetReadDeadline(time.Now()), s.SetWriteDeadline(time.Now())} {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			}
			if _, err := s.Write([]byte{0x81, 0}); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if _, err := io.ReadAll(s.Conn); !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			s.release()
		})
	}
}
