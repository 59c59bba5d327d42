package wsguardtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/wsguardtest"
)

// However a Raw splits a message into frames, and the frames into writes, the echo is the same.
func TestRawSplits(t *testing.T) {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	cfg := wsguard.Config{
		Messages: wsguard.MessageConfig{MaxBytes: 1 << 20, ControlFrames: off},
		Rates:    wsguard.RateConfig{Messages: off, Bytes: off, ClientBytes: off, ClientMessages: off},
	}
	r := wsguardtest.NewServer(t, echo, wsguardtest.Config(cfg)).DialRaw()
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var text, wire []byte
		opcode, frames := wsguardtest.OpText, 1+random.IntN(20)
		for i := range frames {
			part := bytes.Repeat([]byte{byte('a' + i)}, []int{0, 1, 125, 126, 65535, 65536}[random.IntN(6)])
			if len(text)+len(part) > 1<<18 {
				part = nil
			}
			text = append(text, part...)
			wire = wsguardtest.Frame{Opcode: opcode, Payload: part, More: i < frames-1}.Append(wire)
			wire = wsguardtest.Frame{Opcode: wsguardtest.OpPong}.Append(wire)
			opcode = wsguardtest.OpContinuation
		}
		for len(wire) > 0 {
			n := min(len(wire), 1+random.IntN(1<<16))
			r.Write(wire[:n])
			wire = wire[n:]
		}
		r.WantText(string(text))
	}
}

// sends returns a handler that upgrades, sends bytes, and leaves when the client sends one.
func sends(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n%s",
			wstest.AcceptKey(r.Header.Get("Sec-WebSocket-Key")), text)
		brw.ReadByte()
	})
}

// A server that breaks the rules fails the test, and the failure says how.
func TestBadServer(t *testing.T) {
	frame := func(f wstest.Frame) string { return string(wstest.AppendFrame(nil, f)) }
	for name, tt := range map[string]struct{ sends, want string }{
		"masked":          {frame(wstest.Text("x")), "the server violates RFC 6455: masked frame"},
		"opcode":          {frame(wstest.Frame{Fin: true, Opcode: 3}), "the server violates RFC 6455: reserved opcode 3"},
		"no beginning":    {frame(wstest.Frame{Fin: true}), "the server violates RFC 6455: opcode 0"},
		"bad close":       {frame(wstest.Frame{Fin: true, Opcode: wstest.OpClose, Payload: []byte{1}}), "the server violates RFC 6455: close frame with one byte"},
		"half a frame":    {"\x81\x05hel", "the connection was cut off without a close frame (1006)"},
		"nothing":         {"", "the connection was cut off without a close frame (1006)"},
		"a flood, cut":    {strings.Repeat(frame(wstest.Frame{Fin: true, Opcode: wstest.OpPing}), 1000), "the connection was cut off without a close frame (1006)"},
		"closed, no code": {frame(wstest.Frame{Fin: true, Opcode: wstest.OpClose}), "the connection was closed with 1005"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := failing(t, func(t testing.TB) {
					c := wsguardtest.NewHTTPServer(t, sends(tt.sends)).Dial()
					if name == "half a frame" || name == "nothing" {
						c.WriteText("x") // makes the server leave, as the pongs of a flood do
					}
					c.ReadText()
				})
				if len(got) != 1 || !strings.Contains(got[0], tt.want) {
					t.Errorf("failures: %q, want %q", got, tt.want)
				}
			})
		})
	}
	got := failing(t, func(t testing.TB) {
		wsguardtest.NewHTTPServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(http.StatusSwitchingProtocols)
		})).Dial()
	})
	if len(got) != 1 || !strings.Contains(got[0], "client 1: the handshake has failed: ") {
		t.Errorf("failures: %q", got)
	}
}

// Whatever a server sends, a Client ends with an error, and nothing is left.
func FuzzClient(f *testing.F) {
	for _, seed := range []string{"", "\x81\x01x", "\x89\x00\x88\x02\x03\xe8", "\x01\x01x\x80\x00", "\x82\x7f\x00\x00\x00\x00\x7f\xff\xff\xff", "HTTP/1.1 400"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		synctest.Test(t, func(t *testing.T) {
			c := wsguardtest.NewHTTPServer(t, sends(text)).Dial()
			c.Write(wsguard.MessageText, []byte("leave"))
			for n := 0; ; n++ {
				if _, _, err := c.Read(); errors.Is(err, os.ErrDeadlineExceeded) || n > len(text) {
					t.Fatalf("%v after %d messages", err, n)
				} else if err != nil {
					return
				}
			}
		})
	})
}

// Clients of one server may be used and dropped on many goroutines.
func TestManyGoroutines(t *testing.T) {
	s := wsguardtest.NewServer(t, echo)
	var all sync.WaitGroup
	for i := range 20 {
		c := s.Dial(wsguardtest.From(fmt.Sprintf("127.0.0.%d", i+1)))
		for range 2 {
			all.Go(func() {
				if err := c.Write(wsguard.MessageText, []byte("x")); err == nil {
					c.Read()
				}
				c.CloseNow()
			})
		}
	}
	all.Wait()
}
