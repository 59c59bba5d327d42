package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// hub is the chat: what one says, all read.
type hub struct {
	guard *wsguard.Guard

	mu    sync.Mutex
	conns map[*wsguard.Conn]struct{}
}

func newHub(guard *wsguard.Guard) *hub {
	return &hub{guard: guard, conns: map[*wsguard.Conn]struct{}{}}
}

// incoming is what the schemas allow.
type incoming struct {
	Type  string `json:"type"`
	Text  string `json:"text"`
	Token string `json:"token"`
}

type outgoing struct {
	Type    string `json:"type"` // hello, said, refreshed or problem
	Name    string `json:"name,omitempty"`
	Text    string `json:"text,omitempty"`
	Expires int64  `json:"expires,omitempty"` // in Unix milliseconds
}

// serve is the whole life of a connection. The guard ends it when the token
// expires and when its login does: nothing here need ask.
func (h *hub) serve(ctx context.Context, c *wsguard.Conn) error {
	h.mu.Lock()
	h.conns[c] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.conns, c)
		h.mu.Unlock()
	}()
	send(c, expiry("hello", c))
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		var m incoming
		if err := json.Unmarshal(msg, &m); err != nil {
			return err // its schema has let it pass: cannot be
		}
		switch m.Type {
		case "say":
			h.broadcast(outgoing{Type: "said", Name: c.Principal().Subject, Text: m.Text})
		case "refresh":
			// A token of another subject closes the connection, with 1008. Any
			// other that is refused leaves it as it was.
			err := c.Refresh(ctx, m.Token)
			switch {
			case err == nil:
				send(c, expiry("refreshed", c))
			case errors.Is(err, reason.RateLimited):
				send(c, outgoing{Type: "problem", Text: "Too many refreshes."})
			case errors.Is(err, wsguard.ErrUnavailable):
				send(c, outgoing{Type: "problem", Text: "The token cannot be checked now."})
			default:
				send(c, outgoing{Type: "problem", Text: "The token was refused."})
			}
		}
	}
}

func expiry(typ string, c *wsguard.Conn) outgoing {
	p := c.Principal()
	return outgoing{Type: typ, Name: p.Subject, Expires: p.Expires.UnixMilli()}
}

func send(c *wsguard.Conn, m outgoing) {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and a number: cannot be
	}
	// An error says that it is over, as the next Read does.
	c.Send(wsguard.MessageText, b)
}

func (h *hub) broadcast(m outgoing) {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	p, err := h.guard.Prepare(wsguard.MessageText, b)
	if err != nil {
		panic(err) // cannot happen, because JSON is UTF-8 and the Guard has no Outbound
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.SendPrepared(p) // never blocks
	}
}
