package main

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/lxzan/gws"

	"github.com/wsguard/wsguard"
)

// hub has the connections that get what is broadcast.
type hub[C comparable] struct {
	mu    sync.Mutex
	conns map[C]bool // guarded by mu
}

// join reports whether c was no member yet. A server echoes the first message of a
// connection, so that the client knows that it is a member, and broadcasts the others.
func (h *hub[C]) join(c C) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns[c] {
		return false
	}
	if h.conns == nil {
		h.conns = map[C]bool{}
	}
	h.conns[c] = true
	return true
}

func (h *hub[C]) leave(c C) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
}

// each calls f for each member. f does not block.
func (h *hub[C]) each(f func(C)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		f(c)
	}
}

// sendToAll broadcasts with Send.
func sendToAll(_ *wsguard.Guard, h *hub[*wsguard.Conn], typ wsguard.MessageType, msg []byte) {
	h.each(func(c *wsguard.Conn) { c.Send(typ, msg) })
}

// prepareForAll broadcasts with Prepare.
func prepareForAll(g *wsguard.Guard, h *hub[*wsguard.Conn], typ wsguard.MessageType, msg []byte) {
	p, err := g.Prepare(typ, msg)
	if err != nil {
		return
	}
	h.each(func(c *wsguard.Conn) { c.SendPrepared(p) })
}

func guardBroadcast(origin string) http.Handler { return guardHub(origin, sendToAll) }

func guardPrepared(origin string) http.Handler { return guardHub(origin, prepareForAll) }

func guardHub(origin string, send func(*wsguard.Guard, *hub[*wsguard.Conn], wsguard.MessageType, []byte)) http.Handler {
	var h hub[*wsguard.Conn]
	guard := newGuardWith(origin, func(cfg *wsguard.Config) {
		// A round with 2,000 connections may outlast an interval, and this client
		// answers no pings.
		cfg.Timeouts.PingInterval = time.Hour
	})
	return guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		defer h.leave(c)
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if h.join(c) {
				if err := c.Write(ctx, typ, msg); err != nil {
					return err
				}
				continue
			}
			send(guard, &h, typ, msg)
		}
	})
}

type gwsHub struct {
	gws.BuiltinEventHandler
	hub[*gws.Conn]
}

func (h *gwsHub) OnClose(c *gws.Conn, _ error) { h.leave(c) }

func (h *gwsHub) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	if h.join(c) {
		c.WriteMessage(m.Opcode, m.Bytes())
		return
	}
	// A Broadcaster keeps what it is given, and m is used again.
	b := gws.NewBroadcaster(m.Opcode, bytes.Clone(m.Bytes()))
	h.each(func(c *gws.Conn) { b.Broadcast(c) })
	b.Close()
}

func gwsBroadcast(string) http.Handler { return serveGWS(new(gwsHub)) }
