package wsguard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// WriteJSON and SendJSON send what json.Marshal returns, in the order of the calls.
func TestWriteJSON(t *testing.T) {
	type said struct {
		Type string  `json:"type"`
		Text string  `json:"text,omitempty"`
		N    float64 `json:"n"`
	}
	values := []any{
		said{"say", "a < b && \u2028 \u00e9", 1e21}, &said{N: -0.5}, map[string]any{"b": 1, "a": []int{}}, nil, "", true, 7,
		[]string{"x\xff", strings.Repeat("long ", 30_000)}, json.RawMessage("{\n\"a\" : 1}\n"), "short again\n",
	}
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf())
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for _, v := range values {
				if err := errors.Join(wsguard.SendJSON(c, v), wsguard.SendJSON(c, v), wsguard.WriteJSON(ctx, c, v)); err != nil {
					t.Errorf("%v: %v", v, err)
				}
			}
			return nil
		}))
		c := e.open(header())
		for _, v := range values {
			for range 3 {
				wantMessage(t, c, string(must(json.Marshal(v))))
			}
		}
		wantClose(t, c, 1000, "")
	})
}

// panicker is a value that cannot be encoded.
type panicker struct{}

func (panicker) MarshalJSON() ([]byte, error) { panic("evil") }

// A value that cannot be encoded sends nothing and harms nothing. Nor does a message that
// Outbound refuses.
func TestWriteJSONRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) { cfg.Messages.Outbound = refuseWord("bad") }))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for _, v := range []any{make(chan int), math.NaN(), []any{1, func() {}}, json.RawMessage("{"), json.RawMessage("\"\xff\""), "bad", panicker{}} {
				for name, send := range map[string]func() error{
					"WriteJSON": func() error { return wsguard.WriteJSON(ctx, c, v) },
					"SendJSON":  func() error { return wsguard.SendJSON(c, v) },
				} {
					err := func() (err error) {
						defer func() {
							if p := recover(); p != nil {
								err = fmt.Errorf("panic: %v", p)
							}
						}()
						return send()
					}()
					var ended *wsguard.CloseError
					if err == nil || errors.As(err, &ended) {
						t.Errorf("%s: %v", name, err)
					}
					var unsupported *json.UnsupportedTypeError
					if _, ok := v.(chan int); ok && !errors.As(err, &unsupported) {
						t.Errorf("%s: %v is no error of encoding/json", name, err)
					}
					if s, ok := v.(json.RawMessage); ok && len(s) > 1 && !errors.Is(err, reason.InvalidUTF8) {
						t.Errorf("%s: %v for a text that is not UTF-8", name, err)
					}
				}
			}
			return wsguard.WriteJSON(ctx, c, "good")
		}))
		c := e.open(header())
		wantMessage(t, c, `"good"`)
		wantClose(t, c, 1000, "")
	})
}

// After the end, both return its cause.
func TestWriteJSONAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf())
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			c.Close(4000, "over")
			var ended *wsguard.CloseError
			for _, err := range []error{wsguard.WriteJSON(context.Background(), c, 1), wsguard.SendJSON(c, 1)} {
				if !errors.As(err, &ended) || ended.Code != 4000 {
					t.Errorf("%v", err)
				}
			}
			return nil
		}))
		c := e.open(header())
		wantClose(t, c, 4000, "over")
	})
}

// Encoding uses its memory again.
func TestWriteJSONAllocs(t *testing.T) {
	e := newEnv(t, conf(patient))
	result := make(chan float64, 1)
	const rounds = 10_000
	e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		v := &struct{ Type, Text string }{"say", "hello"}
		result <- testing.AllocsPerRun(1, func() {
			for range rounds {
				if err := wsguard.WriteJSON(ctx, c, v); err != nil {
					t.Error(err)
					return
				}
			}
		})
		return nil
	}))
	c := e.open(header())
	go func() {
		b := make([]byte, 1<<16)
		for {
			if _, err := c.Conn().Read(b); err != nil {
				return
			}
		}
	}()
	if n := <-result; n > 1000 && !raceDetector() { // the collector may empty the pools
		t.Errorf("%v allocations in %d rounds", n, rounds)
	}
}
