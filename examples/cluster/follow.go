package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/examples/chat/server"
)

const (
	beginning     = "0-0" // is before each entry of a stream
	waitForNews   = 500 * time.Millisecond
	announceEvery = 2 * time.Second
	goneAfter     = 3   // intervals without an announcement, and an instance is gone
	keptHere      = 100 // announcements of who is here
)

// reader is where an instance is in the streams. Only the goroutine that follows them uses it.
type reader struct {
	*store
	ctx     context.Context
	index   string             // the cursor in the index
	present string             // the cursor in the announcements
	cursors map[string]string  // by the room
	others  map[string]*people // by the ID of the instance
}

// people are those in the rooms of an instance.
type people struct {
	rooms map[string][]string
	heard time.Time // when the last announcement came
}

// Follow implements server.Store.
func (s *store) Follow(ctx context.Context, rooms server.Rooms) error {
	s.rooms = rooms
	r := &reader{store: s, ctx: ctx, present: beginning, others: map[string]*people{}}
	if err := r.load(); err != nil {
		return err
	}
	s.running.Go(r.run)
	s.running.Go(func() { s.announce(ctx) })
	return nil
}

// load reads the messages of all rooms. What is said meanwhile comes behind the cursors.
func (r *reader) load() error {
	last, err := r.client.XRevRangeN(r.ctx, r.prefix+"index", "+", "-", 1).Result()
	if err != nil {
		return err
	}
	names, err := r.client.ZRange(r.ctx, r.prefix+"rooms", 0, -1).Result()
	if err != nil {
		return err
	}
	old := r.cursors
	r.index, r.cursors = beginning, map[string]string{}
	if len(last) > 0 {
		r.index = last[0].ID
	}
	for _, name := range names {
		if err := r.loadRoom(name); err != nil {
			return err
		}
	}
	for name := range old {
		if r.cursors[name] == "" {
			r.rooms.Reset(name, nil)
		}
	}
	return nil
}

func (r *reader) loadRoom(name string) error {
	entries, err := r.client.XRevRangeN(r.ctx, r.key("room", name), "+", "-", server.MaxHistory).Result()
	if err != nil {
		return err
	}
	slices.Reverse(entries)
	r.cursors[name] = beginning
	var history []server.Message
	for _, e := range entries {
		r.cursors[name] = e.ID
		if m, ok := r.message(e); ok {
			history = append(history, m)
		}
	}
	r.rooms.Reset(name, history)
	return nil
}

func (r *reader) message(e redis.XMessage) (m server.Message, ok bool) {
	text, _ := e.Values["message"].(string)
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		r.log.Error("a message in Redis is not readable", "id", e.ID, "error", err)
		return m, false
	}
	return m, true
}

// run follows the streams until ctx ends. A cursor moves when an entry has been handled, and so no
// entry is lost while there is no connection to Redis.
func (r *reader) run() {
	failing := false
	for r.ctx.Err() == nil {
		err := r.next()
		if err == nil || r.ctx.Err() != nil {
			failing = false
			continue
		}
		if !failing {
			r.log.Warn("cannot read what is said", "error", err)
		}
		failing = true
		for _, p := range r.others { // nobody is gone because Redis is
			p.heard = time.Now()
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}

// next waits for entries and handles them.
func (r *reader) next() error {
	names := slices.Sorted(maps.Keys(r.cursors))
	keys, ids := []string{r.prefix + "index", r.prefix + "here"}, []string{r.index, r.present}
	for _, name := range names {
		keys, ids = append(keys, r.key("room", name)), append(ids, r.cursors[name])
	}
	streams, err := r.client.XRead(r.ctx, &redis.XReadArgs{Streams: append(keys, ids...), Count: 100, Block: waitForNews}).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	entries := map[string][]redis.XMessage{} // by the key
	for _, s := range streams {
		entries[s.Stream] = s.Messages
	}
	moved, err := r.readIndex(entries[keys[0]])
	if err != nil {
		return err
	}
	for _, name := range names {
		if moved[name] {
			continue // the entries are from before it has begun again, or are read again
		}
		if err := r.readRoom(name, entries[r.key("room", name)]); err != nil {
			return err
		}
	}
	r.readHere(entries[keys[1]])
	return nil
}

// readIndex returns the rooms whose cursors have moved.
func (r *reader) readIndex(entries []redis.XMessage) (moved map[string]bool, err error) {
	moved = map[string]bool{}
	for _, e := range entries {
		if e.Values["before"] != r.index {
			r.log.Warn("missed which rooms have begun, and reads all rooms again")
			for name := range r.cursors {
				moved[name] = true
			}
			return moved, r.load()
		}
		r.index = e.ID
		if name, ok := e.Values["begin"].(string); ok && !r.knows(name, e.ID) {
			r.cursors[name], moved[name] = beginning, true
		}
		if name, ok := e.Values["forget"].(string); ok && !r.knows(name, e.ID) {
			delete(r.cursors, name)
			moved[name] = true
			r.rooms.Reset(name, nil)
		}
	}
	return moved, nil
}

// knows reports whether a room was loaded after an entry of the index was made. It compares the
// milliseconds of the IDs.
func (r *reader) knows(name, id string) bool {
	at := func(id string) uint64 {
		ms, _, _ := strings.Cut(id, "-")
		n, _ := strconv.ParseUint(ms, 10, 64) // 0 for a room without a cursor
		return n
	}
	return at(r.cursors[name]) >= at(id)
}

func (r *reader) readRoom(name string, entries []redis.XMessage) error {
	for _, e := range entries {
		if e.Values["before"] != r.cursors[name] {
			r.log.Warn("missed messages, and reads the room again", "room", name)
			return r.loadRoom(name)
		}
		r.cursors[name] = e.ID
		if m, ok := r.message(e); ok {
			r.rooms.Said(m)
		}
	}
	return nil
}

func (r *reader) readHere(entries []redis.XMessage) {
	changed := false
	for _, e := range entries {
		r.present = e.ID
		id, _ := e.Values["instance"].(string)
		text, _ := e.Values["people"].(string)
		p := &people{heard: time.Now()}
		if err := json.Unmarshal([]byte(text), &p.rooms); err != nil || id == r.id {
			continue
		}
		r.others[id] = p
		changed = true
	}
	for id, p := range r.others {
		if time.Since(p.heard) > goneAfter*r.every {
			delete(r.others, id)
			changed = true
		}
	}
	if !changed {
		return
	}
	all := map[string][]string{}
	for _, p := range r.others {
		for room, names := range p.rooms {
			all[room] = append(all[room], names...)
		}
	}
	r.rooms.Elsewhere(all)
}

// Here implements server.Store.
func (s *store) Here(people map[string][]string) {
	text, err := json.Marshal(people)
	if err != nil {
		s.log.Error("who is here", "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.here == string(text) {
		return
	}
	s.here = string(text)
	select {
	case s.changed <- struct{}{}:
	default: // announce has not yet seen the change before this one
	}
}

// announce tells the other instances who is here, after each change and from time to time. When ctx
// ends it tells them that nobody is.
func (s *store) announce(ctx context.Context) {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		s.mu.Lock()
		here := s.here
		s.mu.Unlock()
		if ctx.Err() != nil {
			here = "{}"
		}
		s.tell(context.WithoutCancel(ctx), here)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-tick.C:
		}
	}
}

func (s *store) tell(ctx context.Context, here string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := s.client.XAdd(ctx, &redis.XAddArgs{
		Stream: s.prefix + "here", MaxLen: keptHere, Approx: true,
		Values: []string{"instance", s.id, "people", here},
	}).Err()
	if err != nil {
		s.log.Warn("cannot tell who is here", "error", err) // the next tick tries again
	}
}

// wait waits until what Follow has started has ended.
func (s *store) wait() { s.running.Wait() }
