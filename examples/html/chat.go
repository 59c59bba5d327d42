package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/examples/rooms/hub"
)

// chat sends each message to everybody, in a single room.
type chat struct {
	room   hub.Hub[struct{}]
	guests atomic.Int64
}

func newChat(guard *wsguard.Guard) *chat {
	return &chat{room: hub.Hub[struct{}]{Guard: guard}}
}

// incoming is what the schemas allow. The guard has sanitised HTML.
type incoming struct {
	Type string `json:"type"`
	HTML string `json:"html"`
	Text string `json:"text"`
}

// outgoing has markup in HTML and nowhere else, and it comes from incoming.HTML only.
// Everything else is text, which the page shows as such.
type outgoing struct {
	Type string `json:"type"` // hello or said
	Name string `json:"name,omitempty"`
	HTML string `json:"html,omitempty"`
	Text string `json:"text,omitempty"`
}

func (h *chat) serve(ctx context.Context, c *wsguard.Conn) error {
	name := fmt.Sprintf("guest %d", h.guests.Add(1))
	h.room.Join(struct{}{}, c, name)
	if err := wsguard.SendJSON(c, outgoing{Type: "hello", Name: name}); err != nil {
		return err
	}
	for {
		m, err := wsguard.ReadJSON[incoming](ctx, c)
		if err != nil {
			return err
		}
		switch m.Type {
		case "plain":
			h.broadcast(outgoing{Type: "said", Name: name, Text: m.Text})
		case "markup":
			h.broadcast(outgoing{Type: "said", Name: name, HTML: m.HTML})
		}
	}
}

func (h *chat) broadcast(m outgoing) {
	if err := h.room.Broadcast(struct{}{}, encode(m)); err != nil {
		panic(err) // cannot happen, because JSON is UTF-8 and the Guard has no Outbound
	}
}

func encode(m outgoing) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings: cannot be
	}
	return b
}
