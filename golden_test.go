package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(bytes.ReplaceAll(want, []byte("\r\n"), []byte("\n"))) == got {
		return
	}
	had := strings.Split(string(want), "\n")
	for _, line := range strings.Split(got, "\n") {
		if !slices.Contains(had, line) {
			t.Errorf("new in %s: %s", name, line)
		}
	}
	t.Errorf("%s differs; write it anew with go test -run %s -update .", name, t.Name())
}

// The log, line by line, with an event of each kind. Every field has the place and the name that
// it has for good.
func TestGoldenLog(t *testing.T) {
	bothDoors(t)
	var log syncBuffer
	kinds := map[audit.Kind]bool{}
	records := map[string]bool{}
	bubble(t, func(t *testing.T) {
		cfg := conf(noHandshakeLimits, noPings, func(cfg *wsguard.Config) {
			cfg.Name = "echo"
			cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			cfg.Observer = func(ctx context.Context, r audit.Record) {
				records[strings.TrimPrefix(fmt.Sprintf("%T", r), "audit.")] = true
			}
			cfg.Auth = wsguard.AuthConfig{Verifier: goldenLogin, Tickets: &wsguard.TicketConfig{}}
			cfg.Messages.Validator = must(wsguard.CompileSchema([]byte(`{"type":"object","additionalProperties":false,"properties":{"text":{"type":"string"}}}`)))
			cfg.Messages.OnInvalid = wsguard.ActionReply
			cfg.Penalties.Violations = wsguard.Rate{PerSecond: never, Burst: 2}
			cfg.Penalties.First = time.Hour
			cfg.Proxies.Trusted, cfg.InsecureAllowHTTP = []string{"127.0.0.1"}, true
		})
		e := newEnv(t, cfg)
		mux := http.NewServeMux()
		mux.Handle("/", e.g.Handler(goldenApp))
		mux.Handle("POST /ticket", e.g.TicketHandler(nil))
		mux.Handle("/wrap", e.g.Wrap(coderEcho()))
		e.serve(mux)
		goldenDay(e) // Shutdown has waited for the observer
		for _, ev := range e.events.all() {
			kinds[ev.Kind] = true
		}
	})
	golden(t, "log.golden", constant(log.String()))
	source, err := os.ReadFile("audit/audit.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\t\w+ +Kind = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		if !kinds[audit.Kind(m[1])] && !strings.HasPrefix(m[1], "spike") {
			t.Errorf("no event of the kind %s", m[1])
		}
	}
	types, err := os.ReadFile("audit/record.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^func \((?:r )?(\w+)\) Kind\(`).FindAllStringSubmatch(string(types), -1) {
		if !records[m[1]] && !strings.HasPrefix(m[1], "Spike") {
			t.Errorf("no record of the type %s", m[1])
		}
	}
}

func goldenLogin(_ context.Context, token string) (wsguard.Principal, error) {
	subject, login, ok := strings.Cut(token, ".")
	if !ok {
		return wsguard.Principal{}, errors.New("the token is\nno token")
	}
	return wsguard.Principal{Subject: subject, SessionID: login}, nil
}

// goldenApp echoes, and does what a message asks for.
func goldenApp(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		switch {
		case err != nil:
			return err
		case bytes.Contains(msg, []byte("refresh")):
			err = c.Refresh(ctx, "alice.two")
		case bytes.Contains(msg, []byte("guess")):
			c.Refresh(ctx, "guess")
		case bytes.Contains(msg, []byte("fail")):
			return errors.New("the handler\x1b has failed")
		case bytes.Contains(msg, []byte("panic")):
			panic(wsguard.ErrForbidden)
		}
		if err == nil {
			err = c.Write(ctx, typ, msg)
		}
		if err != nil {
			return err
		}
	}
}

// goldenDay makes an event of each kind happen, one after the other.
func goldenDay(e *env) {
	t := e.t
	t.Helper()
	admin := e.g.Admin().By("root\u202e@console")
	login := func(token string) *wstest.Client {
		c, _ := e.tryWith(wstest.HandshakeOptions{Path: "/chat/lobby?secret=1", Header: header("Authorization", "Bearer "+token, "X-Request-Id", "req-1\u202e")})
		e.opened()
		roundTrip(t, c, "{}") // the handler runs
		synctest.Wait()       // and the answer has been counted
		return c
	}
	say := func(c *wstest.Client, text string) {
		c.WriteFrame(wstest.Text(`{"text":"` + text + `"}`))
		c.ReadMessage()
		synctest.Wait()
	}
	end := func(c *wstest.Client) {
		c.Timeout = time.Minute
		c.ReadClose()
		c.Close()
		e.closed()
		e.idle() // the handler has returned
	}
	e.refused(header("Origin", "https://evil.test\u0085"), 403, "origin")
	e.refused(bearer("bad"), 401, "unauthenticated")
	c := login("alice.one")
	say(c, "hello")
	say(c, "refresh")
	say(c, "guess")
	c.WriteFrame(wstest.Text(`{"secret":"of the application"}`))
	c.ReadMessage()
	c.WriteFrame(wstest.CloseFrame(4321, "done\u202e"))
	end(c)
	c = login("alice.one")
	say(c, "fail")
	end(c)
	c = login("alice.one")
	say(c, "panic")
	end(c)
	c = login("bob.one")
	admin.SignOut("one")
	end(c)
	c = login("bob.two")
	admin.Revoke("bob")
	end(c)
	admin.Restore("bob")
	c = login("carol.two")
	for s := range admin.Sessions() {
		admin.Kick(s.ID, 0, "too loud")
	}
	end(c)
	c, _ = e.tryWith(wstest.HandshakeOptions{Path: "/wrap", Header: bearer("dora.two")})
	e.opened()
	c.Close()
	e.closed()
	e.idle()
	e.request("POST", "/ticket", header("Authorization", "Bearer erin.three"))
	if err := admin.Ban("203.0.113.7", time.Hour, "scraper"); err != nil {
		t.Fatal(err)
	}
	admin.Lift("203.0.113.7")
	for i := range 30 {
		e.try(header("Authorization", fmt.Sprint("Bearer bad", i), "X-Forwarded-For", "198.51.100.9")) // a ban, and then suppressed lines
	}
	time.Sleep(2 * time.Second)
	e.cfg.Origins = append(e.cfg.Origins, "http://plain.example.com")
	e.cfg.InsecureReportOnlyOrigins = true
	e.reconfigure(e.cfg)
	admin.Lift("198.51.100.9")
	c, _ = e.try(header("Origin", "https://other.test", "Authorization", "Bearer fred.three"))
	e.opened()
	c.WriteFrame(wstest.Binary(nil))
	end(c)
	if err := e.g.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// constant puts constant texts in the place of what differs from run to run.
func constant(log string) string {
	for _, c := range [][2]string{
		{`[0-9a-f]{32}`, "ID"}, {`time=\S+ `, ""}, {`duration=\S+`, "duration=D"}, {`stack="[^"]*(\\"[^"]*)*"`, "stack=STACK"}, {`until \S+`, "until TIME"},
	} {
		log = regexp.MustCompile(c[0]).ReplaceAllString(log, c[1])
	}
	return log
}
