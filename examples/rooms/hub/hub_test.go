package hub_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/examples/rooms/hub"
	"github.com/wsguard/wsguard/wsguardtest"
)

// serve runs a server whose clients send "+ROOM" to join, "-ROOM" to leave and "ROOM TEXT" to speak.
func serve(t *testing.T, h *hub.Hub[string], opts ...wsguardtest.Option) *wsguardtest.Server {
	h.Joined = func(room string, people []string) []byte { return fmt.Appendf(nil, "%s: %v", room, people) }
	h.Changed = func(room, name string, here bool) []byte { return fmt.Appendf(nil, "%s: %s %t", room, name, here) }
	s := wsguardtest.NewServer(t, func(ctx context.Context, c *wsguard.Conn) error {
		leave := map[string]func(){}
		for {
			_, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			switch room, text, _ := strings.Cut(string(msg), " "); {
			case room[0] == '-':
				leave[room[1:]]()
			case room[0] == '+':
				leave[room[1:]] = h.Join(room[1:], c, c.Principal().Subject)
			default:
				err = h.Broadcast(room, []byte(text))
			}
			if err != nil {
				return err
			}
		}
	}, opts...)
	h.Guard = s.Guard
	return s
}

func as(name string) wsguardtest.DialOption {
	return wsguardtest.As(wsguard.Principal{Subject: name})
}

// join connects a client and lets it into the lobby, where people are then.
func join(s *wsguardtest.Server, name, people string) *wsguardtest.Client {
	c := s.Dial(as(name))
	c.WriteText("+lobby")
	c.WantText("lobby: " + people)
	return c
}

func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hub.Hub[string]
		s := serve(t, &h)
		alice := join(s, "alice", "[alice]")
		bob := join(s, "bob", "[alice bob]")
		alice.WantText("lobby: bob true")

		// With a second connection bob is there once, and gone with the last.
		bob2 := join(s, "bob", "[alice bob]")
		bob.WriteText("-lobby")
		alice.WantNothing(time.Second)
		bob.WriteText("+lobby")
		bob.WantText("lobby: [alice bob]")
		bob2.Close()
		alice.WantNothing(time.Second)
		bob.CloseNow()
		alice.WantText("lobby: bob false")

		// Somebody who comes back is there again, and nothing is left of empty rooms.
		bob = join(s, "bob", "[alice bob]")
		alice.WantText("lobby: bob true")
		bob.WriteText("-lobby")
		alice.WantText("lobby: bob false")
		alice.WriteText("-lobby")
		join(s, "carol", "[carol]")
		alice.WantNothing(time.Second)
	})
}

// People are those who are there, and who need not be told of each other.
func TestPeople(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hub.Hub[string]
		s := serve(t, &h)
		want := func(want map[string][]string) {
			t.Helper()
			synctest.Wait()
			if got := h.People(); !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("people: %v, want %v", got, want)
			}
		}
		h.Joined = func(string, []string) []byte { return nil }
		h.Changed = func(string, string, bool) []byte { return nil }
		want(nil)
		alice, bob, bob2 := s.Dial(as("alice")), s.Dial(as("bob")), s.Dial(as("bob"))
		for _, c := range []*wsguardtest.Client{alice, bob, bob2} {
			c.WriteText("+lobby")
		}
		bob.WriteText("+go")
		want(map[string][]string{"lobby": {"alice", "bob"}, "go": {"bob"}})
		bob.CloseNow()
		want(map[string][]string{"lobby": {"alice", "bob"}})
		bob2.WriteText("-lobby")
		want(map[string][]string{"lobby": {"alice"}})
		alice.WantNothing(time.Second)
		bob2.WantNothing(time.Second)
	})
}

// Somebody who is on two instances is in the room once, and is gone when gone from both.
func TestElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hub.Hub[string]
		s := serve(t, &h)
		people := func(want, here map[string][]string) {
			t.Helper()
			synctest.Wait()
			if got := h.People(); !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("people: %v, want %v", got, want)
			}
			if got := h.Here(); !maps.EqualFunc(got, here, slices.Equal) {
				t.Errorf("here: %v, want %v", got, here)
			}
		}
		h.Elsewhere(nil)
		alice := join(s, "alice", "[alice]")
		lobby := func(names ...string) map[string][]string { return map[string][]string{"lobby": names} }
		h.Elsewhere(lobby("alice", "bob", "bob"))
		alice.WantText("lobby: bob true")
		people(lobby("alice", "bob"), lobby("alice"))
		h.Elsewhere(lobby("bob", "alice"))
		bob := join(s, "bob", "[alice bob]")
		alice.WantNothing(time.Second)

		// All members are told again who is there.
		h.Repeat("lobby")
		alice.WantText("lobby: [alice bob]")
		bob.WantText("lobby: [alice bob]")
		h.Repeat("nowhere")

		// Bob leaves one instance after the other, and alice leaves this one.
		h.Elsewhere(lobby("alice"))
		alice.WantNothing(time.Second)
		bob.CloseNow()
		alice.WantText("lobby: bob false")
		bob = join(s, "bob", "[alice bob]")
		alice.WantText("lobby: bob true")
		alice.CloseNow()
		bob.WantNothing(time.Second)
		people(lobby("alice", "bob"), lobby("bob"))

		// A room goes with the last who is in it, wherever that is.
		bob.CloseNow()
		people(lobby("alice"), nil)
		h.Elsewhere(map[string][]string{"go": {"carol"}})
		people(map[string][]string{"go": {"carol"}}, nil)
		dave := s.Dial(as("dave"))
		dave.WriteText("+go")
		dave.WantText("go: [carol dave]")
		h.Elsewhere(map[string][]string{"go": nil, "lobby": nil})
		dave.WantText("go: carol false")
		dave.CloseNow()
		people(nil, nil)
	})
}

func TestBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hub.Hub[string]
		s := serve(t, &h)
		alice, bob := join(s, "alice", "[alice]"), join(s, "bob", "[alice bob]")
		alice.WantText("lobby: bob true")
		bob.WriteText("+go")
		bob.WantText("go: [bob]")
		bob.WriteText("lobby hello")
		alice.WantText("hello")
		bob.WantText("hello")
		bob.WriteText("go gophers only")
		bob.WantText("gophers only")
		alice.WriteText("nowhere anyone?")
		alice.WantNothing(time.Second)
		bob.WriteText("-go")
		bob.WriteText("-go") // changes nothing
		bob.WriteText("go nobody")
		bob.WantNothing(time.Second)
		if err := h.Broadcast("lobby", []byte("\xff")); err == nil {
			t.Error("a text that is not UTF-8 is no error")
		}
	})
}

// A member that reads nothing is closed when its queue is full. No time passes for the others.
func TestSlowMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h hub.Hub[string]
		s := serve(t, &h, wsguardtest.Config(wsguard.Config{Send: wsguard.SendConfig{MaxMessages: 10}}))
		slow := s.DialRaw(as("slow"))
		slow.WriteFrame(wsguardtest.Frame{Opcode: wsguardtest.OpText, Payload: []byte("+lobby")})
		slow.WantText("lobby: [slow]")
		fast := join(s, "fast", "[fast slow]")
		start, msg := time.Now(), strings.Repeat("x", 10_000)
		for n, got := 0, msg; got == msg; n++ {
			if n == 1000 {
				t.Fatal("the slow member is still there")
			}
			if err := h.Broadcast("lobby", []byte(msg)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got = fast.ReadText(); got != msg && got != "lobby: slow false" {
				t.Fatalf("the fast member got %q", got)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the others have waited for %v", d)
		}
		if ev := s.Events.Next(audit.Close); ev.Subject != "slow" || ev.Reason != "queue_full" {
			t.Errorf("closed: %+v", ev)
		}
	})
}

// Whatever the others do, a member always knows who is there: what it was told when it joined, and
// every change since, make up the list that somebody gets who joins now.
func TestNews(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			var h hub.Hub[string]
			s := serve(t, &h)
			eye, there := join(s, "eye", "[eye]"), map[string]bool{"eye": true}
			random := rand.New(rand.NewPCG(seed, 0))
			clients := make([]*wsguardtest.Client, 20)
			for range 200 {
				n := random.IntN(len(clients))
				switch c := clients[n]; {
				case c == nil:
					clients[n] = s.Dial(as(fmt.Sprint("user", n/2))) // two connections of each user
					clients[n].WriteText("+lobby")
				case random.IntN(3) == 0:
					c.CloseNow()
					clients[n] = nil
				default: // leaves, and comes again
					c.WriteText("-lobby")
					c.WriteText("+lobby")
				}
				if random.IntN(2) == 0 {
					synctest.Wait()
				}
			}
			synctest.Wait()
			if err := h.Broadcast("lobby", []byte("end")); err != nil {
				t.Fatal(err)
			}
			for msg := eye.ReadText(); msg != "end"; msg = eye.ReadText() {
				var name string
				var here bool
				if _, err := fmt.Sscanf(msg, "lobby: %s %t", &name, &here); err != nil || there[name] == here {
					t.Fatalf("the news %q for somebody who knows %v: %v", msg, there, err)
				}
				if there[name] = here; !here {
					delete(there, name)
				}
			}
			late := s.Dial(as("eye"))
			late.WriteText("+lobby")
			late.WantText(fmt.Sprintf("lobby: %v", slices.Sorted(maps.Keys(there))))
		})
	}
}
