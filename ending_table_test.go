package wsguard_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// endingRows reads the table of how a connection ends at the top of lifecycle.go.
func endingRows(t *testing.T) (rows [][]string) {
	t.Helper()
	src, err := os.ReadFile("lifecycle.go")
	if err != nil {
		t.Fatal(err)
	}
	columns := regexp.MustCompile(` {2,}`)
	for line := range strings.Lines(string(src)) {
		if row, ok := strings.CutPrefix(line, "//\t"); ok {
			rows = append(rows, columns.Split(strings.TrimSpace(row), -1))
		}
	}
	if len(rows) != 8 || rows[0][0] != "function" {
		t.Fatalf("the table of lifecycle.go: %q", rows)
	}
	return rows[1:]
}

// TestEndings ends a connection by each function of the table in lifecycle.go for each
// reason, and compares what the peer and the events see with the table.
func TestEndings(t *testing.T) {
	for _, row := range endingRows(t) {
		if len(row) != 6 {
			t.Fatalf("%q has not six columns", row)
		}
		t.Run(row[0], func(t *testing.T) {
			for name, why := range reasons {
				switch row[0] {
				case "because", "violation", "badCredential":
					if why.Code() == 0 {
						continue // it refuses handshakes only
					}
				case "fault":
					why = reason.Internal
				case "byPeer":
					why = reason.PeerClosed
				case "lost":
					why = reason.ConnectionLost
				}
				t.Run(name, func(t *testing.T) { testEnding(t, row, why) })
			}
		})
	}
}

func testEnding(t *testing.T, row []string, why *reason.Reason) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Proxies.ClientName = func(*http.Request) string { return "somebody" } // loopback is not banned
			cfg.Penalties.Violations = wsguard.Rate{PerSecond: never, Burst: 1}
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if !c.EndAs(row[0], why) {
				t.Errorf("there is no function %q", row[0])
			}
			return nil
		}))
		weight := wsguard.Offences[row[5]]
		if _, ok := wsguard.Offences[row[5]]; !ok {
			t.Fatalf("unknown offences %q", row[5])
		}
		violations := map[string]int{"yes": 1}[row[4]]
		if why == reason.Internal || why == reason.Unavailable {
			violations, weight = 0, nil
		}
		for range 2 { // each weight is at least 1, so that two are beyond a burst of 1
			c, res := e.dial(), (*http.Response)(nil)
			res, err := c.Handshake("/", header())
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusSwitchingProtocols {
				break // the ban
			}
			before := len(e.events.of(audit.Violation))
			code, text := endingFrame(row[2], why)
			got, gotText, err := c.ReadClose()
			sent := err == nil
			if code == 1006 && sent || code != 1006 && (!sent || got != int(code) || gotText != text) {
				t.Errorf("the peer got %d %q, %v; want %d %q", got, gotText, err, code, text)
			}
			c.Close()
			ev := e.closed()
			var cause *wsguard.CloseError
			if !errors.As(ev.Err, &cause) || cause.Code != code || cause.Reason != text || !errors.Is(cause, why) {
				t.Errorf("cause %v; want %d %q, and %v", ev.Err, code, text, why)
			}
			if ev.Remote != (row[3] == "yes") {
				t.Errorf("Remote is %v", ev.Remote)
			}
			if ev.Violations != uint64(violations) {
				t.Errorf("%d violations were counted, want %d", ev.Violations, violations)
			}
			if n := len(e.events.of(audit.Violation)) - before; n != violations {
				t.Errorf("%d violations were reported, want %d", n, violations)
			}
		}
		if banned := len(e.g.Admin().Bans()) > 0; banned != (weight[why] > 0) {
			t.Errorf("banned: %v; the weight is %v", banned, weight[why])
		}
	})
}

// endingFrame is what the column of codes says.
func endingFrame(column string, why *reason.Reason) (wsguard.StatusCode, string) {
	switch column {
	case "of the reason", "of Internal":
		return why.Code(), why.Token()
	case "chosen":
		return 4001, "chosen"
	case "the peer's":
		return 4002, "by peer"
	case "1006, not sent":
		return 1006, ""
	}
	return 0, "an unknown column " + column
}
