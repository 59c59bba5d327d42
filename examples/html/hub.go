package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/wsguard/wsguard"
)

// hub is the chat: what one says, all read.
type hub struct {
	guard *wsguard.Guard
	clean func(string) string

	mu     sync.Mutex
	conns  map[*wsguard.Conn]struct{}
	guests int
}

func newHub(guard *wsguard.Guard, clean func(string) string) *hub {
	return &hub{guard: guard, clean: clean, conns: map[*wsguard.Conn]struct{}{}}
}

// incoming is what the schemas allow.
type incoming struct {
	Type string `json:"type"`
	HTML string `json:"html"`
	Text string `json:"text"`
}

// outgoing has markup in HTML and nowhere else, and no other place than clean to
// get it from. Everything else is text, which the page shows as such.
type outgoing struct {
	Type string `json:"type"` // hello, said or problem
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
	c.Send(wsguard.MessageText, encode(outgoing{Type: "hello", Name: name}))
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
		case "plain":
			h.broadcast(outgoing{Type: "said", Name: name, Text: m.Text})
		case "markup":
			html := h.clean(m.HTML)
			if strings.TrimSpace(html) == "" {
				c.Send(wsguard.MessageText, encode(outgoing{Type: "problem", Text: "Nothing of that markup is allowed here."}))
				continue
			}
			h.broadcast(outgoing{Type: "said", Name: name, HTML: html})
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
