package main

import (
	"bytes"
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

// store has the logins and the last messages of each room. With a journal, both survive a restart.
// A change is first written to the journal, and counts only then. So whatever a client was told of
// is in the file.
type store struct {
	mu      sync.Mutex
	journal *journal              // guarded by mu, as the rest is; nil keeps nothing over a restart
	stale   bool                  // the file has a login that was ended, because the logout could not be written
	logins  map[string]*session   // by the hash of the cookie
	names   map[string]*session   // the same, by the name in lower case
	rooms   map[string][]outgoing // the last messages of each room, maxRooms of them
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
	Login  *session  `json:"login,omitempty"`
	Logout string    `json:"logout,omitempty"` // the hash
	Forget string    `json:"forget,omitempty"` // the room whose messages make place for those of another
	Said   *outgoing `json:"said,omitempty"`
}

var (
	errTooMany = errors.New("too many logins")
	errRecord  = errors.New("is no record of this chat, and the file was left as it is")
)

// openStore reads the file at path, or creates it. With the path "" nothing is kept over a restart.
func openStore(path string) (*store, error) {
	s := &store{logins: map[string]*session{}, names: map[string]*session{}, rooms: map[string][]outgoing{}}
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

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == nil {
		return nil
	}
	return s.journal.close()
}

// find returns the login of a cookie.
func (s *store) find(token string) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logins[hash(token)]
	if l == nil || !time.Now().Before(l.Until) {
		return session{}, false
	}
	return *l, true
}

// login opens a session under the name, or one like it if that is taken. The token is for the
// cookie. The error is errTooMany, or that of a failed write.
func (s *store) login(name string, operator bool) (token, got string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if len(s.logins) >= maxSessions {
		return "", "", errTooMany
	}
	got = name
	for n := 2; s.names[strings.ToLower(got)] != nil; n++ {
		got = fmt.Sprintf("%s-%d", name, n)
	}
	token = rand.Text()
	now := time.Now()
	l := &session{Hash: hash(token), Name: got, Since: now, Until: now.Add(sessionFor), operator: operator}
	return token, got, s.change(record{Login: l})
}

// logout ends a session, also if the error says that this is not in the file. The next change that
// can be written then removes it from there.
func (s *store) logout(hash string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := record{Logout: hash}
	s.apply(r)
	err := s.write(r)
	s.stale = s.stale || err != nil
	return err
}

// first returns m as it was first said, if the same login has said a message with its ID before.
func (s *store) first(m outgoing) (outgoing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.names[strings.ToLower(m.Name)]
	if l == nil || m.ID == "" {
		return outgoing{}, false
	}
	i := slices.IndexFunc(l.Sent, func(e sent) bool { return e.ID == m.ID })
	if i < 0 {
		return outgoing{}, false
	}
	m.Room, m.At = l.Sent[i].Room, l.Sent[i].At
	for _, h := range s.rooms[m.Room] {
		if h.Name == m.Name && h.ID == m.ID && h.At == m.At {
			return h, true
		}
	}
	return m, true // with the text of now: the room has forgotten the first one
}

// full reports whether a message in this room makes the store forget another room.
func (s *store) full(room string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[room] == nil && len(s.rooms) >= maxRooms
}

// add keeps a message. If the store is full, it forgets the room that has been silent for longest, and
// none that is in use.
func (s *store) add(m outgoing, inUse map[string][]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := record{Said: &m}
	if s.rooms[m.Room] == nil && len(s.rooms) >= maxRooms {
		r.Forget = s.silent(inUse)
	}
	return s.change(r)
}

// silent is called with mu held.
func (s *store) silent(inUse map[string][]string) (found string) {
	var since int64
	for name, messages := range s.rooms {
		_, used := inUse[name]
		if at := messages[len(messages)-1].At; !used && (found == "" || at < since) {
			found, since = name, at
		}
	}
	return found
}

// history returns the last messages of a room. The caller must not change them.
func (s *store) history(room string) []outgoing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[room]
}

// change is called with mu held.
func (s *store) change(r record) error {
	if err := s.write(r); err != nil {
		return err
	}
	return s.apply(r)
}

// write is called with mu held.
func (s *store) write(r record) error {
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
func (s *store) read(line []byte) error {
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

// apply is called with mu held, or before s is shared. It fails only for records that this program
// has not written.
func (s *store) apply(r record) error {
	switch l, m := r.Login, r.Said; {
	case l != nil && len(l.Hash) == len(hash("")) && l.Name != "":
		s.drop(s.names[strings.ToLower(l.Name)]) // has expired
		s.logins[l.Hash], s.names[strings.ToLower(l.Name)] = l, l
	case r.Logout != "":
		s.drop(s.logins[r.Logout])
	case m != nil && m.Type == "said" && m.Room != "" && m.Name != "":
		delete(s.rooms, r.Forget)
		s.rooms[m.Room] = last(maxHistory, append(s.rooms[m.Room], *m))
		if l := s.names[strings.ToLower(m.Name)]; l != nil && m.ID != "" {
			l.Sent = last(maxIDs, append(l.Sent, sent{m.ID, m.Room, m.At}))
		}
	default:
		return errRecord
	}
	return nil
}

// expire is called with mu held, or before s is shared.
func (s *store) expire() {
	now := time.Now()
	for _, l := range s.logins {
		if !now.Before(l.Until) {
			s.drop(l)
		}
	}
}

func (s *store) drop(l *session) {
	if l != nil {
		delete(s.logins, l.Hash)
		delete(s.names, strings.ToLower(l.Name))
	}
}

// lines are those of a new file. The logins come last: otherwise their IDs would be added again
// with each message. The caller holds mu, or has not shared s yet.
func (s *store) lines() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, messages := range s.rooms {
			for _, m := range messages {
				if !yield(record{Said: &m}.line()) {
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
