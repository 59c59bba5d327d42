package wsguard_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// syncBuffer is a log file.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// T75: what the log has of a connection and of a refusal.
func TestEventT75Fields(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify}})
	c := e.open(bearer("alice"))
	roundTrip(t, c, "hello")
	c.WriteFrame(wstest.CloseFrame(4321, "done"))
	c.ReadClose()
	c.Close()
	e.events.wait(t, audit.Close, 1)
	e.refused(header("Origin", "https://evil.test"), 403, "origin")
	check := func(msg string, level slog.Level, want map[string]string, present ...string) wstest.Record {
		t.Helper()
		got := e.log.Find(msg)
		if len(got) != 1 {
			t.Fatalf("%d records %q:\n%s", len(got), msg, e.log)
		}
		if got[0].Level != level {
			t.Errorf("%s at %v", msg, got[0].Level)
		}
		for k, v := range want {
			if a := got[0].Attr(k).String(); a != v {
				t.Errorf("%s: %s is %q, want %q", msg, k, a, v)
			}
		}
		for _, k := range present {
			if got[0].Attr(k).Any() == nil {
				t.Errorf("%s: no %s", msg, k)
			}
		}
		return got[0]
	}
	open := check("websocket open", slog.LevelInfo, map[string]string{"subject": "alice", "client": "127.0.0.1", "origin": appOrigin}, "id")
	check("websocket close", slog.LevelInfo, map[string]string{
		"id": open.Attr("id").String(), "subject": "alice", "client": "127.0.0.1", "origin": appOrigin, "reason": "peer_closed", "peer_code": "4321",
		"code": "4321", "remote": "true", "detail": "done", "messages_in": "1", "messages_out": "1", "bytes_in": "5", "bytes_out": "5",
	}, "duration")
	check("websocket refusal", slog.LevelWarn, map[string]string{"status": "403", "reason": "origin", "origin": "https://evil.test", "client": "127.0.0.1", "host": e.s.Addr})
}

// An address is written in one way, whatever refused the request.
func TestEventClientIsAnAddress(t *testing.T) {
	wstest.CheckGoroutines(t)
	e := serveGuard(t, wsguard.Config{})
	e.refused(header("Upgrade", ""), 426, "not_upgrade")
	e.refused(header("Origin", "https://evil.test"), 403, "origin")
	e.g.Shutdown(context.Background())
	e.refused(header(), 503, "draining")
	for _, ev := range e.events.all() {
		if ev.Client != "127.0.0.1" {
			t.Errorf("%s: client %q", ev.Reason, ev.Client)
		}
	}
}

// unsafe says whether a log, a terminal or a page should not see r as it is.
func unsafe(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x2028 || r == 0x2029
}

const nasty = "a\r\nlevel=ERROR\x00\x1b[31m\x7f\u0085\u009b\u202e\u2066\u200f\u2028\xff\xfez"

// T73: nothing of a peer's choosing reaches the log as it is.
func TestEventT73Injection(t *testing.T) {
	wstest.CheckGoroutines(t)
	var text, js syncBuffer
	var log wstest.Log
	handlers := []slog.Handler{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&js, nil), &log}
	e := serveWith(t, wsguard.Config{
		Logger: slog.New(fan(handlers)),
		Auth: wsguard.AuthConfig{InsecureAnonymous: true, Verifier: wsguard.Verifier(func(context.Context, string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: nasty}, nil
		})},
		Messages: wsguard.MessageConfig{Validator: must(wsguard.CompileSchema([]byte(`{"additionalProperties":{"type":"integer"}}`))), OnInvalid: wsguard.ActionReply},
		Attach: func(r *http.Request, p wsguard.Principal) (any, error) {
			if r.Header.Get("X-Attach") != "" {
				return nil, errors.New("no: " + nasty)
			}
			return nil, nil
		},
	}, func(g *wsguard.Guard) http.Handler {
		return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			switch {
			case err != nil:
				return err
			case string(msg) == "1":
				return errors.New(nasty)
			case string(msg) == "2":
				panic(nasty)
			case string(msg) == "3":
				return c.Close(4001, nasty)
			}
			return &wsguard.CloseError{Code: 4002, Reason: nasty}
		})
	})
	// What net/http lets through on the wire.
	wire := "https://\u0085\u009b\u202e.test"
	e.refused(header("Origin", wire), 403, "origin")
	e.refused(header("X-Attach", "1"), 403, "forbidden")
	for _, msg := range []string{"1", "2", "3", "4", `{"x\u202e\n":"1"}`, "close"} {
		c := e.open(header("Authorization", "Bearer x"))
		if msg == "close" {
			c.WriteFrame(wstest.CloseFrame(4000, "a\r\n\x1b\x7f\u0085\u202ez"))
		} else {
			c.WriteFrame(wstest.Text(msg))
		}
		if strings.HasPrefix(msg, "{") {
			c.ReadMessage()
			bye(c)
		} else {
			c.ReadClose()
			c.Close()
		}
	}
	// What a middleware makes of a request.
	for _, edit := range []func(*http.Request){
		func(r *http.Request) { r.Header.Set("Origin", nasty) },
		func(r *http.Request) { r.Host = nasty },
		func(r *http.Request) { r.RemoteAddr = nasty },
		func(r *http.Request) { r.RemoteAddr = nasty; r.Header.Del("Upgrade") },
	} {
		r := upgradeRequest()
		edit(r)
		echoDoor(e.g).ServeHTTP(fakeHijacker{httptest.NewRecorder()}, r)
	}
	e.events.wait(t, audit.Close, 6)
	e.idle()
	bad := func(where, s string) {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, unsafe) {
			t.Errorf("%s: %q", where, s)
		}
	}
	for _, ev := range e.events.all() {
		for name, s := range map[string]string{"Subject": ev.Subject, "Client": ev.Client, "Origin": ev.Origin, "Host": ev.Host, "Reason": ev.Reason, "Detail": ev.Detail} {
			bad(fmt.Sprint("event ", ev.Kind, " ", name), s)
		}
	}
	for _, r := range log.Records() {
		for _, a := range r.Attrs {
			if a.Key != "stack" {
				bad("slog "+r.Message+" "+a.Key, a.Value.String())
			}
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n") {
		bad("text", line)
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("a line of the peer's: %q", line)
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(js.String(), "\n"), "\n") {
		bad("JSON", line)
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %q", line)
		}
	}
}

// fakeHijacker is a recorder whose connection nobody takes.
type fakeHijacker struct{ *httptest.ResponseRecorder }

func (f fakeHijacker) Unwrap() http.ResponseWriter {
	return &brokenWriter{ResponseWriter: f.ResponseRecorder}
}

// fan hands each record to several handlers.
type fan []slog.Handler

func (f fan) Enabled(context.Context, slog.Level) bool { return true }
func (f fan) Handle(ctx context.Context, r slog.Record) error {
	for _, h := range f {
		h.Handle(ctx, r.Clone())
	}
	return nil
}
func (f fan) WithAttrs([]slog.Attr) slog.Handler { return f }
func (f fan) WithGroup(string) slog.Handler      { return f }

// T74: repeated refusals are sampled, and counted.
func TestEventT74Sampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, wsguard.Config{})
		h := echoDoor(e.g)
		refuse := func(origin string) {
			r := upgradeRequest()
			r.Header.Set("Origin", origin)
			if origin == "" {
				r.Header.Del("Upgrade")
			}
			h.ServeHTTP(fakeHijacker{httptest.NewRecorder()}, r)
		}
		for i := range 1000 {
			refuse(fmt.Sprintf("https://evil%d.test", i))
		}
		if n := len(e.log.Find("websocket refusal")); n != 20 {
			t.Errorf("%d lines for 1,000 refusals, want 20", n)
		}
		// Another kind has lines of its own.
		refuse("")
		if n := len(e.log.Find("websocket refusal")); n != 21 {
			t.Errorf("%d lines, want 21", n)
		}
		time.Sleep(500 * time.Millisecond)
		refuse("https://evil.test")
		got := e.log.Find("websocket refusal")
		if last := got[len(got)-1]; last.Attr("suppressed").String() != "980" {
			t.Errorf("suppressed: %v, want 980", last.Attr("suppressed"))
		}
		if n := len(e.events.of(audit.Refusal)); n != 1002 {
			t.Errorf("%d events for 1,002 refusals", n)
		}
		// Nor is a count lost that no refusal follows, or that Shutdown does.
		sum := func(want uint64, when string) {
			t.Helper()
			got := e.log.Find("websocket refusal")
			last := got[len(got)-1]
			if n, r := last.Attr("suppressed"), last.Attr("reason").String(); n.String() != fmt.Sprint(want) || r != "origin" {
				t.Errorf("%s: suppressed %v of %s, want %d", when, n, r, want)
			}
		}
		time.Sleep(time.Minute)
		for range 100 {
			refuse("https://evil.test")
		}
		time.Sleep(time.Second + time.Millisecond)
		sum(80, "after a second")
		time.Sleep(time.Minute)
		for range 50 {
			refuse("https://evil.test")
		}
		if err := e.g.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		sum(30, "after Shutdown")
		n := len(e.log.Find("websocket refusal"))
		time.Sleep(time.Minute)
		if m := len(e.log.Find("websocket refusal")); m != n {
			t.Errorf("%d lines more", m-n)
		}
	})
}

// A steady flood has no more lines than its rate, each with what came before it;
// what was only reported is not counted as refused.
func TestEventT74Steady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := serveGuard(t, wsguard.Config{
			Messages: wsguard.MessageConfig{Validator: must(wsguard.CompileSchema([]byte(`false`))), ReportOnly: true},
			Rates:    wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: wsguard.Off}, ClientMessages: wsguard.Rate{PerSecond: wsguard.Off}},
		})
		c := e.open(header())
		for range 1000 {
			roundTrip(t, c, "1")
			time.Sleep(10 * time.Millisecond)
		}
		lines := e.log.Find("websocket violation")
		if len(lines) > 20+5*10+1 {
			t.Errorf("%d lines in 10 s", len(lines))
		}
		time.Sleep(2 * time.Second)
		n := 0
		for _, l := range e.log.Find("websocket violation") {
			if l.Attr("report_only").String() != "true" {
				t.Errorf("not said to be a report: %v", l)
			}
			if l.Attr("id").Any() != nil {
				n++
			}
			if s := l.Attr("suppressed"); s.Any() != nil {
				n += int(s.Uint64())
			}
		}
		if n != 1000 {
			t.Errorf("%d of 1,000 accounted for", n)
		}
		bye(c)
	})
}

// T76: a hook or a logger that panics loses the event, nothing else.
func TestEventT76Panics(t *testing.T) {
	wstest.CheckGoroutines(t)
	for _, tt := range []struct {
		name string
		cfg  wsguard.Config
	}{
		{"T76 OnEvent", wsguard.Config{OnEvent: func(audit.Event) { panic("hook") }}},
		{"T76 logger", wsguard.Config{Logger: slog.New(panicHandler{slog.NewTextHandler(io.Discard, nil)})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := serveGuard(t, tt.cfg)
			c := e.open(header())
			roundTrip(t, c, "hello")
			bye(c)
			e.refused(header("Origin", "https://evil.test"), 403, "origin")
			e.idle()
			if n := len(e.events.of(audit.Close)); n != 1 {
				t.Errorf("%d close events", n)
			}
		})
	}
}

type panicHandler struct{ slog.Handler }

func (panicHandler) Handle(context.Context, slog.Record) error { panic("logger") }

// T29, T30, T75: no credential is in any event or log, on any path.
func TestEventNoSecrets(t *testing.T) {
	wstest.CheckGoroutines(t)
	var text, js syncBuffer
	var log wstest.Log
	const secret = "5ecr3t"
	e := newEnv(t, wsguard.Config{
		Logger: slog.New(fan{slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&js, nil), &log}),
		Auth:   wsguard.AuthConfig{Verifier: newTokens().Verify, Tickets: &wsguard.TicketConfig{}, VerifyTimeout: 50 * time.Millisecond, CacheTTL: time.Second, MaxExplained: 2, Sources: wsguard.TokenSources{Header: true, Subprotocol: "bearer.", Cookie: "session", InsecureQuery: "token", FirstMessage: true}},
		Rates:  wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},

		Subprotocols: []string{"chat"},
		// Whatever is refused before the upgrade and after it, and said again.
		Messages: wsguard.MessageConfig{OnForbidden: wsguard.ActionReply, Authorize: func(_ context.Context, _ wsguard.Principal, _ string, msg []byte) error {
			if strings.HasPrefix(string(msg), "forbidden-") {
				return errors.New("no")
			}
			return nil
		}},
		// The client of /refresh does not answer a close frame.
		Timeouts: wsguard.TimeoutConfig{CloseGrace: 50 * time.Millisecond, Linger: 50 * time.Millisecond},
	})
	// Every message is a newer credential.
	mux := ticketMux(e.g)
	mux.Handle("/refresh", e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			_, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			said := "ok"
			if err := c.Refresh(ctx, string(msg)); err != nil {
				said = err.Error()
			}
			if strings.Contains(said, secret) {
				t.Error("the error says it:", said)
			}
			if err := c.Write(ctx, wsguard.MessageText, []byte(said)); err != nil {
				return err
			}
		}
	}))
	e.serve(mux)
	for _, name := range []string{"alice", "wrong", "unavailable", "panic", "nobody", "expired", "hang"} {
		token := name + "-" + secret
		for _, o := range []wstest.HandshakeOptions{
			{Path: "/ws", Header: header("Authorization", "Bearer "+token)},
			{Path: "/ws", Header: header("Cookie", "session="+token)},
			{Path: "/ws", Header: header("Sec-WebSocket-Protocol", "chat, bearer."+token)},
			{Path: "/ws", Header: header("Sec-WebSocket-Protocol", "bearer."+token)},
			{Path: "/ws", Header: header("Sec-WebSocket-Protocol", "other, bearer."+token)},
			{Path: "/ws", Header: header("Sec-WebSocket-Protocol", "Bearer."+token)},
			{Path: "/ws?token=" + token, Header: header()},
			{Path: "/ws?ticket=" + token, Header: header()},
			{Path: "/ws?token=" + token + "&token=" + token, Header: header()},
			{Path: "/ws?token=" + token, Header: header("Origin", "https://evil.test")},
			{Path: "/ws?token=" + token, Header: header("Upgrade", "")},
			{Path: "/ws", Header: header(), Early: wstest.AppendFrame(nil, first(token))},
			{Path: "/ws", Header: header(), Early: wstest.AppendFrame(nil, wstest.Text(`{"auth":"`+token+`"}`))},
			{Path: "/ws", Header: header(), Early: wstest.AppendFrame(nil, wstest.Text(`{"type":"auth","token":"`+token+`"`))},
			{Path: "/ws", Header: header(), Early: wstest.AppendFrame(nil, first(token+strings.Repeat("x", 5000)))},
		} {
			c, res := e.tryWith(o)
			if res.StatusCode == 101 {
				c.WriteFrame(wstest.Text("payload-" + secret))
				c.WriteFrame(wstest.CloseFrame(1000, ""))
				c.ReadClose()
			}
			c.Close()
		}
		e.request("POST", "/ticket", bearer(token))
		c, res := e.tryWith(wstest.HandshakeOptions{Path: "/refresh", Header: bearer("alice")})
		if res.StatusCode == 101 {
			c.WriteFrame(wstest.Text("forbidden-" + secret))
			c.WriteFrame(wstest.Text(token))
			for {
				f, err := c.ReadFrame()
				if err != nil {
					break
				}
				if strings.Contains(string(f.Payload), secret) {
					t.Errorf("told to the peer: %q", f.Payload)
				}
				if f.Opcode == wstest.OpText && !strings.Contains(string(f.Payload), "forbidden") {
					c.WriteFrame(wstest.CloseFrame(1000, ""))
				}
			}
		}
		c.Close()
	}
	e.idle()
	for s := range e.g.Admin().Sessions() {
		t.Errorf("still there: %+v", s)
	}
	for _, ev := range e.events.all() {
		if s := renderEvent(ev); strings.Contains(s, secret) {
			t.Errorf("event: %s", s)
		}
	}
	for name, s := range map[string]string{"text": text.String(), "JSON": js.String(), "records": log.String()} {
		if i := strings.Index(s, secret); i >= 0 {
			t.Errorf("%s: …%s", name, s[max(0, i-200):i+20])
		}
	}
}

// What a peer does wrong is a warning in the log also where it ends the connection,
// which is none.
func TestEventClosingViolations(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg    wsguard.Config
		send   []byte
		reason string
	}{
		"rate":     {wsguard.Config{Rates: wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: never, Burst: 1}}}, wstest.AppendFrame(wstest.AppendFrame(nil, wstest.Text("a")), wstest.Text("b")), "rate_limited"},
		"schema":   {wsguard.Config{Messages: wsguard.MessageConfig{Validator: must(wsguard.CompileSchema([]byte(`{"type":"integer"}`)))}}, wstest.AppendFrame(nil, wstest.Text(`"1"`)), "schema"},
		"frame":    {wsguard.Config{}, []byte("\x81\x01x"), "protocol_error"},
		"type":     {wsguard.Config{}, wstest.AppendFrame(nil, wstest.Frame{Fin: true, Opcode: wstest.OpBinary, Masked: true}), "message_type"},
		"size":     {wsguard.Config{}, []byte("\x81\xff\x00\x00\x01\x00\x00\x00\x00\x00"), "message_too_big"},
		"none":     {wsguard.Config{}, wstest.AppendFrame(nil, wstest.CloseFrame(1000, "")), ""},
		"silence":  {wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}}}, nil, "auth_timeout"},
		"password": {wsguard.Config{Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}}}, wstest.AppendFrame(nil, first("wrong")), "unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := serveGuard(t, tt.cfg)
				c := e.open(header())
				c.Write(tt.send)
				for {
					if _, _, err := c.ReadMessage(); err != nil {
						break
					}
				}
				c.Close()
				e.events.wait(t, audit.Close, 1)
				vs, cs := e.log.Find("websocket violation"), e.log.Find("websocket close")
				if len(cs) != 1 || cs[0].Level != slog.LevelInfo {
					t.Errorf("closes: %v", cs)
				}
				if tt.reason == "" {
					if len(vs) > 0 {
						t.Errorf("%v", vs)
					}
					return
				}
				if len(vs) != 1 || vs[0].Level != slog.LevelWarn || vs[0].Attr("reason").String() != tt.reason || cs[0].Attr("reason").String() != tt.reason {
					t.Errorf("violations %v, closes %v; want %s", vs, cs, tt.reason)
				}
			})
		})
	}
}

// A hook comes after the cause: it cannot put another in its place.
func TestEventAfterTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g *wsguard.Guard
		e := serveGuard(t, wsguard.Config{OnEvent: func(ev audit.Event) {
			if ev.Kind == audit.Violation {
				g.Admin().Kick(ev.ConnID, 0, "")
			}
		}})
		g = e.g
		c := e.open(header())
		c.WriteFrame(wstest.Frame{Fin: true, Opcode: wstest.OpBinary, Masked: true})
		wantClose(t, c, 1003, "message_type")
		c.Close()
		e.events.wait(t, audit.Close, 1)
		if ev := e.events.of(audit.Close)[0]; ev.Violations != 1 || ev.Reason != "message_type" {
			t.Errorf("%+v", ev)
		}
	})
}

// Nobody is accused of what the server could not do, or of what came after the
// end.
func TestEventNoAccusation(t *testing.T) {
	for name, tt := range map[string]struct {
		token  string
		attach time.Duration
		act    func(g *wsguard.Guard)
		reason string
	}{
		"verifier down":           {"unavailable", 0, nil, "unavailable"},
		"shut down while it asks": {"hang", 0, func(g *wsguard.Guard) { g.Shutdown(context.Background()) }, "draining"},
		"shut down in Attach":     {"alice", 4 * time.Second, func(g *wsguard.Guard) { g.Shutdown(context.Background()) }, "draining"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := serveGuard(t, wsguard.Config{
					Auth: wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}},
					Attach: func(*http.Request, wsguard.Principal) (any, error) {
						time.Sleep(tt.attach)
						return nil, errors.New("no")
					},
				})
				c := e.open(header())
				c.WriteFrame(first(tt.token))
				synctest.Wait()
				if tt.act != nil {
					tt.act(e.g)
				}
				c.ReadClose()
				c.Close()
				time.Sleep(time.Minute)
				cs := e.events.of(audit.Close)
				if vs := e.events.of(audit.Violation); len(vs) > 0 || len(cs) != 1 || cs[0].Reason != tt.reason {
					t.Errorf("violations %+v, closes %+v", vs, cs)
				}
			})
		})
	}
}
