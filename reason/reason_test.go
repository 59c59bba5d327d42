package reason_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/reason"
)

func TestNew(t *testing.T) {
	r := reason.New("room_closed", "the room is closed", 4004)
	if r.Token() != "room_closed" || r.Error() != "wsguard: the room is closed" || r.Code() != 4004 || r.Status() != 403 || r.Timeout() {
		t.Errorf("%q %q %d %d %v", r.Token(), r, r.Code(), r.Status(), r.Timeout())
	}
	if !r.Own() || reason.Schema.Own() {
		t.Error("Own")
	}
	if err := fmt.Errorf("no: %w", r); !errors.Is(err, r) || errors.Is(err, reason.New("room_closed", "the room is closed", 4004)) {
		t.Error("errors.Is")
	}
}

func TestNewPanics(t *testing.T) {
	for _, tt := range []struct {
		token, text string
		code        websocket.StatusCode
		good        bool
	}{
		{"a", "x", 3000, true},
		{"a9_", "x", 4999, true},
		{strings.Repeat("a", 40), "x", 1008, true},
		{"a", "x", 1000, true},
		{"a", "x", 1013, true},
		{strings.Repeat("a", 41), "x", 4000, false},
		{"", "x", 4000, false},
		{"9a", "x", 4000, false},
		{"_a", "x", 4000, false},
		{"A", "x", 4000, false},
		{"a-b", "x", 4000, false},
		{"a b", "x", 4000, false},
		{"a\n", "x", 4000, false},
		{"ä", "x", 4000, false},
		{"rate_limited", "x", 4000, false}, // of this package
		{"a", "", 4000, false},
		{"a", "x\ny", 4000, false},
		{"a", "\u202e", 4000, false},
		{"a", "x", 0, false},
		{"a", "x", -1, false},
		{"a", "x", 999, false},
		{"a", "x", 1004, false},
		{"a", "x", 1005, false},
		{"a", "x", 1006, false},
		{"a", "x", 1010, false},
		{"a", "x", 1015, false},
		{"a", "x", 2999, false},
		{"a", "x", 5000, false},
	} {
		func() {
			defer func() {
				if v := recover(); (v == nil) != tt.good {
					t.Errorf("New(%q, %q, %d): %v", tt.token, tt.text, tt.code, v)
				}
			}()
			reason.New(tt.token, tt.text, tt.code)
		}()
	}
}

// The ready-made tables have only reasons that close connections. Policy maps all that
// have a code of 3000 and above, and nothing but them.
func TestReadyMadeCodes(t *testing.T) {
	for why, code := range reason.GraphQL() {
		if why.Code() == 0 || code != websocket.StatusPolicyViolation && (code < 4400 || code > 4499) {
			t.Errorf("GraphQL: %d for %s", code, why.Token())
		}
	}
	policy := reason.Policy()
	for why, code := range policy {
		if why.Code() < 3000 || code != websocket.StatusPolicyViolation {
			t.Errorf("Policy: %d for %s", code, why.Token())
		}
	}
	if len(policy) != 8 {
		t.Errorf("Policy has %d reasons", len(policy))
	}
}
