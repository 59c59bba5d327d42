package wraptest_test

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// A line is a line of asbefore, and what the guard refuses without it.
type line struct {
	field   string
	also    string // a line that must go before, because New refuses the Config otherwise
	want    string // the field that New refuses, or how the try ends
	observe bool   // Observe lets the try pass and reports it
	try     func(t *testing.T, s *wstest.Server) (end string)
}

var lines = []line{
	{field: "Origins", want: "Origins"},
	{field: "InsecureReportOnlyOrigins", want: "403 origin", try: func(t *testing.T, s *wstest.Server) string {
		_, end := enter(t, s, "")
		return end
	}},
	{field: "InsecureAllowHTTP", want: "403 insecure_transport", try: func(t *testing.T, s *wstest.Server) string {
		_, end := enter(t, s, "203.0.113.7:4711")
		return end
	}},
	{field: "Auth.InsecureAnonymous", want: "Auth.Verifier"},
	{field: "Messages.Binary", want: "1003 message_type", observe: true, try: within(func(c *wstest.Client) string {
		return echoed(c, wstest.Binary([]byte("hello")))
	})},
	{field: "Messages.MaxBytes", want: "1009 message_too_big", observe: true, try: within(func(c *wstest.Client) string {
		return echoed(c, wstest.Text(strings.Repeat("x", 33<<10)))
	})},
	{field: "Messages.MaxFragments", also: "Messages.MaxBytes", want: "1008 fragments", observe: true, try: within(func(c *wstest.Client) string {
		frames := make([]wstest.Frame, 100)
		for i := range frames {
			frames[i] = wstest.Text("x")
			frames[i].Fin = i == len(frames)-1
			if i > 0 {
				frames[i].Opcode = wstest.OpContinuation
			}
		}
		return echoed(c, frames...)
	})},
	{field: "Messages.Timeout", want: "1008 message_timeout", observe: true, try: within(func(c *wstest.Client) string {
		first, last := wstest.Text("x"), wstest.Text("x")
		first.Fin, last.Opcode = false, wstest.OpContinuation
		c.WriteFrame(first)
		time.Sleep(time.Minute)
		return echoed(c, last)
	})},
	{field: "Messages.ControlFrames", want: "1008 control_flood", observe: true, try: within(func(c *wstest.Client) string {
		for range 30 {
			c.WriteFrame(wstest.Pong(nil))
		}
		return echoed(c, wstest.Text("x"))
	})},
	{field: "Rates.Messages", want: "1008 rate_limited", observe: true, try: within(func(c *wstest.Client) string {
		for range 100 {
			if end := echoed(c, wstest.Text("x")); end != "" {
				return end
			}
		}
		return ""
	})},
	{field: "Rates.Bytes", also: "Messages.MaxBytes", want: "1008 rate_limited", observe: true, try: within(func(c *wstest.Client) string {
		for range 50 {
			if end := echoed(c, wstest.Text(strings.Repeat("x", 32<<10))); end != "" {
				return end
			}
		}
		return ""
	})},
	{field: "Rates.Handshakes", want: "429 handshake_rate", observe: true, try: func(t *testing.T, s *wstest.Server) string {
		for range 200 {
			c, end := enter(t, s, "")
			if end != "" {
				return end
			}
			c.Close()
		}
		return ""
	}},
	{field: "Caps.MaxConnsPerClient", want: "429 max_client_conns", observe: true, try: many(65, func(int) string { return "" })},
	{field: "Caps.MaxConnsPerNetwork", want: "429 max_client_conns", observe: true, try: many(1025, func(i int) string { return fmt.Sprintf("[2001:db8:0:%x::1]:4711", i) })},
	{field: "Caps.MaxConns", want: "503 max_conns", observe: true, try: many(10_001, func(int) string { return "" })},
	{field: "Timeouts.Write", want: "1008 write_timeout", try: within(func(c *wstest.Client) string {
		const n = 200
		c.Timeout = time.Hour
		msg := wstest.Text(strings.Repeat("x", 32<<10))
		go func() {
			for range n {
				c.WriteFrame(msg)
			}
		}()
		time.Sleep(time.Minute) // and take nothing
		for range n {
			if _, _, err := c.ReadMessage(); err != nil {
				return "1008 write_timeout" // the close frame cannot arrive; the event says it
			}
		}
		return ""
	})},
	{field: "Timeouts.PingInterval", also: "Timeouts.Write", want: "3008 pong_timeout", observe: true, try: after(time.Minute)},
	{field: "Timeouts.Idle", want: "3008 idle", observe: true, try: after(6 * time.Minute)},
	{field: "Timeouts.Lifetime", want: "1001 lifetime", observe: true, try: after(14 * time.Hour)},
}

// enter opens a connection of a program, with the address of the client if that matters. end is the
// status and the reason of a refusal.
func enter(t *testing.T, s *wstest.Server, addr string) (c *wstest.Client, end string) {
	t.Helper()
	c = s.Dial(t)
	o := wstest.HandshakeOptions{Host: "app.example.com", Header: http.Header{}}
	if addr != "" {
		o.Header[peerHeader] = []string{addr}
	}
	res, err := c.HandshakeWith(o)
	switch {
	case err != nil:
		t.Fatal(err)
	case res.StatusCode != http.StatusSwitchingProtocols:
		body := new(strings.Builder)
		res.Write(body)
		_, token, _ := strings.Cut(strings.TrimSpace(body.String()), http.StatusText(res.StatusCode)+": ")
		return nil, fmt.Sprint(res.StatusCode, " ", token)
	}
	return c, ""
}

// echoed sends the frames of a message and waits for its echo. It returns how the connection ends,
// or "" if the echo comes.
func echoed(c *wstest.Client, frames ...wstest.Frame) string {
	var b []byte
	for _, f := range frames {
		b = wstest.AppendFrame(b, f)
	}
	go c.Write(b) // the server may close before it has read all
	if _, _, err := c.ReadMessage(); err != nil {
		return endOf(err)
	}
	return ""
}

// within tries something on a connection.
func within(f func(*wstest.Client) string) func(*testing.T, *wstest.Server) string {
	return func(t *testing.T, s *wstest.Server) string {
		c, end := enter(t, s, "")
		if end != "" {
			return end
		}
		return f(c)
	}
}

// after sends a message after the time has passed, in which the client has answered nothing.
func after(d time.Duration) func(*testing.T, *wstest.Server) string {
	return within(func(c *wstest.Client) string {
		time.Sleep(d)
		return echoed(c, wstest.Text("x"))
	})
}

// many opens n connections, from the addresses that addr returns.
func many(n int, addr func(i int) string) func(*testing.T, *wstest.Server) string {
	return func(t *testing.T, s *wstest.Server) string {
		for i := range n {
			if _, end := enter(t, s, addr(i)); end != "" {
				return end
			}
		}
		return ""
	}
}

// without returns the Config without one of its lines.
func without(cfg wsguard.Config, fields ...string) wsguard.Config {
	for _, field := range fields {
		v := reflect.ValueOf(&cfg).Elem()
		for name := range strings.SplitSeq(field, ".") {
			v = v.FieldByName(name)
		}
		v.SetZero()
	}
	return cfg
}

// TestAsBeforeLines removes each line of asBefore. Its try then ends as the page says, and passes
// with the line, and with Observe where the page says so.
func TestAsBeforeLines(t *testing.T) {
	tightened := asBefore() // from top to bottom, except for what must name somebody
	for _, l := range lines {
		if l.try != nil {
			tightened = without(tightened, l.field)
			if _, err := wsguard.New(tightened); err != nil {
				t.Errorf("without the lines up to %s: %v", l.field, err)
			}
		}
		cfg := without(asBefore(), l.field)
		if l.also != "" {
			cfg = without(cfg, l.also)
		}
		if l.try == nil {
			_, err := wsguard.New(cfg)
			var ce *wsguard.ConfigError
			if !errors.As(err, &ce) || ce.Field != l.want {
				t.Errorf("%s: New returned %v, want a fault of %s", l.field, err, l.want)
			}
			continue
		}
		if l.field == "Caps.MaxConns" {
			continue // TestNightlyAsBeforeMaxConns
		}
		bubble(t, l.field, func(t *testing.T) {
			if end, _ := tryLine(t, l, asBefore()); end != "" {
				t.Errorf("with the line: %s", end)
			}
		})
		bubble(t, l.field+" removed", func(t *testing.T) {
			if end, told := tryLine(t, l, cfg); end != l.want || told {
				t.Errorf("got %q, want %q; only reported: %t", end, l.want, told)
			}
		})
		bubble(t, l.field+" observed", func(t *testing.T) {
			cfg.Observe = true
			end, told := tryLine(t, l, cfg)
			if l.observe && (end != "" || !told) || !l.observe && end != l.want {
				t.Errorf("got %q; reported: %t", end, told)
			}
		})
	}
}

// TestNightlyAsBeforeMaxConns removes the line of asBefore whose limit takes 10,000 connections.
func TestNightlyAsBeforeMaxConns(t *testing.T) {
	wstest.Nightly(t)
	for _, l := range lines {
		if l.field == "Caps.MaxConns" {
			bubble(t, "removed", func(t *testing.T) {
				if end, told := tryLine(t, l, without(asBefore(), l.field)); end != l.want || told {
					t.Errorf("got %q, want %q; only reported: %t", end, l.want, told)
				}
			})
		}
	}
}

// tryLine tries a line against a wrapped handler. told says that the reason of the line was only
// reported.
func tryLine(t *testing.T, l line, cfg wsguard.Config) (end string, told bool) {
	_, token, _ := strings.Cut(l.want, " ")
	var reported, refused atomic.Bool
	cfg.OnEvent = func(ev audit.Event) {
		if ev.Reason == token && ev.Report {
			reported.Store(true)
		} else if ev.Reason == token {
			refused.Store(true)
		}
	}
	end = l.try(t, wstest.ServePipe(t, from(guardOf(t, cfg).Wrap(defaultGorilla()))))
	time.Sleep(time.Minute) // for the close event
	if end == l.want && !refused.Load() {
		t.Errorf("no event says %s", token)
	}
	return end, reported.Load()
}
