package wsguard_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

var roomClosed = reason.New("room_closed", "the room is closed", 4004)

// validatorFunc is a Validator.
type validatorFunc func(msg []byte) error

func (f validatorFunc) Validate(msg []byte) error { return f(msg) }

// TestOwnReasonCloses has each hook return an error that wraps a reason of the
// application's own, and expects its code and its token. What is reported and counted is
// what the hook's other errors have.
func TestOwnReasonCloses(t *testing.T) {
	no := fmt.Errorf("alice: %w", roomClosed)
	authorize := func(err error) func(*wsguard.Config) {
		return func(cfg *wsguard.Config) {
			cfg.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error { return err }
		}
	}
	validate := func(err error) func(*wsguard.Config) {
		return func(cfg *wsguard.Config) {
			cfg.Messages.Validator = validatorFunc(func([]byte) error { return err })
		}
	}
	handler := func(err error) func(context.Context, *wsguard.Conn) error {
		return func(ctx context.Context, c *wsguard.Conn) error {
			c.Read(ctx)
			return err
		}
	}
	for name, tt := range map[string]struct {
		change     func(*wsguard.Config)
		handler    func(context.Context, *wsguard.Conn) error
		code       int
		token      string
		violations int
		banned     bool // by the second
	}{
		"Validator":                   {change: validate(no), code: 4004, token: "room_closed", violations: 1, banned: true},
		"Authorize":                   {change: authorize(no), code: 4004, token: "room_closed", violations: 1, banned: true},
		"handler":                     {handler: handler(no), code: 4004, token: "room_closed"},
		"CloseError counts first":     {handler: handler(errors.Join(no, &wsguard.CloseError{Code: 4010, Reason: "bye"})), code: 4010, token: "closed"},
		"Unavailable counts first":    {change: authorize(errors.Join(no, wsguard.ErrUnavailable)), code: 1013, token: "unavailable"},
		"Internal counts first":       {change: validate(errors.Join(no, reason.Internal)), code: 1011, token: "internal_error"},
		"the first reason counts":     {change: authorize(errors.Join(wsguard.ErrForbidden, no)), code: 3003, token: "forbidden", violations: 1, banned: true},
		"another reason of a handler": {handler: handler(reason.RateLimited), code: 1011, token: "internal_error"},
		"an error that panics":        {change: validate(evilOwn{}), code: 1011, token: "internal_error"},
		"CloseCodes": {change: func(cfg *wsguard.Config) {
			validate(no)(cfg)
			cfg.CloseCodes = map[*reason.Reason]wsguard.StatusCode{roomClosed: 4100}
		}, code: 4100, token: "room_closed", violations: 1, banned: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(func(cfg *wsguard.Config) {
					cfg.Proxies.ClientName = func(*http.Request) string { return "somebody" }
					cfg.Penalties.Violations = wsguard.Rate{PerSecond: never, Burst: 1}
					if tt.change != nil {
						tt.change(cfg)
					}
				}))
				if tt.handler == nil {
					tt.handler = echo
				}
				e.serve(e.g.Handler(tt.handler))
				for range 2 {
					c := e.open(header())
					c.WriteFrame(wstest.Text("hello"))
					text := tt.token
					if tt.code == 4010 {
						text = "bye"
					}
					wantClose(t, c, tt.code, text)
					c.Close()
					ev := e.closed()
					if ev.Reason != tt.token || int(ev.Code) != tt.code || ev.Violations != uint64(tt.violations) {
						t.Errorf("%+v", ev)
					}
					if tt.token == "room_closed" && !errors.Is(ev.Err, roomClosed) {
						t.Errorf("the cause %v is not the reason", ev.Err)
					}
				}
				if n := len(e.events.of(audit.Violation)); n != 2*tt.violations {
					t.Errorf("%d violations were reported", n)
				}
				if banned := len(e.g.Admin().Bans()) > 0; banned != tt.banned {
					t.Errorf("banned: %v", banned)
				}
			})
		})
	}
}

// evilOwn panics when it is asked what it wraps.
type evilOwn struct{}

func (evilOwn) Error() string { return "evil" }
func (evilOwn) Unwrap() error { panic("evil") }

// Where the connection goes on, the notice and the event have the token.
func TestOwnReasonReply(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*wsguard.Config)
		notice string
	}{
		"Validator": {func(cfg *wsguard.Config) {
			cfg.Messages.Validator = validatorFunc(func([]byte) error { return roomClosed })
			cfg.Messages.OnInvalid = wsguard.ActionReply
		}, `{"error":"invalid_message","reason":"room_closed"}`},
		"Authorize": {func(cfg *wsguard.Config) {
			cfg.Messages.Authorize = func(context.Context, wsguard.Principal, string, []byte) error { return roomClosed }
			cfg.Messages.OnForbidden = wsguard.ActionReply
		}, `{"error":"forbidden","reason":"room_closed"}`},
		"report": {func(cfg *wsguard.Config) {
			cfg.Messages.Validator = validatorFunc(func([]byte) error { return roomClosed })
			cfg.Messages.ReportOnly = true
		}, "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(tt.change))
				e.serve(e.g.Handler(echo))
				c := e.open(header())
				c.WriteFrame(wstest.Text("hello"))
				wantMessage(t, c, tt.notice)
				if ev := e.events.of(audit.Violation); len(ev) != 1 || ev[0].Reason != "room_closed" || ev[0].Report != (name == "report") {
					t.Errorf("%+v", ev)
				}
				e.settle(c)
			})
		})
	}
}

// Attach refuses a handshake with 403, and closes after a first message.
func TestOwnReasonAttach(t *testing.T) {
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("first message %v", first), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := newEnv(t, conf(anyToken, func(cfg *wsguard.Config) {
					cfg.Auth.Sources.FirstMessage = first
					cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return nil, roomClosed }
				}))
				e.serve(e.g.Handler(echo))
				c := e.dial()
				defer c.Close()
				if !first {
					res, err := c.Handshake("/", bearer("alice"))
					if err != nil || res.StatusCode != http.StatusForbidden {
						t.Errorf("%v %v", res, err)
					}
					if ev := e.events.of(audit.Refusal); len(ev) != 1 || ev[0].Reason != "room_closed" || ev[0].Status != 403 || !errors.Is(ev[0].Err, roomClosed) {
						t.Errorf("%+v", ev)
					}
					return
				}
				e.upgrade(c, header())
				c.WriteFrame(wstest.Text(`{"type":"auth","token":"alice"}`))
				wantClose(t, c, 4004, "room_closed")
				c.Close()
				if ev := e.closed(); ev.Reason != "room_closed" || ev.Violations != 1 {
					t.Errorf("%+v", ev)
				}
			})
		})
	}
}

// What Write is given can be refused with a reason of the application's own, too.
func TestOwnReasonOutbound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(func(cfg *wsguard.Config) {
			cfg.Messages.Outbound = validatorFunc(func([]byte) error { return roomClosed })
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			if err := c.Write(ctx, wsguard.MessageText, []byte("x")); !errors.Is(err, roomClosed) {
				t.Errorf("Write: %v", err)
			}
			return nil
		}))
		c := e.open(header())
		wantClose(t, c, 1000, "")
		if ev := e.events.of(audit.Violation); len(ev) != 1 || ev[0].Reason != "room_closed" {
			t.Errorf("%+v", ev)
		}
		e.settle(c)
	})
}
