package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/examples/rooms/hub"
	"github.com/wsguard/wsguard/reason"
)

// chat sends each message to everybody, in a single room.
type chat struct {
	room hub.Hub[struct{}]
}

func newChat(guard *wsguard.Guard) *chat {
	return &chat{hub.Hub[struct{}]{Guard: guard}}
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
func (h *chat) serve(ctx context.Context, c *wsguard.Conn) error {
	h.room.Join(struct{}{}, c, c.Principal().Subject)
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
	// An error says that the connection has ended, as the next Read does.
	c.Send(wsguard.MessageText, encode(m))
}

func (h *chat) broadcast(m outgoing) {
	if err := h.room.Broadcast(struct{}{}, encode(m)); err != nil {
		panic(err) // cannot happen, because JSON is UTF-8 and the Guard has no Outbound
	}
}

func encode(m outgoing) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // cannot happen, because an outgoing has only strings and a number
	}
	return b
}
