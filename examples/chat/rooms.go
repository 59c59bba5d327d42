package main

import (
	"context"
	"encoding/json"
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
	maxRooms    = 20
	maxJoined   = 5  // rooms of one connection
	maxHistory  = 50 // messages of one room, which stay when the last member has left
	maxIDs      = 50 // messages of one login that it can send again
	drillReason = "drill"
)

// incoming is what schema.json lets pass. The schema allows no other
// properties, so it does not matter that encoding/json would take "TYPE" for
// "type".
type incoming struct {
	Type, Room, Text string
	ID               string // of say: a client that sends a message again gives it the same ID
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

// everybody is the room that all connections are in. schema.json lets no client name it.
const everybody = ""

// rooms is the chat. What is said goes to the store, and then to the members of the room. No client is
// waited for, because the Hub only queues; only a slow disk holds up everybody. The errors of Broadcast
// are ignored, because JSON is UTF-8 and the Guard checks nothing else of what is sent.
type rooms struct {
	hub   hub.Hub[string]
	store *store        // read-only
	log   *slog.Logger  // read-only
	moved chan struct{} // has an item while the list of rooms must be sent

	// mu makes what a client is told of the past, and what it is told from then on, fit together. The
	// locks of the Hub and of the store, in this order, may be taken while it is held.
	mu     sync.Mutex
	recent []event // guarded by mu; the feed's, for clients that come later
}

func newRooms(s *store, log *slog.Logger) *rooms {
	r := &rooms{store: s, log: log, moved: make(chan struct{}, 1)}
	r.hub.Joined, r.hub.Changed = r.joined, r.changed
	return r
}

// run sends the list of rooms to everybody after each change, and one list for many changes at a
// time.
func (r *rooms) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.moved:
			r.mu.Lock()
			r.hub.Broadcast(everybody, encode(list(r.people())))
			r.mu.Unlock()
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
			r.say(c, leave[m.Room] != nil, m)
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
	send(c, list(r.people()))
	if len(r.recent) > 0 {
		send(c, outgoing{Type: "events", Events: r.recent})
	}
}

func (r *rooms) join(c *wsguard.Conn, leave map[string]func(), name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	people := r.people()
	_, exists := people[name]
	switch {
	case leave[name] != nil:
		c.Send(wsguard.MessageText, r.joined(name, people[name]))
	case len(leave) >= maxJoined:
		send(c, problem("You can be in %d rooms at a time: leave one first.", maxJoined))
	case !exists && len(people) >= maxRooms:
		send(c, problem("There are %d rooms already.", maxRooms))
	default:
		leave[name] = r.hub.Join(name, c, c.Principal().Subject)
	}
}

// joined is called while the Hub is locked.
func (r *rooms) joined(room string, people []string) []byte {
	if room == everybody {
		return nil
	}
	return encode(outgoing{Type: "joined", Room: room, People: people, History: r.store.history(room)})
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

// say tells a room a message, and does so once. A message whose ID the same login
// has used before is only acknowledged again. So a client that does not know
// whether a message has arrived can send it again. Nobody gets a message before
// it is in the store, so a restart loses none that anybody has seen.
func (r *rooms) say(c *wsguard.Conn, member bool, in incoming) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Who said it is what the connection was authenticated for, never what a
	// message claims.
	m := outgoing{Type: "said", Room: in.Room, Name: c.Principal().Subject, Text: in.Text, ID: in.ID, At: time.Now().UnixMilli()}
	if first, ok := r.store.first(m); ok {
		send(c, first)
		return
	}
	if !member {
		refuse(c, m, "You are not in that room.")
		return
	}
	var people map[string][]string
	if r.store.full(m.Room) {
		people = r.people()
	}
	if err := r.store.add(m, people); err != nil {
		r.log.Error("store", "error", err)
		refuse(c, m, "The server cannot keep your message, please try again later.")
		return
	}
	r.hub.Broadcast(m.Room, encode(m))
}

// refuse tells the author of m which message was not said.
func refuse(c *wsguard.Conn, m outgoing, why string) {
	send(c, outgoing{Type: "problem", Room: m.Room, ID: m.ID, Text: why})
}

// people are those in each room. The first room is there without any, too.
func (r *rooms) people() map[string][]string {
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
	r.recent = last(maxHistory, append(r.recent, events...))
	r.hub.Broadcast(everybody, encode(outgoing{Type: "events", Events: events, Missed: missed}))
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
