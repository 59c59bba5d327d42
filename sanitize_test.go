package wsguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// exchange returns a Sanitize that replaces a word in the message.
func exchange(old, new string) func(string, []byte) ([]byte, error) {
	return func(_ string, msg []byte) ([]byte, error) {
		return bytes.ReplaceAll(msg, []byte(old), []byte(new)), nil
	}
}

// What Sanitize returns is what the application gets, whatever the length of the message is
// before and after. The message that comes behind it is not touched.
func TestSanitize(t *testing.T) {
	lengths := []int{0, 1, 2, 100, 125, 126, 127, 4000, 4096, 5000, 65535, 65536, 100_000}
	bubble(t, func(t *testing.T) {
		var next atomic.Int64
		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages.MaxBytes, cfg.Messages.Binary = 200_000, true
			cfg.Messages.Sanitize = func(kind string, msg []byte) ([]byte, error) {
				if len(msg) > 0 && msg[0] == '=' {
					return msg, nil
				}
				if kind != "" {
					t.Errorf("kind is %q", kind)
				}
				return bytes.Repeat([]byte("y"), int(next.Load())), nil
			}
		}))
		c := e.open(header())
		for _, from := range lengths {
			for _, to := range lengths {
				for _, frame := range []func(string) wstest.Frame{wstest.Text, func(s string) wstest.Frame { return wstest.Binary([]byte(s)) }} {
					next.Store(int64(to))
					b := wstest.AppendFrame(nil, frame(strings.Repeat("x", from)))
					b = wstest.AppendFrame(b, wstest.Text("=behind it"))
					if _, err := c.Conn().Write(b); err != nil {
						t.Fatal(err)
					}
					f := frame(strings.Repeat("y", to))
					if op, got, err := c.ReadMessage(); err != nil || op != f.Opcode || !bytes.Equal(got, f.Payload) {
						t.Fatalf("%d to %d: opcode %d, %d bytes, %v", from, to, op, len(got), err)
					}
					wantMessage(t, c, "=behind it")
				}
			}
		}
		bye(c)
	})
}

// sanitizeCases are what a Sanitize may do with a message of chatTable. say is what the client
// sends, unless msg is set.
var sanitizeCases = map[string]struct {
	msg      string
	sanitize func(kind string, msg []byte) ([]byte, error)
	text     string // what the application gets; "": nothing
	why      *reason.Reason
	code     int
	reported string // what it gets with report-only; "": the connection ends as with ActionClose
}{
	"nothing":          {sanitize: func(_ string, msg []byte) ([]byte, error) { return msg, nil }, text: say},
	"a copy":           {sanitize: func(_ string, msg []byte) ([]byte, error) { return bytes.Clone(msg), nil }, text: say},
	"shorter":          {sanitize: exchange("hello", "h"), text: `{"type":"say","text":"h"}`},
	"longer":           {sanitize: exchange("hello", "hello, world"), text: `{"type":"say","text":"hello, world"}`},
	"in place":         {sanitize: func(_ string, msg []byte) ([]byte, error) { return bytes.ToUpper(msg[:0:0]), edit(msg) }, text: "", why: reason.InvalidJSON, code: 1007},
	"in place, for it": {sanitize: func(_ string, msg []byte) ([]byte, error) { return msg, edit(msg) }, text: `{"type":"say","text":"HELLO"}`},
	"in place, and an error": {
		sanitize: func(_ string, msg []byte) ([]byte, error) { return msg, errors.Join(edit(msg), errors.New("no")) },
		why:      reason.Schema, code: 1008, reported: say,
	},
	"an error": {
		sanitize: func(string, []byte) ([]byte, error) { return nil, errors.New("no") },
		why:      reason.Schema, code: 1008, reported: say,
	},
	"an error and a message": {
		sanitize: func(_ string, msg []byte) ([]byte, error) { return msg, errors.New("no") },
		why:      reason.Schema, code: 1008, reported: say,
	},
	"an error with a reason": {
		sanitize: func(string, []byte) ([]byte, error) { return nil, fmt.Errorf("no: %w", reason.JSONLimit) },
		why:      reason.JSONLimit, code: 1008, reported: say,
	},
	"its fault": {
		sanitize: func(string, []byte) ([]byte, error) { return nil, fmt.Errorf("no: %w", reason.Internal) },
		why:      reason.Internal, code: 1011,
	},
	"a panic": {sanitize: func(string, []byte) ([]byte, error) { panic("hook") }, why: reason.Internal, code: 1011},
	"nil":     {sanitize: func(string, []byte) ([]byte, error) { return nil, nil }, why: reason.InvalidJSON, code: 1007, reported: "-"},
	"empty":   {sanitize: func(string, []byte) ([]byte, error) { return []byte{}, nil }, why: reason.InvalidJSON, code: 1007, reported: "-"},
	"too long": {
		sanitize: exchange("hello", strings.Repeat("x", 33<<10)),
		why:      reason.MessageTooBig, code: 1009, reported: say,
	},
	"too long for the schema": {
		sanitize: exchange("hello", strings.Repeat("x", 21)),
		why:      reason.Schema, code: 1008, reported: `{"type":"say","text":"` + strings.Repeat("x", 21) + `"}`,
	},
	"another member": {
		sanitize: exchange(`"text"`, `"more":1,"text"`),
		why:      reason.Schema, code: 1008, reported: `{"type":"say","more":1,"text":"hello"}`,
	},
	"a member twice": {
		sanitize: exchange(`"text"`, `"text":"","text"`),
		why:      reason.InvalidJSON, code: 1007, reported: "-",
	},
	"no JSON":  {sanitize: exchange(`}`, ``), why: reason.InvalidJSON, code: 1007, reported: "-"},
	"no UTF-8": {sanitize: exchange("hello", "\xff"), why: reason.InvalidUTF8, code: 1007},
	"another type": {
		sanitize: exchange("say", "custom"),
		why:      reason.UnknownType, code: 1008, reported: "-",
	},
	"a type that is forbidden": {
		sanitize: exchange("say", "ban"),
		why:      reason.UnknownType, code: 1008, reported: "-",
	},
	"a type that is allowed, of one that is forbidden": {
		msg:      `{"type":"ban","text":"hello"}`,
		sanitize: func(string, []byte) ([]byte, error) { return []byte(say), nil },
		why:      reason.Forbidden, code: 3003, reported: "-",
	},
	"too long for the type": {
		msg:      `{"type":"upload","data":""}`,
		sanitize: exchange(`""`, `"`+strings.Repeat("x", 30)+`"`),
		why:      reason.MessageTooBig, code: 1009, reported: `{"type":"upload","data":"` + strings.Repeat("x", 30) + `"}`,
	},
	"a word that the Validator refuses": {
		msg:      `{"type":"custom","text":"b\u0061d"}`,
		sanitize: exchange(`\u0061`, "a"),
		why:      reason.Schema, code: 1008, reported: `{"type":"custom","text":"bad"}`,
	},
	"what Authorize refuses": {
		sanitize: exchange("hello", "secret"),
		why:      reason.Forbidden, code: 3003, reported: `{"type":"say","text":"secret"}`,
	},
}

const say = `{"type":"say","text":"hello"}`

// edit changes msg in place.
func edit(msg []byte) error {
	copy(msg[bytes.Index(msg, []byte("hello")):], "HELLO")
	return nil
}

// T81: the guard judges what Sanitize has changed as if the client had sent it.
func TestSanitizeIsJudged(t *testing.T) {
	for name, tt := range sanitizeCases {
		for action, does := range map[wsguard.Action]string{wsguard.ActionClose: "close", wsguard.ActionReply: "reply", reportOnly: "report"} {
			t.Run(name+", "+does, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					calls, msg := 0, tt.msg
					if msg == "" {
						msg = say
					}
					kind := strings.Split(msg, `"`)[3]
					e := serveGuard(t, conf(loginConfig, noRates, func(cfg *wsguard.Config) {
						cfg.Messages.Validator = chatTable()
						cfg.Messages.Authorize = func(_ context.Context, _ wsguard.Principal, _ string, msg []byte) error {
							if bytes.Contains(msg, []byte("secret")) {
								return errors.New("not this one")
							}
							return nil
						}
						cfg.Messages.Sanitize = func(k string, msg []byte) ([]byte, error) {
							if bytes.Contains(msg, []byte("behind it")) {
								return msg, nil
							}
							calls++
							if k != kind {
								t.Errorf("kind is %q, want %q", k, kind)
							}
							return tt.sanitize(k, msg)
						}
						onRefused(&cfg.Messages, action)
					}))
					c := e.open(bearer("alice - 0s write"))
					c.WriteFrame(wstest.Text(msg))
					ends := false
					switch {
					case tt.why == nil:
						wantMessage(t, c, tt.text)
					case tt.why == reason.Internal || tt.why == reason.InvalidUTF8 || action == wsguard.ActionClose:
						ends = true
					case action == wsguard.ActionReply:
						_, p, err := c.ReadMessage()
						if err != nil || !strings.Contains(string(p), `"error"`) || strings.Contains(string(p), "hello") {
							t.Errorf("%s %v", p, err)
						}
					case tt.reported == "-":
						c.ReadMessage()
					default:
						wantMessage(t, c, tt.reported)
					}
					if ends {
						wantClose(t, c, tt.code, tt.why.Token())
						if ev := e.closed(); !errors.Is(ev.Err, tt.why) || ev.MessagesIn != 0 {
							t.Errorf("%+v", ev)
						}
					} else {
						roundTrip(t, c, `{"type":"say","text":"behind it"}`)
						bye(c)
					}
					synctest.Wait()
					if want := 1; calls != want && !(name == "a type that is allowed, of one that is forbidden" && action != reportOnly && calls == 0) {
						t.Errorf("called %d times", calls)
					}
					if tt.why == nil && len(e.events.of(audit.Violation)) > 0 {
						t.Errorf("%s", e.events)
					}
				})
			})
		}
	}
}

// With ReportOnly, a message whose type Sanitize changes is of an unknown type. So nobody may
// send it if messages have scopes, as with any message of an unknown type.
func TestSanitizeKeepsScopes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
			cfg.Messages.Validator, cfg.Messages.ReportOnly = chatTable(), true
			cfg.Messages.Sanitize = exchange("say", "ban")
		}))
		c := e.open(bearer("alice - 0s"))
		c.WriteFrame(wstest.Text(say))
		wantClose(t, c, 3003, "forbidden")
	})
}

// The log says that a message was refused because of what Sanitize has made of it.
func TestSanitizeDetail(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Messages.Validator, cfg.Messages.OnInvalid = chatTable(), wsguard.ActionReply
			cfg.Messages.Sanitize = exchange("hello", strings.Repeat("x", 21))
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text(say))
		wantMessage(t, c, `{"error":"invalid_message","reason":"schema","pointer":"/text","keyword":"#/properties/text/maxLength"}`)
		synctest.Wait()
		if ev := e.events.of(audit.Violation)[0]; !strings.HasPrefix(ev.Detail, "say: after Sanitize: ") || !strings.Contains(ev.Detail, `"/text"`) {
			t.Errorf("%q", ev.Detail)
		}
		bye(c)
	})
}

// The application's memory and the guard's stay apart: the handler may write into what Read
// returns, and Sanitize may return what it keeps.
func TestSanitizeCopies(t *testing.T) {
	shared := []byte("what Sanitize keeps")
	var seen []byte
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) {
				seen = msg[:cap(msg)]
				return shared, nil
			}
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			_, msg, err := c.Read(ctx)
			if err != nil || string(msg) != string(shared) {
				t.Errorf("%q %v", msg, err)
			}
			clear(msg[:cap(msg)])
			clear(seen)
			_, msg, err = c.Read(ctx)
			if err != nil || string(msg) != string(shared) {
				t.Errorf("%q %v", msg, err)
			}
			return nil
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text("x"))
		c.WriteFrame(wstest.Text("y"))
		wantClose(t, c, 1000, "")
		if string(shared) != "what Sanitize keeps" || len(seen) != 1 {
			t.Errorf("%q %q", shared, seen)
		}
	})
}

// A first message that must be the credential is no message of the application's. If the
// credential is only reported, a first message that is none is one.
func TestSanitizeFirstMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []string
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Auth = wsguard.AuthConfig{Verifier: newTokens().Verify, Sources: wsguard.TokenSources{FirstMessage: true}}
			cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) {
				got = append(got, string(msg))
				return bytes.ToUpper(msg), nil
			}
		}))
		c := e.open(header())
		c.WriteFrame(wstest.Text(`{"type":"auth","token":"alice"}`))
		c.WriteFrame(wstest.Text("hello"))
		wantMessage(t, c, "HELLO")
		bye(c)
		if len(got) != 1 {
			t.Errorf("called for %q", got)
		}

		got = nil
		e.reconfigure(conf(func(cfg *wsguard.Config) {
			*cfg = e.cfg
			cfg.Auth.InsecureReportOnly = true
		}))
		c = e.open(header())
		c.WriteFrame(wstest.Text("guest"))
		wantMessage(t, c, "GUEST")
		bye(c)
		if len(got) != 1 || got[0] != "guest" {
			t.Errorf("called for %q", got)
		}
	})
}

// Messages that wait for their rate, or for the handler to read those in front of them, are
// sanitised once, and in their order.
func TestSanitizeOnce(t *testing.T) {
	const n = 50
	for name, change := range map[string]func(*wsguard.Config){
		"at once":        noRates,
		"over the rate":  func(cfg *wsguard.Config) { cfg.Rates.Messages = wsguard.Rate{PerSecond: 5, Burst: 1} },
		"of many frames": func(cfg *wsguard.Config) { noRates(cfg); cfg.Messages.MaxFragments = 200 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				calls := 0
				e := serveGuard(t, conf(change, func(cfg *wsguard.Config) {
					cfg.Rates.Action = wsguard.ActionDelay
					cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) {
						calls++
						return fmt.Appendf(msg, " is %d", calls), nil
					}
				}))
				c := e.open(header())
				var b []byte
				for i := range n {
					msg := fmt.Appendf(nil, "%d", i+1)
					if name == "of many frames" {
						b = append(b, fragment(wstest.OpText, false, msg[:1])...)
						b = append(b, fragment(wstest.OpContinuation, true, msg[1:])...)
						continue
					}
					b = wstest.AppendFrame(b, wstest.Text(string(msg)))
				}
				if _, err := c.Conn().Write(b); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					wantMessage(t, c, fmt.Sprintf("%d is %d", i+1, i+1))
				}
				bye(c)
			})
		})
	}
}

// reconfigurer is a Validator that gives the Guard a new Config when it sees a message.
type reconfigurer struct{ at func(msg []byte) }

func (v reconfigurer) Validate(msg []byte) error { v.at(msg); return nil }

// A message that is judged ahead of its turn when Reconfigure brings a Sanitize is sanitised in
// its turn, and once.
func TestSanitizeAhead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		calls, got := map[string]int{}, []string(nil)
		var e *env
		e = newEnv(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages.Validator = reconfigurer{func(msg []byte) {
				if string(msg) == "one" {
					next := e.cfg
					next.Messages.Validator, next.Messages.OnInvalid = nil, wsguard.ActionReply
					next.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) {
						if calls[string(msg)]++; string(msg) == "three" {
							return nil, errors.New("no")
						}
						return bytes.ToUpper(msg), nil
					}
					e.reconfigure(next)
				}
			}}
		}))
		e.serve(e.g.Wrap(coderEcho()))
		c := e.open(header())
		var b []byte
		for _, m := range []string{"one", "two", "three"} {
			b = wstest.AppendFrame(b, wstest.Text(m))
		}
		if _, err := c.Conn().Write(b); err != nil {
			t.Fatal(err)
		}
		for range 3 { // the notice may overtake the echoes
			_, p, err := c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(p))
		}
		slices.Sort(got)
		if want := []string{"TWO", "one", `{"error":"invalid_message","reason":"schema"}`}; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
		bye(c)
		if len(calls) != 2 || calls["two"] != 1 || calls["three"] != 1 {
			t.Errorf("%v", calls)
		}
	})
}

// A message that was judged after its sender's credential was revoked in Sanitize does not
// reach a wrapped handler, as after any other check.
func TestSanitizeLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var e *env
		e = newEnv(t, conf(loginConfig, func(cfg *wsguard.Config) {
			cfg.Messages.Sanitize = func(_ string, msg []byte) ([]byte, error) {
				e.g.Admin().Revoke("alice")
				return msg, nil
			}
		}))
		e.serve(e.g.Wrap(coderEcho()))
		c := e.open(bearer("alice - 0s"))
		c.WriteFrame(wstest.Text("delete everything"))
		wantClose(t, c, 3000, "revoked")
		if ev := e.closed(); ev.MessagesIn != 0 {
			t.Errorf("%+v", ev)
		}
	})
}

// Sanitising allocates nothing in the steady state, whether it changes the message or not.
func TestSanitizeAllocs(t *testing.T) {
	longer := bytes.Repeat([]byte("y"), 60)
	for name, hook := range map[string]func(string, []byte) ([]byte, error){
		"unchanged": func(_ string, msg []byte) ([]byte, error) { return msg, nil },
		"in place":  func(_ string, msg []byte) ([]byte, error) { msg[0] = 'y'; return msg, nil },
		"longer":    func(_ string, msg []byte) ([]byte, error) { return longer, nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, conf(patient, noRates, func(cfg *wsguard.Config) { cfg.Messages.Sanitize = hook }))
			result := make(chan float64, 1)
			const rounds = 10_000
			e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				result <- testing.AllocsPerRun(1, func() {
					for range rounds {
						if _, _, err := c.Read(ctx); err != nil {
							t.Error(err)
							return
						}
					}
				})
				return nil
			}))
			c := e.open(header())
			go func() {
				b := bytes.Repeat(wstest.AppendFrame(nil, wstest.Text(strings.Repeat("x", 50))), 100)
				for {
					if _, err := c.Conn().Write(b); err != nil {
						return
					}
				}
			}()
			if n := <-result; n > 1000 && !raceDetector() { // the collector may empty the pools
				t.Errorf("%v allocations in %d rounds", n, rounds)
			}
		})
	}
}
