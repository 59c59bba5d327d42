package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// open is OpenFile for a file that must be good.
func open(t *testing.T, path string) *File {
	t.Helper()
	s, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func reopen(t *testing.T, s *File, path string) *File {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

// said is a message of alice's.
func said(room, text, id string) Message {
	return Message{Room: room, Name: "alice", Text: text, ID: id, At: time.Now().UnixMilli()}
}

func add(s *File, m Message) error {
	_, err := s.Say(context.Background(), m, true)
	return err
}

// history returns the last messages of a room.
func (s *File) history(room string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[room]
}

// sentBefore returns what Say would return if m was sent again by somebody who is in no room.
func (s *File) sentBefore(m Message) (Message, bool) {
	first, err := s.Say(context.Background(), m, false)
	if err != nil || first == nil {
		return Message{}, false
	}
	return *first, true
}

// fakeRooms is an instance without clients.
type fakeRooms struct {
	people map[string][]string
	past   map[string][]Message
}

func (r *fakeRooms) Said(m Message)                    { r.past[m.Room] = append(r.past[m.Room], m) }
func (r *fakeRooms) Reset(room string, past []Message) { r.past[room] = past }
func (r *fakeRooms) Elsewhere(map[string][]string)     {}
func (r *fakeRooms) People() map[string][]string       { return r.people }

func follow(t *testing.T, s *File, people map[string][]string) *fakeRooms {
	t.Helper()
	r := &fakeRooms{people, map[string][]Message{}}
	if err := s.Follow(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func logout(s *File, token string) error {
	return s.Logout(context.Background(), Session{Hash: hash(token)})
}

func mustFind(s *File, token string) (Session, bool) {
	l, ok, _ := s.Find(context.Background(), token)
	return l, ok
}

func mustAdd(t *testing.T, s *File, messages ...Message) {
	t.Helper()
	for _, m := range messages {
		if err := add(s, m); err != nil {
			t.Fatal(err)
		}
	}
}

func mustLogin(t *testing.T, s *File, name string) (token, got string) {
	t.Helper()
	token, got, err := s.Login(context.Background(), name, false)
	if err != nil {
		t.Fatal(err)
	}
	return token, got
}

func texts(messages []Message) string {
	var b strings.Builder
	for _, m := range messages {
		b.WriteString(m.Text + " ")
	}
	return b.String()
}

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new folder", "data")
	s := open(t, path)
	alice, _ := mustLogin(t, s, "alice")
	bob, _ := mustLogin(t, s, "bob")
	root, _, err := s.Login(context.Background(), "root", true)
	if err != nil {
		t.Fatal(err)
	}
	first := said("tea", "<b>1</b>\u2028\n", "k-1")
	mustAdd(t, s, first, said("tea", "2", ""), said("lobby", "3", "k-3"))
	if err := logout(s, bob); err != nil {
		t.Fatal(err)
	}
	for round := range 3 { // the first reads what was appended, the others what was written anew
		s = reopen(t, s, path)
		if l, ok := mustFind(s, alice); !ok || l.Name != "alice" || l.Operator {
			t.Errorf("%d: alice's login: %+v %v", round, l, ok)
		}
		if _, ok := mustFind(s, bob); ok {
			t.Errorf("%d: bob is logged in after the logout", round)
		}
		if l, ok := mustFind(s, root); !ok || l.Operator {
			t.Errorf("%d: root's login: %+v %v; an operator must show the new key", round, l, ok)
		}
		if got := s.history("tea"); len(got) != 2 || !reflect.DeepEqual(got[0], first) {
			t.Errorf("%d: tea: %+v", round, got)
		}
		if got := texts(s.history("lobby")); got != "3 " {
			t.Errorf("%d: lobby: %s", round, got)
		}
		if got, ok := s.sentBefore(said("other", "again", "k-1")); !ok || !reflect.DeepEqual(got, first) {
			t.Errorf("%d: k-1 was first %+v %v", round, got, ok)
		}
		for _, id := range []string{"", "k-2", "K-1"} {
			if got, ok := s.sentBefore(said("tea", "2", id)); ok {
				t.Errorf("%d: the ID %q was said before: %+v", round, id, got)
			}
		}
		if got := len(s.logins[hash(alice)].Sent); got != 2 {
			t.Errorf("%d: %d IDs of alice", round, got)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{alice, bob, root} {
		if bytes.Contains(b, []byte(token)) {
			t.Error("the file has a cookie")
		}
	}
	if !bytes.Contains(b, []byte(hash(alice))) || bytes.Contains(b, []byte("operator")) {
		t.Errorf("%s", b)
	}
	for _, p := range []string{path, path + ".lock"} {
		if info, err := os.Stat(p); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
	}
	// A name that was logged out is free, and its IDs are forgotten.
	if err := logout(s, alice); err != nil {
		t.Fatal(err)
	}
	if _, got := mustLogin(t, s, "alice"); got != "alice" {
		t.Errorf("alice is called %q", got)
	}
	if _, got := mustLogin(t, s, "ROOT"); got != "ROOT-2" {
		t.Errorf("the second root is called %q", got)
	}
	if _, ok := s.sentBefore(said("tea", "", "k-1")); ok {
		t.Error("a new login knows the IDs of the old one")
	}
}

func TestStoreExpiry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path)
		old, _ := mustLogin(t, s, "alice")
		mustAdd(t, s, said("tea", "stays", "k-1"))
		time.Sleep(SessionFor / 2)
		mustLogin(t, s, "bob")
		time.Sleep(SessionFor / 2)
		if _, ok := mustFind(s, old); ok {
			t.Error("logged in after the end")
		}
		s = reopen(t, s, path)
		if _, ok := mustFind(s, old); ok || len(s.logins) != 1 {
			t.Errorf("%d logins are read", len(s.logins))
		}
		if got := texts(s.history("tea")); got != "stays " {
			t.Errorf("tea: %s", got)
		}
		young, got := mustLogin(t, s, "alice")
		if got != "alice" {
			t.Errorf("the next alice is called %q", got)
		}
		// The expired bob is still in the file when the next one logs in.
		time.Sleep(SessionFor / 2)
		bob, got := mustLogin(t, s, "bob")
		if got != "bob" {
			t.Errorf("the next bob is called %q", got)
		}
		s = reopen(t, s, path)
		for _, token := range []string{young, bob} {
			if _, ok := mustFind(s, token); !ok {
				t.Error("a login is gone")
			}
		}
	})
}

// However much is said, the file and what is read from it have an end.
func TestStoreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	s := open(t, path)
	mustLogin(t, s, "alice")
	text := strings.Repeat("<", 400) // six bytes each in JSON
	for i := range 100_000 {
		m := said(fmt.Sprintf("r%d", i%7), fmt.Sprint(i), fmt.Sprintf("k-%d", i))
		if i%7 == 1 {
			m.Text = text
		}
		mustAdd(t, s, m)
		if i%500 != 0 {
			continue
		}
		if info, err := os.Stat(path); err != nil || info.Size() > 2*minRewrite {
			t.Fatalf("after %d messages: %v %v", i, info.Size(), err)
		}
	}
	s = reopen(t, s, path)
	for room, messages := range s.kept {
		if len(messages) != MaxHistory {
			t.Errorf("%s has %d messages", room, len(messages))
		}
	}
	if got := s.history("r0"); got[MaxHistory-1].Text != "99995" {
		t.Errorf("the last message: %s", got[MaxHistory-1].Text)
	}
	if _, ok := s.sentBefore(said("", "", "k-99999")); !ok || len(s.names["alice"].Sent) != MaxIDs {
		t.Errorf("the last ID: %v, %d IDs", ok, len(s.names["alice"].Sent))
	}
	if _, ok := s.sentBefore(said("", "", fmt.Sprintf("k-%d", 100_000-MaxIDs-1))); ok {
		t.Error("an old ID is known, because the room still has its message")
	}
}

func TestStoreFull(t *testing.T) {
	s := open(t, "")
	for range MaxSessions {
		mustLogin(t, s, "a")
	}
	if _, _, err := s.Login(context.Background(), "b", false); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
}

// Of too many rooms the one that was silent for longest is forgotten, unless somebody is in it.
func TestStoreRooms(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	s := open(t, path)
	r := follow(t, s, map[string][]string{"r0": nil})
	for i := range MaxRooms + 3 {
		m := said(fmt.Sprintf("r%d", i), "x", "")
		m.At = int64(i)
		if err := add(s, m); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		var got []string
		for i := range MaxRooms + 3 {
			if room := fmt.Sprintf("r%d", i); s.history(room) == nil {
				got = append(got, room)
			}
		}
		if want := []string{"r1", "r2", "r3"}; !reflect.DeepEqual(got, want) {
			t.Errorf("forgotten: %q, want %q", got, want)
		}
		for room, past := range r.past {
			if want := s.history(room); !slices.Equal(past, want) {
				t.Errorf("%s was told %v, want %v", room, past, want)
			}
		}
		s = reopen(t, s, path)
		r = follow(t, s, nil)
	}
}

// A file that a kill has cut at any byte is read up to there, and can be written.
func TestStoreTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data")
	s := open(t, path)
	token, _ := mustLogin(t, s, "alice")
	for i := range 3 {
		mustAdd(t, s, said("tea", fmt.Sprint(i), "k"+fmt.Sprint(i)))
	}
	s.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) + 1 {
		if n%5 != 0 && !bytes.Contains(whole[max(0, n-2):min(n+2, len(whole))], []byte("\n")) {
			continue // each file takes a while
		}
		torn := filepath.Join(dir, "torn")
		if err := os.WriteFile(torn, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(torn)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		lines := max(0, bytes.Count(whole[:n], []byte("\n"))-1) // without the header
		if _, ok := mustFind(s, token); ok != (lines >= 1) {
			t.Errorf("cut at %d: logged in: %v", n, ok)
		}
		if got := len(s.history("tea")); got != max(0, lines-1) {
			t.Errorf("cut at %d: %d messages", n, got)
		}
		mustAdd(t, s, said("tea", "more", ""))
		s = reopen(t, s, torn)
		if got := s.history("tea"); len(got) != max(0, lines-1)+1 || got[len(got)-1].Text != "more" {
			t.Errorf("cut at %d: then %+v", n, got)
		}
		s.Close()
	}
}

// A file of somebody else's is never written.
func TestStoreForeign(t *testing.T) {
	long := strings.Repeat("x", 2*maxLine)
	const login = `{"login":{"hash":"` + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" + `","name":"alice","since":"2026-01-01T00:00:00Z","until":"2126-01-01T00:00:00Z"}}`
	for name, content := range map[string]string{
		"text":                         "Dear diary",
		"lines":                        "Dear diary,\n\n",
		"a line break":                 "\n",
		"zeros":                        "\x00\x00\x00\x00",
		"binary":                       "\x7fELF\x02\x01\n\n",
		"JSON":                         `{"wsguard":1}` + "\n",
		"a later version":              `{"wsguard_chat":2}` + "\n",
		"no line break":                long,
		"CRLF":                         `{"wsguard_chat":1}` + "\r\n",
		"behind the header: text":      journalHeader + "hello\n",
		"behind the header: nothing":   journalHeader + "\n",
		"behind the header: zeros":     journalHeader + "\x00\x00\n",
		"behind the header: no change": journalHeader + "{}\n",
		"behind the header: another":   journalHeader + `{"deleted":"x"}` + "\n",
		"behind the header: two":       journalHeader + login + login + "\n",
		"behind the header: a type":    journalHeader + `{"said":{"type":"left","room":"a","name":"b"}}` + "\n",
		"behind the header: no room":   journalHeader + `{"said":{"type":"said","name":"b"}}` + "\n",
		"behind the header: no hash":   journalHeader + `{"login":{"name":"alice"}}` + "\n",
		"behind the header: a number":  journalHeader + `{"said":{"type":"said","room":"a","name":"b","at":"1"}}` + "\n",
		"behind the header: long":      journalHeader + long + "\n",
		"behind the header: long torn": journalHeader + long,
		"torn in the middle":           journalHeader + login[:20] + "\n" + login + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data")
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := OpenFile(path)
			if err == nil {
				s.Close()
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), path+": ") || strings.Contains(err.Error(), "diary") || len(err.Error()) > len(path)+120 {
				t.Error(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != content {
				t.Errorf("the file was changed: %.100q %v", got, err)
			}
			os.Remove(path)
			open(t, path) // the lock was given back
		})
	}
	if s, err := OpenFile(t.TempDir()); err == nil {
		s.Close()
		t.Error("a folder is taken")
	}
	if _, err := os.Stat("/dev/null"); err == nil {
		if err := readJournal("/dev/null", nil); !errors.Is(err, errForeign) {
			t.Errorf("a device: %v", err)
		}
	}
	// A path through a file, and a folder that nobody may write to.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenFile(filepath.Join(file, "data")); err == nil {
		s.Close()
		t.Error("a file is taken for a folder")
	}
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		return // who may write everywhere
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenFile(filepath.Join(dir, "data")); !errors.Is(err, os.ErrPermission) {
		s.Close()
		t.Errorf("no permission: %v", err)
	}
}

func TestStoreInUse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "data")
	s := open(t, path)
	mustAdd(t, s, said("tea", "1", ""))
	if _, err := OpenFile(path); !errors.Is(err, errInUse) {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(dir, "link")); err == nil {
		if _, err := OpenFile(filepath.Join(dir, "link")); !errors.Is(err, errInUse) {
			t.Errorf("by a link: %v", err)
		}
	}
	mustAdd(t, s, said("tea", "2", ""))
	s = reopen(t, s, path)
	if got := texts(s.history("tea")); got != "1 2 " {
		t.Error(got)
	}
}

// fullDisk writes only some of each write while it is full.
type fullDisk struct {
	file
	full bool
	room int
}

var errNoSpace = errors.New("no space left on device")

func (d *fullDisk) WriteAt(b []byte, off int64) (int, error) {
	if !d.full {
		return d.file.WriteAt(b, off)
	}
	n, err := d.file.WriteAt(b[:min(d.room, len(b)-1)], off)
	return n, errors.Join(errNoSpace, err)
}

// However much of the refused messages reaches the disk, the file has those that were accepted.
func TestStoreFullDisk(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		path := filepath.Join(t.TempDir(), "data")
		s := open(t, path)
		token, _ := mustLogin(t, s, "alice")
		disk := &fullDisk{file: s.journal.file}
		s.journal.file = disk
		want := ""
		for i := range 20 {
			disk.full, disk.room = r.IntN(2) == 0, r.IntN(200)
			text := fmt.Sprint(i, strings.Repeat("x", r.IntN(100)))
			err := add(s, said("tea", text, "k"+fmt.Sprint(i)))
			if (err != nil) != disk.full {
				t.Fatal(err)
			}
			if err == nil {
				want += text + " "
			}
			if _, ok := s.sentBefore(said("", "", "k"+fmt.Sprint(i))); ok != (err == nil) {
				t.Errorf("the ID of message %d: known %v, error %v", i, ok, err)
			}
		}
		if got := texts(s.history("tea")); got != want {
			t.Errorf("before the restart: %s, want %s", got, want)
		}
		s = reopen(t, s, path)
		if got := texts(s.history("tea")); got != want {
			t.Errorf("after the restart: %s, want %s", got, want)
		}
		if _, ok := mustFind(s, token); !ok {
			t.Error("the login is gone")
		}
	}
}

// A logout that cannot be written counts at once, and is written with what comes next.
func TestStoreLogoutFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	s := open(t, path)
	alice, _ := mustLogin(t, s, "alice")
	bob, _ := mustLogin(t, s, "bob")
	disk := &fullDisk{file: s.journal.file, full: true}
	s.journal.file = disk
	if err := logout(s, alice); !errors.Is(err, errNoSpace) {
		t.Error(err)
	}
	if _, ok := mustFind(s, alice); ok {
		t.Error("alice is still logged in")
	}
	if _, _, err := s.Login(context.Background(), "carol", false); err != nil {
		t.Error(err) // a new file is not on the disk of this test
	}
	s = reopen(t, s, path)
	if _, ok := mustFind(s, alice); ok {
		t.Error("alice is logged in after the restart")
	}
	if _, ok := mustFind(s, bob); !ok || s.names["carol"] == nil {
		t.Error("another login is gone")
	}
}

// A rewrite that fails leaves the old file, refuses what would make it too large, and is tried again.
func TestStoreRewriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	s := open(t, path)
	mustAdd(t, s, said("tea", "1", ""))
	s.journal.limit = s.journal.size
	if err := os.MkdirAll(filepath.Join(path+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := add(s, said("tea", "refused", "")); err == nil {
			t.Error("accepted")
		}
	}
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, said("tea", "2", ""))
	s = reopen(t, s, path)
	if got := texts(s.history("tea")); got != "1 2 " {
		t.Error(got)
	}
	// What a killed rewrite has left is of no interest.
	s.Close()
	if err := os.WriteFile(path+".new", []byte("half a li"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := texts(open(t, path).history("tea")); got != "1 2 " {
		t.Error(got)
	}
}

// FuzzStore reads anything, and then reads what it has written as the same.
func FuzzStore(f *testing.F) {
	f.Add([]byte(journalHeader))
	f.Add([]byte(journalHeader + `{"said":{"type":"said","room":"a","name":"b","text":"c","id":"d","at":1},"forget":"e"}` + "\n"))
	f.Add([]byte(journalHeader + `{"login":{"hash":"` + hash("x") + `","name":"b","until":"2126-01-01T00:00:00Z","sent":[{"id":"d","room":"a","at":1}]}}` + "\n{\"logout\":\"x\"}\n{"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(path)
		if err != nil {
			if got, _ := os.ReadFile(path); !bytes.Equal(got, content) {
				t.Fatal("the file was changed")
			}
			return
		}
		logins, rooms := s.logins, s.kept
		s = reopen(t, s, path)
		if !reflect.DeepEqual(s.kept, rooms) || !reflect.DeepEqual(s.logins, logins) {
			t.Errorf("%v %v, first %v %v", s.kept, s.logins, rooms, logins)
		}
		s.Close()
	})
}
