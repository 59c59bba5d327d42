package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard"
)

// Whatever a client can make more of has an end.
const (
	firstRoom   = "lobby" // stays when it is empty
	maxRooms    = 20
	maxJoined   = 5 // rooms of one connection
	maxHistory  = 50
	maxIDs      = 50 // messages of one login that it can send again
	drillReason = "drill"
)

// incoming is what schema.json lets pass. The schema allows no other
// properties, so it does not matter that encoding/json would take "TYPE" for
// "type".
type incoming struct {
	Type, Room, Text string

	ID string // of say: a client that sends a message again gives it the same ID
}

// outgoing is what the page gets.
type outgoing struct {
	Type    string     `json:"type"` // welcome, rooms, joined, left, here, gone, said, problem, events
	Room    string     `json:"room,omitempty"`
	Name    string     `json:"name,omitempty"`
	Text    string     `json:"text,omitempty"`
	ID      string     `json:"id,omitempty"` // what the author has given it, in said and problem
	At      int64      `json:"at,omitempty"` // Unix milliseconds
	People  []string   `json:"people,omitempty"`
	History []outgoing `json:"history,omitempty"`
	Rooms   []roomInfo `json:"rooms,omitempty"`
	Events  []event    `json:"events,omitempty"`
	Missed  uint64     `json:"missed,omitempty"`

	Operator bool `json:"operator,omitempty"` // the page may show the figures
}

type roomInfo struct {
	Name   string `json:"name"`
	People int    `json:"people"`
}

// hub is who is where. One lock is enough: no client is waited for under it, because
// Conn.Send and Conn.SendPrepared never block. They queue, and it is the guard that closes the
// connection of a client which does not keep up; so a slow client holds up
// nobody, and their errors can be ignored: the reader of that connection
// learns of its end and leaves. Only a slow disk holds up everybody.
type hub struct {
	guard *wsguard.Guard // read-only once it serves
	store *store         // read-only
	log   *slog.Logger   // read-only

	mu    sync.Mutex
	rooms map[string]*room
	conns map[*wsguard.Conn]map[string]bool // and the rooms of each

	recent []event // the feed's, for who comes later
}

type room struct {
	members map[*wsguard.Conn]bool
}

func newHub(s *store, log *slog.Logger) *hub {
	return &hub{
		store: s,
		log:   log,
		rooms: map[string]*room{firstRoom: {members: map[*wsguard.Conn]bool{}}},
		conns: map[*wsguard.Conn]map[string]bool{},
	}
}

// serve is the life of one connection. What Read returns has passed the
// guards: it is of the right size, within the rate, JSON, and fits the schema.
func (h *hub) serve(ctx context.Context, c *wsguard.Conn) error {
	h.enter(c)
	defer h.exit(c)
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		var m incoming
		if err := json.Unmarshal(msg, &m); err != nil {
			return err
		}
		switch m.Type {
		case "join":
			h.join(c, m.Room)
		case "leave":
			h.leave(c, m.Room)
		case "say":
			h.say(c, m)
		case "drill":
			// For the page to show how it comes back after a restart.
			return &wsguard.CloseError{Code: 1012, Reason: drillReason}
		}
	}
}

func (h *hub) enter(c *wsguard.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[c] = map[string]bool{}
	p := c.Principal()
	send(c, outgoing{Type: "welcome", Name: p.Subject, Operator: slices.Contains(p.Scopes, operatorScope)})
	send(c, h.list())
	if len(h.recent) > 0 {
		send(c, outgoing{Type: "events", Events: h.recent})
	}
}

func (h *hub) exit(c *wsguard.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	joined := h.conns[c]
	delete(h.conns, c)
	for name := range joined {
		h.remove(c, name)
	}
	if len(joined) > 0 {
		h.toAll(h.list())
	}
}

func (h *hub) join(c *wsguard.Conn, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, joined := h.rooms[name], h.conns[c]
	switch {
	case joined[name]:
	case len(joined) >= maxJoined:
		send(c, problem("You can be in %d rooms at a time: leave one first.", maxJoined))
		return
	case r == nil && len(h.rooms) >= maxRooms:
		send(c, problem("There are %d rooms already.", maxRooms))
		return
	case r == nil:
		r = &room{members: map[*wsguard.Conn]bool{}}
		h.rooms[name] = r
	}
	if who := c.Principal().Subject; !slices.Contains(r.people(), who) {
		h.toRoom(r, outgoing{Type: "here", Room: name, Name: who})
	}
	r.members[c], joined[name] = true, true
	send(c, outgoing{Type: "joined", Room: name, People: r.people(), History: h.store.history(name)})
	h.toAll(h.list())
}

func (h *hub) leave(c *wsguard.Conn, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.conns[c][name] {
		return
	}
	delete(h.conns[c], name)
	h.remove(c, name)
	send(c, outgoing{Type: "left", Room: name})
	h.toAll(h.list())
}

// remove takes c out of a room. Somebody with two windows is gone with the
// second, and a room with the last who is in it.
func (h *hub) remove(c *wsguard.Conn, name string) {
	r := h.rooms[name]
	delete(r.members, c)
	if who := c.Principal().Subject; !slices.Contains(r.people(), who) {
		h.toRoom(r, outgoing{Type: "gone", Room: name, Name: who})
	}
	if len(r.members) == 0 && name != firstRoom {
		delete(h.rooms, name)
	}
}

// say tells a room a message, once: a message whose ID the same login has used
// before is only acknowledged again. So a client that does not know whether a
// message has arrived can send it again. A message that is said is in the store,
// so a restart does not lose it.
func (h *hub) say(c *wsguard.Conn, in incoming) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Who said it is what the connection was authenticated for, never what a
	// message claims.
	m := outgoing{Type: "said", Room: in.Room, Name: c.Principal().Subject, Text: in.Text, ID: in.ID, At: time.Now().UnixMilli()}
	if first, ok := h.store.first(m); ok {
		send(c, first)
		return
	}
	if !h.conns[c][m.Room] {
		refuse(c, m, "You are not in that room.")
		return
	}
	if err := h.store.add(m, func(room string) bool { return h.rooms[room] != nil }); err != nil {
		h.log.Error("store", "error", err)
		refuse(c, m, "The server cannot keep your message, please try again later.")
		return
	}
	h.toRoom(h.rooms[m.Room], m)
}

// refuse tells the author of m which message was not said.
func refuse(c *wsguard.Conn, m outgoing, why string) {
	send(c, outgoing{Type: "problem", Room: m.Room, ID: m.ID, Text: why})
}

// list is called with mu held.
func (h *hub) list() outgoing {
	m := outgoing{Type: "rooms"}
	for name, r := range h.rooms {
		m.Rooms = append(m.Rooms, roomInfo{name, len(r.people())})
	}
	slices.SortFunc(m.Rooms, func(a, b roomInfo) int { return cmp.Compare(a.Name, b.Name) })
	return m
}

// toAll is called with mu held.
func (h *hub) toAll(m outgoing) {
	broadcast(h, h.conns, m)
}

// toRoom is called with mu held.
func (h *hub) toRoom(r *room, m outgoing) { broadcast(h, r.members, m) }

// broadcast encodes a message once and sends it to many.
func broadcast[V any](h *hub, to map[*wsguard.Conn]V, m outgoing) {
	if len(to) == 0 {
		return
	}
	p, err := h.guard.Prepare(wsguard.MessageText, encode(m))
	if err != nil {
		panic(err) // cannot happen, because JSON is UTF-8 and the Guard has no Outbound
	}
	for c := range to {
		c.SendPrepared(p)
	}
}

// report tells everybody what the guards have seen.
func (h *hub) report(events []event, missed uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent = last(maxHistory, append(h.recent, events...))
	h.toAll(outgoing{Type: "events", Events: events, Missed: missed})
}

// people are the members' names, each once.
func (r *room) people() []string {
	var names []string
	for c := range r.members {
		names = append(names, c.Principal().Subject)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func send(c *wsguard.Conn, m outgoing) { c.Send(wsguard.MessageText, encode(m)) }

func problem(format string, args ...any) outgoing {
	return outgoing{Type: "problem", Text: fmt.Sprintf(format, args...)}
}

func encode(m outgoing) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings and numbers: cannot be
	}
	return b
}
