package wsguardtest_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/wsguardtest"
)

// The bytes of frames, as RFC 6455 §5.2 has them.
func TestFrame(t *testing.T) {
	for _, tt := range []struct {
		frame wsguardtest.Frame
		want  string
	}{
		{wsguardtest.Frame{Opcode: wsguardtest.OpText}, "818037fa213d"},
		{wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte("Hello")}, "818537fa213d7f9f4d5158"}, // as in RFC 6455 §5.7
		{wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte("Hel"), More: true, Unmasked: true}, "010348656c"},
		{wsguardtest.Frame{Opcode: wsguardtest.OpContinuation, Payload: []byte("lo"), Unmasked: true}, "80026c6f"},
		{wsguardtest.Frame{Opcode: wsguardtest.OpBinary, RSV: 5, Unmasked: true}, "d200"},
		{wsguardtest.Frame{Opcode: 15, Unmasked: true, Payload: []byte{1}, LengthBytes: 2}, "8f7e000101"},
		{wsguardtest.Frame{Opcode: wsguardtest.OpPing, Unmasked: true, Length: 1 << 63, Payload: []byte{1}}, "897f800000000000000001"},
		{wsguardtest.Frame{Opcode: wsguardtest.OpBinary, Unmasked: true, Length: 65535}, "827effff"},
	} {
		if got := hex.EncodeToString(tt.frame.Append(nil)); got != tt.want {
			t.Errorf("%+v is %s, want %s", tt.frame, got, tt.want)
		}
	}
	if got := (wsguardtest.Frame{Opcode: wsguardtest.OpPong, Unmasked: true}).Append([]byte("x")); string(got) != "x\x8a\x00" {
		t.Errorf("appended %x", got)
	}
}

// A Raw sends what breaks the rules, and reads what the guard answers.
func TestRaw(t *testing.T) {
	text := func(s string) wsguardtest.Frame {
		return wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte(s)}
	}
	unmasked := text("x")
	unmasked.Unmasked = true
	reserved := text("x")
	reserved.RSV = 4
	long := text("x")
	long.LengthBytes = 8
	huge := text("")
	huge.Length = 1 << 40
	for name, tt := range map[string]struct {
		frame wsguardtest.Frame
		code  wsguard.StatusCode
	}{
		"unmasked":       {unmasked, 1002},
		"reserved bit":   {reserved, 1002},
		"opcode":         {wsguardtest.Frame{Opcode: 3}, 1002},
		"long form":      {long, 1002},
		"huge":           {huge, 1009},
		"long ping":      {wsguardtest.Frame{Opcode: wsguardtest.OpPing, Payload: make([]byte, 126)}, 1002},
		"split ping":     {wsguardtest.Frame{Opcode: wsguardtest.OpPing, More: true}, 1002},
		"no beginning":   {wsguardtest.Frame{Opcode: wsguardtest.OpContinuation}, 1002},
		"no UTF-8":       {text("\xff"), 1007},
		"half a code":    {wsguardtest.Frame{Opcode: wsguardtest.OpClose, Payload: []byte{3}}, 1002},
		"forbidden code": {wsguardtest.Frame{Opcode: wsguardtest.OpClose, Payload: []byte{3, 238}}, 1002},
		"binary":         {wsguardtest.Frame{Opcode: wsguardtest.OpBinary}, 1003},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := wsguardtest.NewServer(t, echo)
				r := s.DialRaw()
				r.WriteFrame(tt.frame)
				f := r.ReadFrame()
				if f.Opcode != wsguardtest.OpClose || len(f.Payload) < 2 || f.More || f.RSV != 0 || !f.Unmasked {
					t.Fatalf("got %+v", f)
				}
				if got := wsguard.StatusCode(f.Payload[0])<<8 | wsguard.StatusCode(f.Payload[1]); got != tt.code {
					t.Errorf("closed with %d, want %d", got, tt.code)
				}
				if ev := s.Events.Next(audit.Close); ev.Code != tt.code {
					t.Errorf("%+v", ev)
				}
				r.WantEnd()
			})
		})
	}
}

// A Raw answers nothing by itself, and reads frame by frame.
func TestRawControlFrames(t *testing.T) {
	r := wsguardtest.NewServer(t, echo).DialRaw()
	r.WriteFrame(wsguardtest.Frame{Opcode: wsguardtest.OpPing, Payload: []byte("are you there?")})
	if f := r.ReadFrame(); f.Opcode != wsguardtest.OpPong || string(f.Payload) != "are you there?" {
		t.Errorf("got %+v", f)
	}
	frame := wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte("hello")}.Append(nil)
	for i := range frame {
		r.Write(frame[i : i+1])
	}
	r.WantText("hello")
	r.WriteFrame(wsguardtest.Frame{Opcode: wsguardtest.OpClose})
	r.WantClose(1005, "")
	r.WantEnd()
}

// A Raw may send any request.
func TestRawHandshake(t *testing.T) {
	s := wsguardtest.NewServer(t, echo)
	r := s.Connect()
	r.Write([]byte("GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"))
	res := r.ReadResponse()
	if body, err := io.ReadAll(res.Body); res.StatusCode != 426 || err != nil || !strings.Contains(string(body), "version") {
		t.Errorf("%d %s, %v", res.StatusCode, body, err)
	}
	r = s.Connect(wsguardtest.Origin("https://evil.example"))
	if res := r.Handshake(); res.StatusCode != 403 {
		t.Errorf("%d", res.StatusCode)
	}
	r = s.Connect(wsguardtest.Header("Sec-WebSocket-Version", "12"))
	if res := r.Handshake(); res.StatusCode != 426 {
		t.Errorf("%d", res.StatusCode)
	}
	r = s.Connect()
	r.Write([]byte("\x16\x03\x01 no HTTP at all\r\n\r\n"))
	if res := r.ReadResponse(); res.StatusCode != 400 {
		t.Errorf("%d", res.StatusCode)
	}
	r.WantEnd()
}

// A Client answers pings for as long as a connection lasts, and a Raw does not.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wsguardtest.NewServer(t, echo, wsguardtest.Config(wsguard.Config{Timeouts: wsguard.TimeoutConfig{Idle: wsguard.Off}}))
		start := time.Now()
		c, r := s.Dial(wsguardtest.As(wsguard.Principal{Subject: "alice", Expires: start.Add(3 * time.Hour)})), s.DialRaw()
		r.WantClose(3008, "pong_timeout")
		if d := time.Since(start); d > time.Minute {
			t.Errorf("the raw client was there for %v", d)
		}
		time.Sleep(2 * time.Hour)
		c.WriteText("still here")
		c.WantText("still here")
		c.WantNothing(30 * time.Minute)
		c.WantClose(3000, "expired")
		if d := time.Since(start); d != 3*time.Hour {
			t.Errorf("expired after %v", d)
		}
		ev := s.Events.Find(func(ev audit.Event) bool { return ev.Kind == audit.Close && ev.Subject == "alice" })
		if ev.Duration != 3*time.Hour || ev.MessagesIn != 1 {
			t.Errorf("%+v", ev)
		}
	})
}

// A Client that is full reads no more, so that a server that never stops sending must wait.
func TestUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := 0
		over := make(chan struct{})
		s := wsguardtest.NewServer(t, func(ctx context.Context, c *wsguard.Conn) error {
			defer close(over)
			for {
				if err := c.Write(ctx, wsguard.MessageText, bytes.Repeat([]byte("x"), 4096)); err != nil {
					return err
				}
				sent++
			}
		})
		c := s.Dial()
		<-over
		if sent < 1024 || sent > 1200 {
			t.Errorf("%d messages were sent", sent)
		}
		for range 1024 {
			c.ReadText()
		}
		if ev := s.Events.Next(audit.Close); ev.Reason != "write_timeout" {
			t.Errorf("%+v", ev)
		}
	})
}

// Close skips what the test has not read, and does nothing for a connection that has ended.
func TestClose(t *testing.T) {
	s := wsguardtest.NewServer(t, func(ctx context.Context, c *wsguard.Conn) error {
		for range 2000 {
			if err := c.Write(ctx, wsguard.MessageText, []byte("x")); err != nil {
				return err
			}
		}
		return echo(ctx, c)
	})
	c := s.Dial()
	c.ReadText()
	c.Close()
	c.Close()
	c.CloseNow()
	if ev := s.Events.Next(audit.Close); ev.Code != 1000 || !ev.Remote {
		t.Errorf("%+v", ev)
	}
	s.Dial().CloseWith(1005, "")
	if ev := s.Events.Next(audit.Close); ev.PeerCode != websocket.StatusNoStatusRcvd {
		t.Errorf("%+v", ev)
	}
	s.Dial().CloseNow()
	if ev := s.Events.Next(audit.Close); ev.Code != 1006 {
		t.Errorf("%+v", ev)
	}
	over := wsguardtest.NewServer(t, func(context.Context, *wsguard.Conn) error { return nil }).Dial()
	over.WantClose(1000, "")
	over.WantClose(1000, "") // as often as the test asks
	over.Close()
}

// Next returns each event once, and Find the same one each time.
func TestEvents(t *testing.T) {
	e := wsguardtest.NewEvents(t)
	for _, ev := range []audit.Event{{Kind: audit.Open, ConnID: "1"}, {Kind: audit.Open, ConnID: "2"}, {Kind: audit.Close, ConnID: "1"}} {
		e.Record(ev)
	}
	for range 2 {
		if ev := e.Find(func(ev audit.Event) bool { return ev.ConnID == "1" }); ev.Kind != audit.Open {
			t.Errorf("%+v", ev)
		}
	}
	if a, b, c := e.Next(audit.Open), e.Next(audit.Close), e.Next(audit.Open); a.ConnID != "1" || b.ConnID != "1" || c.ConnID != "2" {
		t.Errorf("%v, %v, %v", a, b, c)
	}
	go e.Record(audit.Event{Kind: audit.Close, ConnID: "2"})
	if ev := e.Next(audit.Close); ev.ConnID != "2" || len(e.All()) != 4 {
		t.Errorf("%v of %v", ev, e.All())
	}
	for range 60 {
		e.Record(audit.Event{Kind: audit.Violation, Reason: "schema", Report: true})
	}
	if got := e.String(); !strings.HasPrefix(got, "… 14 events before\n") || !strings.HasSuffix(got, " violation reason=schema report=true\n") {
		t.Error(got)
	}
}
