package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

// File is a [Store] in a file, for a chat with one instance. With a journal, the logins and the last
// messages survive a restart. A change is first written to the journal, and counts only then. So
// whatever a client was told of is in the file.
type File struct {
	// mu may be held while the lock of the rooms is taken. While that is held, mu must not be taken.
	mu      sync.Mutex
	journal *journal             // guarded by mu, as the rest is; nil keeps nothing over a restart
	stale   bool                 // the file has a login that was ended, because the logout could not be written
	logins  map[string]*session  // by the hash of the cookie
	names   map[string]*session  // the same, by the name in lower case
	kept    map[string][]Message // the last messages of each room, MaxRooms of them
	rooms   Rooms                // nil before Follow
}

// session is a login.
type session struct {
	Hash  string    `json:"hash"` // of the cookie: nobody can log in with what is in the file
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	Sent  []sent    `json:"sent,omitempty"` // the last messages that had an ID

	// operator is not in the file. Each start of the program has an operator key of its own, so
	// after a restart an operator logs in again with the new key.
	operator bool
}

// sent is a message that a login has given an ID.
type sent struct {
	ID   string `json:"id"`
	Room string `json:"room"`
	At   int64  `json:"at"`
}

// record is a change, and a line of the journal.
type record struct {
	Login  *session     `json:"login,omitempty"`
	Logout string       `json:"logout,omitempty"` // the hash
	Forget string       `json:"forget,omitempty"` // the room whose messages make place for those of another
	Said   *saidMessage `json:"said,omitempty"`
}

// saidMessage is a message as the page gets it.
type saidMessage struct {
	Type string `json:"type"`
	Message
}

var errRecord = errors.New("is no record of this chat, and the file was left as it is")

// OpenFile reads the file at path, or creates it. With the path "" nothing is kept over a restart.
func OpenFile(path string) (*File, error) {
	s := &File{logins: map[string]*session{}, names: map[string]*session{}, kept: map[string][]Message{}}
	if path == "" {
		return s, nil
	}
	j, err := openJournal(path, s.read)
	if err != nil {
		return nil, err
	}
	s.expire()
	if err := j.rewrite(s.lines()); err != nil {
		j.unlock()
		return nil, err
	}
	s.journal = j
	return s, nil
}

// Close closes the file. The File must not be used after it.
func (s *File) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == nil {
		return nil
	}
	return s.journal.close()
}

// Find implements [Store]. It has no error.
func (s *File) Find(_ context.Context, token string) (Session, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logins[hash(token)]
	if l == nil || !time.Now().Before(l.Until) {
		return Session{}, false, nil
	}
	return Session{l.Hash, l.Name, l.Since, l.Until, l.operator}, true, nil
}

// Login implements [Store].
func (s *File) Login(_ context.Context, name string, operator bool) (token, got string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if len(s.logins) >= MaxSessions {
		return "", "", ErrTooMany
	}
	got = name
	for n := 2; s.names[strings.ToLower(got)] != nil; n++ {
		got = fmt.Sprintf("%s-%d", name, n)
	}
	token = rand.Text()
	now := time.Now()
	l := &session{Hash: hash(token), Name: got, Since: now, Until: now.Add(SessionFor), operator: operator}
	return token, got, s.change(record{Login: l})
}

// Logout implements [Store]. The session has ended also if the error says that this is not in the
// file. The next change that can be written then removes it from there.
func (s *File) Logout(_ context.Context, l Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := record{Logout: l.Hash}
	s.apply(r)
	err := s.write(r)
	s.stale = s.stale || err != nil
	return err
}

// Follow implements [Store]. It has no error.
func (s *File) Follow(_ context.Context, rooms Rooms) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for room, messages := range s.kept {
		rooms.Reset(room, messages)
	}
	s.rooms = rooms
	return nil
}

// Here implements [Store]. There are no other instances.
func (s *File) Here(map[string][]string) {}

// Say implements [Store].
func (s *File) Say(_ context.Context, m Message, member bool) (*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.first(m); ok {
		return &first, nil
	}
	if !member {
		return nil, ErrNotMember
	}
	r := record{Said: &saidMessage{"said", m}}
	if s.kept[m.Room] == nil && len(s.kept) >= MaxRooms {
		r.Forget = s.silent()
	}
	if err := s.change(r); err != nil {
		return nil, err
	}
	if s.rooms != nil {
		if r.Forget != "" {
			s.rooms.Reset(r.Forget, nil)
		}
		s.rooms.Said(m)
	}
	return nil, nil
}

// first returns m as it was first said, if the same login has said a message with its ID before. It
// is called with mu held, as all functions below are, or before s is shared.
func (s *File) first(m Message) (Message, bool) {
	l := s.names[strings.ToLower(m.Name)]
	if l == nil || m.ID == "" {
		return Message{}, false
	}
	i := slices.IndexFunc(l.Sent, func(e sent) bool { return e.ID == m.ID })
	if i < 0 {
		return Message{}, false
	}
	m.Room, m.At = l.Sent[i].Room, l.Sent[i].At
	for _, h := range s.kept[m.Room] {
		if h.Name == m.Name && h.ID == m.ID && h.At == m.At {
			return h, true
		}
	}
	return m, true // with the text of now: the room has forgotten the first one
}

// silent returns the room that nobody is in and that has been silent for longest.
func (s *File) silent() (found string) {
	var inUse map[string][]string
	if s.rooms != nil {
		inUse = s.rooms.People()
	}
	var since int64
	for name, messages := range s.kept {
		_, used := inUse[name]
		if at := messages[len(messages)-1].At; !used && (found == "" || at < since) {
			found, since = name, at
		}
	}
	return found
}

func (s *File) change(r record) error {
	if err := s.write(r); err != nil {
		return err
	}
	return s.apply(r)
}

func (s *File) write(r record) error {
	if s.journal == nil {
		return nil
	}
	line := r.line()
	if s.stale || s.journal.full(len(line)) {
		if err := s.journal.rewrite(s.lines()); err != nil {
			return err
		}
		s.stale = false
	}
	return s.journal.append(line)
}

// read applies a line of the file. It is strict, because a line that is lost would be lost in
// silence at the next rewrite.
func (s *File) read(line []byte) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var r record
	if err := d.Decode(&r); err != nil {
		return errRecord
	}
	if _, err := d.Token(); err != io.EOF {
		return errRecord
	}
	return s.apply(r)
}

// apply fails only for records that this program has not written.
func (s *File) apply(r record) error {
	switch l, m := r.Login, r.Said; {
	case l != nil && len(l.Hash) == len(hash("")) && l.Name != "":
		s.drop(s.names[strings.ToLower(l.Name)]) // has expired
		s.logins[l.Hash], s.names[strings.ToLower(l.Name)] = l, l
	case r.Logout != "":
		s.drop(s.logins[r.Logout])
	case m != nil && m.Type == "said" && m.Room != "" && m.Name != "":
		delete(s.kept, r.Forget)
		s.kept[m.Room] = last(MaxHistory, append(s.kept[m.Room], m.Message))
		if l := s.names[strings.ToLower(m.Name)]; l != nil && m.ID != "" {
			l.Sent = last(MaxIDs, append(l.Sent, sent{m.ID, m.Room, m.At}))
		}
	default:
		return errRecord
	}
	return nil
}

func (s *File) expire() {
	now := time.Now()
	for _, l := range s.logins {
		if !now.Before(l.Until) {
			s.drop(l)
		}
	}
}

func (s *File) drop(l *session) {
	if l != nil {
		delete(s.logins, l.Hash)
		delete(s.names, strings.ToLower(l.Name))
	}
}

// lines are those of a new file. The logins come last: otherwise their IDs would be added again
// with each message.
func (s *File) lines() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, messages := range s.kept {
			for _, m := range messages {
				if !yield(record{Said: &saidMessage{"said", m}}.line()) {
					return
				}
			}
		}
		for _, l := range s.logins {
			if !yield(record{Login: l}.line()) {
				return
			}
		}
	}
}

func (r record) line() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and times: cannot be
	}
	return append(b, '\n')
}

// last returns the last n items of s.
func last[S ~[]E, E any](n int, s S) S { return s[max(0, len(s)-n):] }

func hash(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}
