package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/examples/rooms/hub"
)

// Whatever a client can make more of has an end.
const (
	firstRoom   = "lobby" // is there when it is empty
	maxJoined   = 5       // rooms of one connection
	maxEvents   = 50      // of the feed, for those who come later
	drillReason = "drill"
)

// incoming is what schema.json lets pass. The schema allows no other
// properties, so it does not matter that encoding/json would take "TYPE" for
// "type".
type incoming struct {
	Type, Room, Text string
	ID               string // of say: a client that sends a message again gives it the same ID
}

// outgoing is what the page gets, besides a saidMessage.
type outgoing struct {
	Type    string        `json:"type"` // welcome, rooms, joined, left, here, gone, problem, events
	Room    string        `json:"room,omitempty"`
	Name    string        `json:"name,omitempty"`
	Text    string        `json:"text,omitempty"`
	ID      string        `json:"id,omitempty"` // what the author has given it, in problem
	People  []string      `json:"people,omitempty"`
	History []saidMessage `json:"history,omitempty"`
	Rooms   []roomInfo    `json:"rooms,omitempty"`
	Events  []event       `json:"events,omitempty"`
	Missed  uint64        `json:"missed,omitempty"`

	Operator bool `json:"operator,omitempty"` // the page may show the figures
}

type roomInfo struct {
	Name   string `json:"name"`
	People int    `json:"people"`
}

// everybody is the room that all connections are in. schema.json lets no client name it.
const everybody = ""

// rooms is the chat on this instance. What is said goes to the store, which tells each instance, and
// so it comes to the members of the room. No client is waited for, because the Hub only queues. The
// errors of Broadcast are ignored, because JSON is UTF-8 and the Guard checks nothing else of what is
// sent.
type rooms struct {
	hub   hub.Hub[string]
	store Store         // read-only
	log   *slog.Logger  // read-only
	moved chan struct{} // has an item while the list of rooms must be sent

	// mu makes what a client is told of the past, and what it is told from then on, fit together. The
	// lock of the Hub may be taken while it is held. The store is not called while it is held.
	mu      sync.Mutex
	history map[string][]Message // guarded by mu; the last messages of each room
	recent  []event              // guarded by mu; the feed's, for clients that come later
}

var _ Rooms = (*rooms)(nil)

func newRooms(s Store, log *slog.Logger) *rooms {
	r := &rooms{store: s, log: log, moved: make(chan struct{}, 1), history: map[string][]Message{}}
	r.hub.Joined, r.hub.Changed = r.joined, r.changed
	return r
}

// run sends the list of rooms to everybody after each change, and one list for many changes at a
// time. It also tells the store who is here.
func (r *rooms) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.moved:
			r.mu.Lock()
			r.hub.Broadcast(everybody, encode(list(r.People())))
			r.mu.Unlock()
			here := r.hub.Here()
			delete(here, everybody)
			r.store.Here(here)
		}
	}
}

// serve is the life of one connection. What Read returns has passed the
// guards: it is of the right size, within the rate, JSON, and fits the schema.
func (r *rooms) serve(ctx context.Context, c *wsguard.Conn) error {
	leave := map[string]func(){} // the rooms that c is in
	r.enter(c)
	for {
		m, err := wsguard.ReadJSON[incoming](ctx, c)
		if err != nil {
			return err
		}
		switch m.Type {
		case "join":
			r.join(c, leave, m.Room)
		case "leave":
			if leave[m.Room] != nil {
				leave[m.Room]()
				delete(leave, m.Room)
				send(c, outgoing{Type: "left", Room: m.Room})
			}
		case "say":
			r.say(ctx, c, leave[m.Room] != nil, m)
		case "drill":
			// For the page to show how it comes back after a restart.
			return &wsguard.CloseError{Code: 1012, Reason: drillReason}
		}
	}
}

func (r *rooms) enter(c *wsguard.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := c.Principal()
	send(c, outgoing{Type: "welcome", Name: p.Subject, Operator: slices.Contains(p.Scopes, operatorScope)})
	r.hub.Join(everybody, c, p.Subject)
	send(c, list(r.People()))
	if len(r.recent) > 0 {
		send(c, outgoing{Type: "events", Events: r.recent})
	}
}

func (r *rooms) join(c *wsguard.Conn, leave map[string]func(), name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	people := r.People()
	_, exists := people[name]
	switch {
	case leave[name] != nil:
		c.Send(wsguard.MessageText, r.joined(name, people[name]))
	case len(leave) >= maxJoined:
		send(c, problem("You can be in %d rooms at a time: leave one first.", maxJoined))
	case !exists && len(people) >= MaxRooms:
		send(c, problem("There are %d rooms already.", MaxRooms))
	default:
		leave[name] = r.hub.Join(name, c, c.Principal().Subject)
	}
}

// joined is called with mu held, and while the Hub is locked.
func (r *rooms) joined(room string, people []string) []byte {
	if room == everybody {
		return nil
	}
	m := outgoing{Type: "joined", Room: room, People: people}
	for _, h := range r.history[room] {
		m.History = append(m.History, saidMessage{"said", h})
	}
	return encode(m)
}

// changed is called while the Hub is locked.
func (r *rooms) changed(room, name string, here bool) []byte {
	if room == everybody {
		return nil
	}
	select {
	case r.moved <- struct{}{}:
	default: // run has not yet seen the change before this one
	}
	if here {
		return encode(outgoing{Type: "here", Room: room, Name: name})
	}
	return encode(outgoing{Type: "gone", Room: room, Name: name})
}

// say has the store tell a room a message, and does so once. A message whose ID the same login has
// used before is only acknowledged again. So a client that does not know whether a message has
// arrived can send it again. Nobody gets a message before it is in the store, so a restart loses none
// that anybody has seen.
func (r *rooms) say(ctx context.Context, c *wsguard.Conn, member bool, in incoming) {
	// Who said it is what the connection was authenticated for, never what a
	// message claims.
	m := Message{Room: in.Room, Name: c.Principal().Subject, Text: in.Text, ID: in.ID, At: time.Now().UnixMilli()}
	switch first, err := r.store.Say(ctx, m, member); {
	case errors.Is(err, ErrNotMember):
		refuse(c, m, "You are not in that room.")
	case err != nil:
		r.log.Error("store", "error", err)
		refuse(c, m, "The server cannot keep your message, please try again later.")
	case first != nil:
		c.Send(wsguard.MessageText, encode(saidMessage{"said", *first}))
	}
}

// Said implements [Rooms].
func (r *rooms) Said(m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history[m.Room] = last(MaxHistory, append(r.history[m.Room], m))
	r.hub.Broadcast(m.Room, encode(saidMessage{"said", m}))
}

// Reset implements [Rooms].
func (r *rooms) Reset(room string, history []Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.history, room)
	if len(history) > 0 {
		r.history[room] = slices.Clone(last(MaxHistory, history))
	}
	r.hub.Repeat(room)
}

// Elsewhere implements [Rooms].
func (r *rooms) Elsewhere(people map[string][]string) { r.hub.Elsewhere(people) }

// refuse tells the author of m which message was not said.
func refuse(c *wsguard.Conn, m Message, why string) {
	send(c, outgoing{Type: "problem", Room: m.Room, ID: m.ID, Text: why})
}

// People returns those in each room. The first room is there without any, too.
func (r *rooms) People() map[string][]string {
	people := r.hub.People()
	delete(people, everybody)
	if _, ok := people[firstRoom]; !ok {
		people[firstRoom] = nil
	}
	return people
}

func list(people map[string][]string) outgoing {
	m := outgoing{Type: "rooms"}
	for _, name := range slices.Sorted(maps.Keys(people)) {
		m.Rooms = append(m.Rooms, roomInfo{name, len(people[name])})
	}
	return m
}

// report tells everybody what the guards have seen.
func (r *rooms) report(events []event, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent = last(maxEvents, append(r.recent, events...))
	r.hub.Broadcast(everybody, encode(outgoing{Type: "events", Events: events, Missed: missed}))
}

func send(c *wsguard.Conn, m outgoing) { c.Send(wsguard.MessageText, encode(m)) }

func problem(format string, args ...any) outgoing {
	return outgoing{Type: "problem", Text: fmt.Sprintf(format, args...)}
}

func encode(m any) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // outgoing and saidMessage have only strings and numbers: cannot be
	}
	return b
}
