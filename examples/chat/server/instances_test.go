package server

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// goneStore knows nothing while it is gone.
type goneStore struct {
	*File
	gone chan struct{} // closed when the store is gone
}

var errGone = errors.New("gone")

func (s goneStore) err() error {
	select {
	case <-s.gone:
		return errGone
	default:
		return nil
	}
}

func (s goneStore) Find(ctx context.Context, token string) (Session, bool, error) {
	if err := s.err(); err != nil {
		return Session{}, false, err
	}
	return s.File.Find(ctx, token)
}

func (s goneStore) Login(ctx context.Context, name string, operator bool) (string, string, error) {
	if err := s.err(); err != nil {
		return "", "", err
	}
	return s.File.Login(ctx, name, operator)
}

func (s goneStore) Say(ctx context.Context, m Message, member bool) (*Message, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.File.Say(ctx, m, member)
}

// While the store is gone, nobody is taken for logged out. Connections stay open.
func TestStoreGone(t *testing.T) {
	store := goneStore{open(t, ""), make(chan struct{})}
	s, _ := serveStore(t, store)
	alice := newUser(t, s)
	alice.login("alice")
	c := alice.connect("/ws")
	c.send(`{"type":"join","room":"tea"}`)
	c.untilType("joined")
	close(store.gone)
	if status, body := alice.post("/ticket", "", s.Origin); status != 503 {
		t.Errorf("ticket: %d %s", status, body)
	}
	if status, body := newUser(t, s).post("/login", `{"name":"bob"}`, s.Origin); status != 503 {
		t.Errorf("login: %d %s", status, body)
	}
	for _, path := range []string{"/session", "/operator/chat/stats"} {
		res, err := alice.http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 503 {
			t.Errorf("%s: %d, want 503", path, res.StatusCode)
		}
	}
	c.send(`{"type":"say","room":"tea","text":"x","id":"k-1"}`)
	if m := c.untilType("problem"); m.ID != "k-1" {
		t.Errorf("problem: %+v", m)
	}
	if status, body := alice.post("/logout", "", s.Origin); status != 500 {
		t.Errorf("logout: %d %s", status, body)
	}
}

// The members of a room hear what a store tells of other instances.
func TestOtherInstances(t *testing.T) {
	s, app := serveApp(t)
	alice := newUser(t, s)
	alice.login("alice")
	c := alice.connect("/ws")
	c.send(`{"type":"join","room":"tea"}`)
	c.untilType("joined")
	app.rooms.Elsewhere(map[string][]string{"tea": {"bob"}, "den": {"carol"}})
	if m := c.untilType("here"); m.Room != "tea" || m.Name != "bob" {
		t.Errorf("here: %+v", m)
	}
	c.until("the room of others", func(m reply) bool {
		return m.Type == "rooms" && slices.Contains(m.Rooms, roomInfo{"den", 1}) && slices.Contains(m.Rooms, roomInfo{"tea", 2})
	})
	app.rooms.Said(Message{Room: "tea", Name: "bob", Text: "hello", ID: "k-1", At: 1})
	if m := c.untilType("said"); m.Name != "bob" || m.Text != "hello" || m.ID != "k-1" || m.At != 1 {
		t.Errorf("said: %+v", m)
	}
	app.rooms.Reset("tea", []Message{{Room: "tea", Name: "bob", Text: "missed"}, {Room: "tea", Name: "bob", Text: "both"}})
	m := c.untilType("joined")
	if len(m.History) != 2 || m.History[1].Text != "both" || m.History[1].Type != "said" || !slices.Equal(m.People, []string{"alice", "bob"}) {
		t.Errorf("reset: %+v", m)
	}
	app.rooms.Reset("tea", nil)
	if m := c.untilType("joined"); len(m.History) != 0 {
		t.Errorf("forgotten: %+v", m)
	}
	app.rooms.Elsewhere(nil)
	if m := c.untilType("gone"); m.Room != "tea" || m.Name != "bob" {
		t.Errorf("gone: %+v", m)
	}
}
