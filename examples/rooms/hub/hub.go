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
	// leaves with the last one. The connections on other instances count.
	Changed func(room R, name string, here bool) []byte

	mu    sync.Mutex
	rooms map[R]*room // guarded by mu; a room goes with the last who is in it
}

// room is guarded by the mutex of its Hub.
type room struct {
	members   map[*member]struct{}
	people    map[string]int      // the number of connections of each name
	elsewhere map[string]struct{} // the names on other instances
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
	r, m := h.room(name), &member{c, who}
	if r.people[who]++; r.people[who] == 1 && !r.isElsewhere(who) {
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

// Repeat sends the message of Joined to all in a room again.
func (h *Hub[R]) Repeat(name R) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rooms[name]
	if r == nil || h.Joined == nil {
		return
	}
	if msg := h.Joined(name, r.names()); msg != nil {
		h.tell(r, msg)
	}
}

// People returns the names in each room, sorted and each once.
func (h *Hub[R]) People() map[R][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	people := make(map[R][]string, len(h.rooms))
	for name, r := range h.rooms {
		people[name] = r.names()
	}
	return people
}

// Here is like People without the names that are only on other instances.
func (h *Hub[R]) Here() map[R][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	people := map[R][]string{}
	for name, r := range h.rooms {
		if len(r.people) > 0 {
			people[name] = slices.Sorted(maps.Keys(r.people))
		}
	}
	return people
}

// Elsewhere says who is in the rooms on other instances of the service. Each call
// replaces the people of the call before. The hub tells the members who has come and who has gone.
func (h *Hub[R]) Elsewhere(people map[R][]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, there := range people {
		r := h.room(name)
		for _, who := range there {
			if r.isElsewhere(who) {
				continue
			}
			r.elsewhere[who] = struct{}{}
			if r.people[who] == 0 {
				h.changed(name, who, true)
			}
		}
	}
	for name, r := range h.rooms {
		for who := range r.elsewhere {
			if slices.Contains(people[name], who) {
				continue
			}
			delete(r.elsewhere, who)
			if r.people[who] == 0 {
				h.changed(name, who, false)
			}
		}
		h.tidy(name, r)
	}
}

// room is called with mu held, as the functions below are. It makes the room if there is none.
func (h *Hub[R]) room(name R) *room {
	if h.rooms == nil {
		h.rooms = map[R]*room{}
	}
	r := h.rooms[name]
	if r == nil {
		r = &room{map[*member]struct{}{}, map[string]int{}, map[string]struct{}{}}
		h.rooms[name] = r
	}
	return r
}

// tidy deletes a room that nobody is in.
func (h *Hub[R]) tidy(name R, r *room) {
	if len(r.members) == 0 && len(r.elsewhere) == 0 {
		delete(h.rooms, name)
	}
}

func (h *Hub[R]) leave(name R, m *member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rooms[name]
	delete(r.members, m)
	if r.people[m.name]--; r.people[m.name] == 0 {
		delete(r.people, m.name)
		if !r.isElsewhere(m.name) {
			h.changed(name, m.name, false)
		}
	}
	h.tidy(name, r)
}

// changed is called with mu held, so that news and lists of people are sent in order.
func (h *Hub[R]) changed(name R, who string, here bool) {
	if h.Changed == nil {
		return
	}
	if msg := h.Changed(name, who, here); msg != nil {
		h.tell(h.rooms[name], msg)
	}
}

// tell sends a message that the application has made. If it is not text, nobody gets it.
func (h *Hub[R]) tell(r *room, msg []byte) {
	if p, err := h.Guard.Prepare(wsguard.MessageText, msg); err == nil {
		r.send(p)
	}
}

// names are the people, sorted and each once.
func (r *room) names() []string {
	all := maps.Clone(r.elsewhere)
	for name := range r.people {
		all[name] = struct{}{}
	}
	return slices.Sorted(maps.Keys(all))
}

func (r *room) isElsewhere(name string) bool {
	_, ok := r.elsewhere[name]
	return ok
}

func (r *room) send(p *wsguard.Prepared) {
	for m := range r.members {
		m.c.SendPrepared(p)
	}
}
