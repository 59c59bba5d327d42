package wsguard_test

import (
	"bufio"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// statusLog is a middleware that notes the statuses that it sees.
type statusLog struct {
	mu       sync.Mutex
	statuses []int
	panics   bool // its WriteHeader panics
}

type statusWriter struct {
	http.ResponseWriter
	l *statusLog
}

func (w statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w statusWriter) WriteHeader(status int) {
	w.l.mu.Lock()
	w.l.statuses = append(w.l.statuses, status)
	w.l.mu.Unlock()
	if w.l.panics {
		panic("the middleware's")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (l *statusLog) before(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(statusWriter{w, l}, r) })
}

// want expects these statuses.
func (l *statusLog) want(t *testing.T, want ...int) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.statuses) != len(want) || len(want) > 0 && l.statuses[0] != want[0] {
		t.Errorf("the middleware saw %d, want %d", l.statuses, want)
	}
}

const plainHandshake = "GET / HTTP/1.1\r\nHost: x\r\nOrigin: " + appOrigin + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// announceEnv serves a wrapped handler that the test plays, behind a middleware.
func announceEnv(t *testing.T, l *statusLog, begin func(http.ResponseWriter, *http.Request) *served) *wrapEnv {
	t.Helper()
	e := newWrapEnv(t, conf(noPings))
	e.serve(l.before(e.play(begin)))
	return e
}

// Middleware sees the status of a response that a handler writes by hand when its head is
// complete, and not before.
func TestAnnounceInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var l statusLog
		e := announceEnv(t, &l, hijack)
		c, s := wrapDial(t, e)
		head := switching(s.r)
		io.WriteString(s.Conn, head[:len(head)-1])
		l.want(t)
		io.WriteString(s.Conn, head[len(head)-1:]+string(encode(fromServer(wstest.OpText, "hello"))))
		l.want(t, 101)
		if res, err := c.ReadResponse(); err != nil || res.StatusCode != 101 {
			t.Fatalf("%v %v", res, err)
		}
		wantFrames(t, c, fromServer(wstest.OpText, "hello"))
	})
}

// What takes the connection away from net/http before there is a status announces nothing: the
// handler closes, half-closes, asks for an address, returns, or writes an interim response.
func TestAnnounceNothing(t *testing.T) {
	for name, do := range map[string]func(*served){
		"Close":      func(s *served) { s.Close() },
		"CloseWrite": func(s *served) { s.Conn.(interface{ CloseWrite() error }).CloseWrite() },
		"RemoteAddr": func(s *served) {
			if a := s.RemoteAddr().String(); a != s.r.RemoteAddr {
				panic(a)
			}
		},
		"LocalAddr": func(s *served) { s.LocalAddr() },
		"return":    func(s *served) { s.release() },
		"interim":   func(s *served) { io.WriteString(s.Conn, "HTTP/1.1 103 Early Hints\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var l statusLog
				e := announceEnv(t, &l, hijack)
				c, s := wrapDial(t, e)
				do(s)
				synctest.Wait()
				if name != "Close" && name != "CloseWrite" {
					if _, err := io.WriteString(s.Conn, switching(s.r)); err != nil {
						t.Fatal(err)
					}
					res, err := c.ReadResponse()
					if name == "interim" {
						res, err = c.ReadResponse()
					}
					if err != nil || res.StatusCode != 101 {
						t.Errorf("%v %v", res, err)
					}
				}
				l.want(t)
				s.Close()
			})
		})
	}
}

// A 502 that replaces the handler's response is seen, also if it is sent because the handler
// answers too late.
func TestAnnounceBadGateway(t *testing.T) {
	for _, head := range []string{"HTTP/1.1 101\r\n\r\n", ""} {
		bubble(t, func(t *testing.T) {
			var l statusLog
			e := announceEnv(t, &l, hijack)
			c, s := wrapDial(t, e)
			io.WriteString(s.Conn, head)
			if res, err := c.ReadResponse(); err != nil || res.StatusCode != 502 {
				t.Fatalf("%v %v", res, err)
			} else {
				checkRefusal(t, res)
			}
			l.want(t, 502)
		})
	}
}

// What the client reads is what the handler has written, whether or not middleware sees it. Only
// a Date may be added.
func TestAnnouncedHeadsAreTheHandlers(t *testing.T) {
	good := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	for _, head := range []string{
		good, good + "X-One: 1\r\nX-Two: 2\r\nx-one: 3\r\n", good + "Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nDate: today\r\n",
		good + "content-length: 0\r\nTransfer-Encoding: chunked\r\n", strings.NewReplacer("Upgrade:", "uPGRADE:", "Connection:", "connection:", "Sec-", "sec-").Replace(good),
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n", "HTTP/1.1 403 Forbidden\r\nX: y\r\n",
		"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: gzip, chunked\r\n",
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n", "HTTP/1.1 204 No Content\r\n",
		"HTTP/1.1 299 Own\r\nConnection: keep-alive, x\r\ncontent-type: a/b\r\ncontent-encoding: gzip\r\n",
		"HTTP/1.0 500 Oh\r\n", "HTTP/1.1 304 Not Modified\r\n",
	} {
		var answers []string
		for _, seen := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				var errorLog strings.Builder
				e := newWrapEnv(t, conf(noPings))
				h := e.play(hijack)
				pipes := wstest.NewListener(wstest.PipeOptions{})
				srv := &http.Server{ErrorLog: log.New(&errorLog, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Middleware", "of no concern")
					if !seen {
						w = opaque{w}
					}
					h.ServeHTTP(w, r)
				})}
				go srv.Serve(pipes)
				defer srv.Close()
				c := wstest.NewClient(t, must(pipes.Dial(t.Context())))
				io.WriteString(c, plainHandshake)
				s := <-e.conns
				io.WriteString(s.Conn, head+"\r\n")
				if strings.HasPrefix(head, good[:12]) {
					s.send(t, fromServer(wstest.OpText, "hi"))
				} else {
					io.WriteString(s.Conn, "hi")
				}
				s.Close()
				all, _ := io.ReadAll(c.Conn())
				answers = append(answers, sorted(string(all)))
				if errorLog.Len() > 0 {
					t.Errorf("%q: %s", head, errorLog.String())
				}
			})
		}
		if len(answers) == 2 && answers[0] != answers[1] {
			t.Errorf("%q becomes\n%q, unseen\n%q", head, answers[1], answers[0])
		}
	}
}

// sorted sorts the lines of a response head, without its reason phrase, its version, its Date,
// and what describes the body of a response that has none.
func sorted(answer string) string {
	head, body, _ := strings.Cut(strings.Replace(answer, "HTTP/1.0", "HTTP/1.1", 1), "\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head+"\r\n\r\n")), nil)
	if err != nil {
		return answer
	}
	for _, name := range []string{"Date", "Content-Length", "Content-Type", "Content-Encoding"} {
		if name == "Date" || res.StatusCode == 101 || res.StatusCode == 304 || res.StatusCode == 204 {
			res.Header.Del(name)
		}
	}
	if res.StatusCode == 101 {
		res.TransferEncoding = nil
	}
	var b strings.Builder
	res.Header.Write(&b)
	return res.Status[:3] + " " + strings.Join(res.TransferEncoding, ",") + "\n" + b.String() + body
}

type opaque struct{ http.ResponseWriter }

func (w opaque) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

// A middleware whose WriteHeader panics costs that connection, and nothing else.
func TestAnnouncePanics(t *testing.T) {
	for _, late := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			l := statusLog{panics: true}
			e := announceEnv(t, &l, hijack)
			c, s := wrapDial(t, e)
			if late {
				time.Sleep(5 * time.Second) // the guard answers
			} else if _, err := io.WriteString(s.Conn, switching(s.r)); err == nil {
				t.Error("the Write succeeds")
			}
			s.Close()
			s.release()
			synctest.Wait()
			c.Close()
			if n := e.g.Conns(); n != 0 {
				t.Errorf("%d slots held", n)
			}
		})
	}
}

// A peer that does not take the 101 is cut after the write timeout, whatever the server's own
// timeouts are.
func TestAnnounceToAStuckPeer(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			e := newEnv(t, conf(noPings))
			var h http.Handler = e.g.Handler(echo)
			if wrapped {
				h = e.g.Wrap(coderEcho())
			}
			pipes := wstest.NewListener(wstest.PipeOptions{BufferBytes: 64})
			srv := &http.Server{Handler: h, WriteTimeout: time.Hour}
			go srv.Serve(pipes)
			defer srv.Close()
			c := must(pipes.Dial(t.Context()))
			go io.WriteString(c, plainHandshake)
			var ev audit.Event
			if d := within(func() { ev = e.events.wait(t, audit.Refusal, 1) }); d > 5*time.Second || ev.Reason != reason.WriteTimeout.Token() {
				t.Errorf("%+v after %v", ev, d)
			}
			c.Close()
			synctest.Wait()
			if n := e.g.Conns(); n != 0 {
				t.Errorf("%d slots held", n)
			}
		})
	}
}
