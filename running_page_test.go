package wsguard_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// docs/running-services.md has each reason once: in the table of what Observe lets pass, which the
// tests named here show, of what InsecureObserve lets pass, or of what still refuses.
func TestRunningServicesPage(t *testing.T) {
	tables := map[string]map[string]bool{}
	tableRows(t, "docs/running-services.md", func(heading string, cells []string) {
		if tables[heading] == nil {
			tables[heading] = map[string]bool{}
		}
		for _, m := range codeText.FindAllStringSubmatch(cells[0], -1) {
			for other, reasons := range tables {
				if reasons[m[1]] {
					t.Errorf("%s is in the table %q already", m[1], other)
				}
			}
			tables[heading][m[1]] = true
		}
	})
	passes := []string{ // TestReportOnlyAll, TestReportOnlyReplacesNothing, TestObserveInFlight, TestObserveValidators
		"max_conns", "max_client_conns", "max_subject_conns", "handshake_rate", "rate_limited", "in_flight", "idle",
		"schema", "unknown_type", "invalid_json", "json_limit",
	}
	for name := range harmless {
		passes = append(passes, name)
	}
	for heading, want := range map[string][]string{
		"What Observe lets pass":         passes,
		"What InsecureObserve lets pass": {"origin", "fetch_metadata", "unauthenticated", "guessing", "forbidden"}, // TestInsecureObserve
	} {
		for name := range tables[heading] {
			if !slices.Contains(want, name) {
				t.Errorf("%q has %s, and no test shows it", heading, name)
			}
		}
		if len(tables[heading]) != len(want) {
			t.Errorf("%q has %d reasons, want %d", heading, len(tables[heading]), len(want))
		}
	}
	ends := []string{"", "closed", "peer_closed", "connection_lost", "request_done"} // nothing is refused
	known := map[string]bool{}
	for _, r := range reason.All() {
		known[r.Token()] = true
		n := 0
		for _, reasons := range tables {
			if reasons[r.Token()] {
				n++
			}
		}
		if want := !slices.Contains(ends, r.Token()); (n == 1) != want {
			t.Errorf("%s is in %d tables", r.Token(), n)
		}
	}
	for heading, reasons := range tables {
		for name := range reasons {
			if !known[name] {
				t.Errorf("%q has %s, which is no reason", heading, name)
			}
		}
	}
}

// What the page shows of Suggest are lines of Suggest.
func TestRunningServicesSample(t *testing.T) {
	b, err := os.ReadFile("docs/running-services.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.SplitSeq(string(b), "\n") {
		field, rest, ok := strings.Cut(line, ": ")
		if !ok || !slices.Contains(wsguard.Suggestible(), field) {
			continue
		}
		n++
		value, rest, _ := strings.Cut(rest, " (now ")
		now, _, _ := strings.Cut(rest, ";")
		for _, s := range []string{value, now} {
			if !regexp.MustCompile(`^(\d+( << \d+)?|wsguard\.Rate\{PerSecond: [\d.]+, Burst: \d+\})$`).MatchString(s) {
				t.Errorf("%s: %q is no value", field, s)
			}
		}
	}
	if n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
}

// Under Observe, a message that a Validator refuses passes, for each of its reasons.
func TestObserveValidators(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := observing()
		cfg.Messages.Validator = &wsguard.Table{Types: map[string]wsguard.Rule{"say": {Validator: must(wsguard.CompileSchema([]byte(`{"required": ["text"]}`)))}}}
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		c := e.open(header())
		for want, msg := range map[string]string{
			"schema": `{"type":"say"}`, "unknown_type": `{"type":"shout"}`, "invalid_json": `{`, "json_limit": `{"type":"say","text":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		} {
			roundTrip(t, c, msg)
			if n := reports(t, e.events.all())[want]; n != 1 {
				t.Errorf("%s was reported %d times", want, n)
			}
		}
		c.Close()
	})
}

// A service is observed, and Suggest says which limits fit it.
func ExampleGuard_Suggest() {
	existing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the guard checks the origin
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		for {
			typ, msg, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), typ, msg) != nil {
				return
			}
		}
	})
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth:    wsguard.AuthConfig{InsecureAnonymous: true}, // the service authenticates by itself
		Observe: true,
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := httptest.NewServer(guard.Wrap(existing))
	defer srv.Close()

	ctx := context.Background()
	c, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://app.example.com"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for _, size := range []int{100, 40_000, 200} { // 40,000 bytes are more than Messages.MaxBytes
		c.Write(ctx, websocket.MessageText, []byte(strings.Repeat("x", size)))
		c.Read(ctx)
	}
	for _, s := range guard.Suggest() {
		if s.Field == "Messages.MaxBytes" || s.Field == "Caps.MaxConnsPerClient" {
			fmt.Println(s)
		}
	}
	// Output:
	// Caps.MaxConnsPerClient: 16 (now 64; 99.9 % use at most 1 connections; 0 refused)
	// Messages.MaxBytes: 64 << 10 (now 32 << 10; 99.9 % use at most 40960 bytes; 1 refused)
}

var _ fmt.Stringer = audit.Suggestion{}
