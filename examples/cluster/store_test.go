package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/examples/chat/server"
	"github.com/wsguard/wsguard/internal/wstest"
)

// onEach runs a test on a miniredis, and on a redis-server if there is one.
func onEach(t *testing.T, f func(t *testing.T, url string)) {
	t.Run("miniredis", func(t *testing.T) {
		wstest.CheckGoroutines(t)
		f(t, "redis://"+miniredis.RunT(t).Addr())
	})
	t.Run("redis-server", func(t *testing.T) {
		if _, err := exec.LookPath("redis-server"); err != nil {
			t.Skip(err)
		}
		wstest.CheckGoroutines(t)
		db, err := openDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.stop)
		f(t, db.url)
	})
}

func open(t *testing.T, url string) *store {
	t.Helper()
	client, err := connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := newStore(client, "test", slog.New(new(wstest.Log)))
	s.every = 50 * time.Millisecond
	return s
}

// rooms is an instance. It keeps what a client in all rooms would have on its screen.
type rooms struct {
	t    *testing.T
	stop func() // ends Follow

	mu        sync.Mutex // guards what follows
	past      map[string][]server.Message
	said      int // calls of Said
	resets    int // calls of Reset
	elsewhere map[string][]string
	inUse     map[string][]string
	changed   chan struct{} // closed at the next change
}

func follow(t *testing.T, s *store) *rooms {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &rooms{t: t, past: map[string][]server.Message{}, changed: make(chan struct{})}
	r.stop = func() { cancel(); s.wait() }
	t.Cleanup(r.stop)
	if err := s.Follow(ctx, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rooms) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *rooms) Said(m server.Message) {
	r.change(func() { r.said++; r.past[m.Room] = append(r.past[m.Room], m) })
}

func (r *rooms) Reset(room string, history []server.Message) {
	r.change(func() {
		r.resets++
		delete(r.past, room)
		if len(history) > 0 {
			r.past[room] = slices.Clone(history)
		}
	})
}

func (r *rooms) Elsewhere(people map[string][]string) {
	r.change(func() { r.elsewhere = people })
}

func (r *rooms) People() map[string][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.inUse)
}

// until waits for a state.
func (r *rooms) until(what string, is func() bool) {
	r.t.Helper()
	end := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		ok, changed := is(), r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-end:
			r.t.Fatalf("waiting for %s: %v, elsewhere %v", what, r.past, r.elsewhere)
		}
	}
}

// texts are what is on the screen in a room. The mutex must be held.
func (r *rooms) texts(room string) (texts []string) {
	for _, m := range r.past[room] {
		texts = append(texts, m.Text)
	}
	return texts
}

// want waits for the texts in a room.
func (r *rooms) want(room string, texts ...string) {
	r.t.Helper()
	r.until(fmt.Sprint(room, ": ", texts), func() bool { return slices.Equal(r.texts(room), texts) })
}

func say(t *testing.T, s *store, room, text, id string) {
	t.Helper()
	first, err := s.Say(t.Context(), server.Message{Room: room, Name: "alice", Text: text, ID: id, At: 1}, true)
	if err != nil || first != nil {
		t.Fatalf("%s: %v, and said before: %v", text, err, first)
	}
}

func login(t *testing.T, s *store, name, want string) (token string) {
	t.Helper()
	token, got, err := s.Login(t.Context(), name, name == "root")
	if err != nil || got != want {
		t.Fatalf("%s is called %q, %v", name, got, err)
	}
	return token
}

func TestLogins(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		a, b := open(t, url), open(t, url)
		alice := login(t, a, "alice", "alice")
		login(t, b, "Alice", "Alice-2")
		root := login(t, b, "root", "root")
		for token, name := range map[string]string{alice: "alice", root: "root", "": "", "guess": ""} {
			for _, s := range []*store{a, b} {
				l, ok, err := s.Find(t.Context(), token)
				if err != nil || ok != (name != "") || l.Name != name || l.Operator != (name == "root") {
					t.Errorf("%s: %+v %v %v", name, l, ok, err)
				}
				if d := time.Since(l.Since); ok && (d < -time.Minute || d > time.Minute || l.Until.Sub(l.Since) != server.SessionFor) {
					t.Errorf("%s: since %v, until %v", name, l.Since, l.Until)
				}
			}
		}
		// A logout at one instance counts at all, and the name is free.
		l, _, _ := b.Find(t.Context(), alice)
		for range 2 {
			if err := b.Logout(t.Context(), l); err != nil {
				t.Error(err)
			}
			if _, ok, err := a.Find(t.Context(), alice); ok || err != nil {
				t.Errorf("after the logout: %v %v", ok, err)
			}
		}
		again := login(t, a, "alice", "alice")
		if err := b.Logout(t.Context(), l); err != nil { // of the old login
			t.Error(err)
		}
		if _, ok, _ := a.Find(t.Context(), again); !ok {
			t.Error("the logout of an old login has ended the new one of that name")
		}
		var many []redis.Z
		for i := range server.MaxSessions {
			many = append(many, redis.Z{Score: float64(time.Now().Add(time.Hour).UnixMilli()), Member: fmt.Sprint(i)})
		}
		if err := a.client.ZAdd(t.Context(), "test:logins", many...).Err(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := a.Login(t.Context(), "bob", false); !errors.Is(err, server.ErrTooMany) {
			t.Errorf("too many logins: %v", err)
		}
	})
}

func TestLoginExpires(t *testing.T) {
	m := miniredis.RunT(t)
	s := open(t, "redis://"+m.Addr())
	token := login(t, s, "alice", "alice")
	m.FastForward(server.SessionFor - time.Second)
	if _, ok, err := s.Find(t.Context(), token); !ok || err != nil {
		t.Errorf("before the end: %v %v", ok, err)
	}
	m.FastForward(time.Second)
	if _, ok, err := s.Find(t.Context(), token); ok || err != nil {
		t.Errorf("after the end: %v %v", ok, err)
	}
	login(t, s, "alice", "alice")
}

// What is said at one instance comes to all once, however often its author sends it.
func TestSay(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		a, b := open(t, url), open(t, url)
		ra, rb := follow(t, a), follow(t, b)
		token := login(t, a, "alice", "alice")
		say(t, a, "tea", "1", "k-1")
		m := server.Message{Room: "tea", Name: "Alice", Text: "again", ID: "k-1", At: 2}
		for _, s := range []*store{a, b} {
			for _, member := range []bool{true, false} {
				if first, err := s.Say(t.Context(), m, member); err != nil || first == nil || first.Text != "1" || first.At != 1 {
					t.Errorf("sent again: %+v %v", first, err)
				}
			}
		}
		m.ID = "k-2"
		if first, err := b.Say(t.Context(), m, false); first != nil || !errors.Is(err, server.ErrNotMember) {
			t.Errorf("from outside: %+v %v", first, err)
		}
		m.ID, m.Name = "k-1", "bob"
		if first, err := b.Say(t.Context(), m, true); first != nil || err != nil {
			t.Errorf("the ID of somebody else: %+v %v", first, err)
		}
		say(t, b, "tea", "2", "")
		say(t, b, "tea", "2", "")
		say(t, b, "other", `"<\u2028 é`, "")
		for _, r := range []*rooms{ra, rb} {
			r.want("tea", "1", "again", "2", "2")
			r.want("other", `"<\u2028 é`)
		}

		// An old ID, and those of an old login, are forgotten.
		for i := range server.MaxIDs {
			say(t, a, "tea", "x", fmt.Sprint("m-", i))
		}
		say(t, a, "tea", "1", "k-1")
		l, _, _ := b.Find(t.Context(), token)
		if err := b.Logout(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		login(t, a, "alice", "alice")
		say(t, a, "tea", "1", "k-1")
	})
}

// However many say something at the same time, all instances have the same order.
func TestOrder(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		const each = 60
		var stores []*store
		var instances []*rooms
		for range 3 {
			stores = append(stores, open(t, url))
			instances = append(instances, follow(t, stores[len(stores)-1]))
		}
		var wg sync.WaitGroup
		for i, s := range stores {
			for _, room := range []string{"tea", "go"} {
				wg.Go(func() {
					for n := range each {
						m := server.Message{Room: room, Name: fmt.Sprint("u", i), Text: fmt.Sprint(i, "-", n)}
						if first, err := s.Say(t.Context(), m, true); first != nil || err != nil {
							t.Errorf("%v %v", first, err)
						}
					}
				})
			}
		}
		wg.Wait()
		late := follow(t, open(t, url))
		for _, room := range []string{"tea", "go"} {
			var order []string
			for _, r := range instances {
				r.until("all", func() bool { return len(r.past[room]) == len(stores)*each })
				got := r.texts(room)
				if order == nil {
					order = got
				}
				if !slices.Equal(got, order) {
					t.Errorf("%s: two orders: %q and %q", room, got, order)
				}
				if r.resets != 0 {
					t.Errorf("%d resets", r.resets)
				}
				for i := range stores {
					next := 0
					for _, text := range got {
						if text == fmt.Sprint(i, "-", next) {
							next++
						}
					}
					if next != each {
						t.Errorf("%s: the messages of %d are not in their order: %q", room, i, got)
					}
				}
			}
			late.want(room, order[len(order)-server.MaxHistory:]...)
		}
	})
}

// Of too many rooms the one that was silent for longest is forgotten everywhere, unless somebody is
// in it. It can begin again.
func TestForget(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		a, b := open(t, url), open(t, url)
		ra, rb := follow(t, a), follow(t, b)
		ra.inUse = map[string][]string{"r0": nil}
		for i := range server.MaxRooms + 2 {
			say(t, a, fmt.Sprint("r", i), fmt.Sprint(i), "")
			time.Sleep(2 * time.Millisecond) // rooms are compared by milliseconds
		}
		say(t, a, "r1", "again", "")
		late := follow(t, open(t, url))
		for _, r := range []*rooms{ra, rb, late} {
			r.want("r0", "0")
			r.want("r1", "again")
			r.want("r4", "4")
			for _, room := range []string{"r2", "r3"} {
				r.want(room)
			}
		}
	})
}

// An instance that was away comes back to all that it has missed. If that is too much, it reads the
// room again.
func TestAway(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		a := open(t, url)
		proxy := newProxy(t, a.client.Options().Addr)
		b := open(t, proxy.url(url))
		ra, rb := follow(t, a), follow(t, b)
		say(t, a, "tea", "0", "")
		say(t, a, "go", "0", "")
		rb.want("tea", "0")
		rb.want("go", "0")
		proxy.close()
		for i := range keptMessages + 10 {
			say(t, a, "tea", fmt.Sprint(i), "")
		}
		say(t, a, "go", "1", "")
		say(t, a, "new", "1", "")
		proxy.open()
		rb.want("go", "0", "1")
		rb.want("new", "1")
		ra.until("all", func() bool { return len(ra.past["tea"]) == keptMessages+11 })
		all := ra.texts("tea")
		rb.want("tea", all[len(all)-server.MaxHistory:]...)
		if ra.resets != 0 || rb.resets != 1 {
			t.Errorf("%d and %d resets", ra.resets, rb.resets)
		}
	})
}

// A Redis that has lost its memory begins anew, and so do the instances, at the next message.
func TestEmptied(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		a, b := open(t, url), open(t, url)
		ra, rb := follow(t, a), follow(t, b)
		token := login(t, a, "alice", "alice")
		say(t, a, "tea", "before", "k-1")
		rb.want("tea", "before")
		if err := a.client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := b.Find(t.Context(), token); ok || err != nil {
			t.Errorf("the login: %v %v", ok, err)
		}
		say(t, b, "tea", "after", "k-2")
		say(t, b, "tea", "more", "k-3")
		for _, r := range []*rooms{ra, rb} {
			r.want("tea", "after", "more")
		}
	})
}

// Whenever a connection breaks, no message is lost, and none comes twice.
func TestBroken(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		direct := open(t, url)
		proxy := newProxy(t, direct.client.Options().Addr)
		proxy.breakOften(true)
		var stores []*store
		instances := []*rooms{follow(t, direct)}
		for range 2 {
			stores = append(stores, open(t, proxy.url(url)))
			instances = append(instances, follow(t, stores[len(stores)-1]))
		}
		var mu sync.Mutex
		var want []string // guarded by mu
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				for n := range (keptMessages - 1) / 2 { // a reader that is late misses none
					m := server.Message{Room: "tea", Name: fmt.Sprint("u", i), Text: fmt.Sprint(i, "-", n)}
					if n%2 == 0 {
						m.ID = fmt.Sprint(n)
					}
					if first, err := s.Say(t.Context(), m, true); first != nil || err != nil {
						t.Errorf("%s: %v %v", m.Text, first, err)
					}
					mu.Lock()
					want = append(want, m.Text)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		proxy.breakOften(false)
		slices.Sort(want)
		for _, r := range instances {
			r.until("all", func() bool { return len(r.past["tea"]) >= len(want) })
			if got := slices.Sorted(slices.Values(r.texts("tea"))); !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			if !slices.Equal(r.texts("tea"), instances[0].texts("tea")) {
				t.Error("another order")
			}
			if r.resets != 0 {
				t.Errorf("%d resets", r.resets)
			}
		}
		if n := proxy.breaks(); n < 5 {
			t.Errorf("only %d connections were broken", n)
		}
	})
}

// The instances know who is in the rooms of the others, also after one of them has ended or was
// killed.
func TestPresence(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		a, b := open(t, url), open(t, url)
		ra, rb := follow(t, a), follow(t, b)
		want := func(r *rooms, want map[string][]string) {
			t.Helper()
			r.until(fmt.Sprint("elsewhere ", want), func() bool {
				for _, names := range r.elsewhere {
					slices.Sort(names)
				}
				return len(want) == 0 && len(r.elsewhere) == 0 || reflect.DeepEqual(r.elsewhere, want)
			})
		}
		a.Here(map[string][]string{"tea": {"alice"}})
		want(rb, map[string][]string{"tea": {"alice"}})
		b.Here(map[string][]string{"tea": {"bob"}, "go": {"bob"}})
		want(ra, map[string][]string{"tea": {"bob"}, "go": {"bob"}})
		c := open(t, url)
		rc := follow(t, c)
		want(rc, map[string][]string{"tea": {"alice", "bob"}, "go": {"bob"}})
		rb.stop()
		want(ra, nil)
		want(rc, map[string][]string{"tea": {"alice"}})

		// An instance that is killed says no word. Here, it has no connection any more.
		a.client.Close()
		want(rc, nil)
	})
}
