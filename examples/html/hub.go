package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/wsguard/wsguard"
)

// hub is the chat: what one says, all read.
type hub struct {
	guard *wsguard.Guard

	mu     sync.Mutex
	conns  map[*wsguard.Conn]struct{}
	guests int
}

func newHub(guard *wsguard.Guard) *hub {
	return &hub{guard: guard, conns: map[*wsguard.Conn]struct{}{}}
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

func (h *hub) serve(ctx context.Context, c *wsguard.Conn) error {
	h.mu.Lock()
	h.conns[c] = struct{}{}
	h.guests++
	name := fmt.Sprintf("guest %d", h.guests)
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.conns, c)
		h.mu.Unlock()
	}()
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

func (h *hub) broadcast(m outgoing) {
	p, err := h.guard.Prepare(wsguard.MessageText, encode(m))
	if err != nil {
		panic(err) // cannot happen, because JSON is UTF-8 and the Guard has no Outbound
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.SendPrepared(p) // never blocks
	}
}

func encode(m outgoing) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings: cannot be
	}
	return b
}
