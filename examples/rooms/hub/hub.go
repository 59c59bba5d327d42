// Package hub keeps which connections are in which rooms. Copy it, and change it to your needs.
package hub

import (
	"context"
	"slices"
	"sync"

	"github.com/wsguard/wsguard"
)

// Hub sends messages to all members of a room. R is what names a room, such as a string. Set the
// exported fields before the first call. Many goroutines may call the methods at the same time.
//
// No method waits for a member, because SendPrepared only queues a message. If the queue of a slow
// member is full, the guard closes the connection of that member. So the errors of Send and
// SendPrepared are ignored: a member whose connection has ended leaves the room.
type Hub[R comparable] struct {
	Guard *wsguard.Guard
	// Joined makes the message to a member that has joined. people are the names in the room,
	// sorted and each once. The default, nil, sends nothing. Joined and Changed are called while
	// the Hub is locked, so they must neither block nor call it.
	Joined func(room R, people []string) []byte
	// Changed makes the message to the others when somebody comes with a first connection, or
	// leaves with the last one. The default, nil, sends nothing.
	Changed func(room R, name string, here bool) []byte

	mu    sync.Mutex
	rooms map[R]map[*member]struct{} // guarded by mu; a room goes with its last member
}

// member is a connection in a room. It is read-only.
type member struct {
	c    *wsguard.Conn
	name string
}

// Join lets c into a room until the connection ends or the caller calls leave. name is what the
// server knows about c, never what c claims. The caller limits how many rooms a client may be in.
func (h *Hub[R]) Join(room R, c *wsguard.Conn, name string) (leave func()) {
	m := &member{c, name}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed(room, name, true)
	if h.rooms == nil {
		h.rooms = map[R]map[*member]struct{}{}
	}
	if h.rooms[room] == nil {
		h.rooms[room] = map[*member]struct{}{}
	}
	h.rooms[room][m] = struct{}{}
	if h.Joined != nil {
		c.Send(wsguard.MessageText, h.Joined(room, h.people(room)))
	}
	stop := context.AfterFunc(c.Context(), func() { h.leave(room, m) })
	return func() {
		if stop() {
			h.leave(room, m)
		}
	}
}

// Broadcast sends a text message to all in a room. The guard checks and encodes it once, and all
// queues share its memory. The error is that of Guard.Prepare.
func (h *Hub[R]) Broadcast(room R, msg []byte) error {
	p, err := h.Guard.Prepare(wsguard.MessageText, msg)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for m := range h.rooms[room] {
		m.c.SendPrepared(p)
	}
	return nil
}

func (h *Hub[R]) leave(room R, m *member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.rooms[room], m)
	if len(h.rooms[room]) == 0 {
		delete(h.rooms, room)
	}
	h.changed(room, m.name, false)
}

// changed tells the members that name has come or gone, unless it is there with another
// connection. It is called with mu held, so that news and lists of people are sent in order.
func (h *Hub[R]) changed(room R, name string, here bool) {
	people := h.people(room)
	if h.Changed == nil || len(people) == 0 || slices.Contains(people, name) {
		return
	}
	msg := h.Changed(room, name, here)
	for m := range h.rooms[room] {
		m.c.Send(wsguard.MessageText, msg)
	}
}

// people is called with mu held.
func (h *Hub[R]) people(room R) (names []string) {
	for m := range h.rooms[room] {
		names = append(names, m.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
