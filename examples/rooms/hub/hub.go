// Package hub keeps which connections are in which rooms. Copy it, and change it to your needs.
package hub

import (
	"context"
	"maps"
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
	// sorted and each once. Joined and Changed are called while the Hub is locked, so they must
	// neither block nor call it. If one is nil, or returns nil, nothing is sent.
	Joined func(room R, people []string) []byte
	// Changed makes the message to the others when somebody comes with a first connection, or
	// leaves with the last one.
	Changed func(room R, name string, here bool) []byte

	mu    sync.Mutex
	rooms map[R]*room // guarded by mu; a room goes with its last member
}

// room is guarded by the mutex of its Hub.
type room struct {
	members map[*member]struct{}
	people  map[string]int // the number of connections of each name
}

// member is a connection in a room. It is read-only.
type member struct {
	c    *wsguard.Conn
	name string
}

// Join lets c into a room until the connection ends or the caller calls leave. who is the name that
// the server knows c by, never one that c claims. The caller limits how many rooms a client may be in.
func (h *Hub[R]) Join(name R, c *wsguard.Conn, who string) (leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms == nil {
		h.rooms = map[R]*room{}
	}
	r, m := h.rooms[name], &member{c, who}
	if r == nil {
		r = &room{map[*member]struct{}{}, map[string]int{}}
		h.rooms[name] = r
	}
	if r.people[who]++; r.people[who] == 1 {
		h.changed(name, who, true)
	}
	r.members[m] = struct{}{}
	if h.Joined != nil {
		if msg := h.Joined(name, r.names()); msg != nil {
			c.Send(wsguard.MessageText, msg)
		}
	}
	stop := context.AfterFunc(c.Context(), func() { h.leave(name, m) })
	return func() {
		if stop() {
			h.leave(name, m)
		}
	}
}

// Broadcast sends a text message to all in a room. The guard checks and encodes it once, and all
// queues share its memory. The error is that of Guard.Prepare.
func (h *Hub[R]) Broadcast(name R, msg []byte) error {
	p, err := h.Guard.Prepare(wsguard.MessageText, msg)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.rooms[name]; r != nil {
		r.send(p)
	}
	return nil
}

// People returns the names in each room that has a member, sorted and each once.
func (h *Hub[R]) People() map[R][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	people := make(map[R][]string, len(h.rooms))
	for name, r := range h.rooms {
		people[name] = r.names()
	}
	return people
}

func (h *Hub[R]) leave(name R, m *member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rooms[name]
	delete(r.members, m)
	if r.people[m.name]--; r.people[m.name] == 0 {
		delete(r.people, m.name)
		h.changed(name, m.name, false)
	}
	if len(r.members) == 0 {
		delete(h.rooms, name)
	}
}

// changed is called with mu held, so that news and lists of people are sent in order.
func (h *Hub[R]) changed(name R, who string, here bool) {
	if h.Changed == nil {
		return
	}
	msg := h.Changed(name, who, here)
	if msg == nil {
		return
	}
	if p, err := h.Guard.Prepare(wsguard.MessageText, msg); err == nil {
		h.rooms[name].send(p)
	}
}

// names are the people, sorted and each once.
func (r *room) names() []string { return slices.Sorted(maps.Keys(r.people)) }

func (r *room) send(p *wsguard.Prepared) {
	for m := range r.members {
		m.c.SendPrepared(p)
	}
}
