package server

import (
	"context"
	"errors"
	"time"
)

// Store keeps the logins and the messages of a chat. [File] is one for a chat with one instance. A
// chat with several instances needs a Store that they share. It also tells each instance what is
// said on the others, and who is there. Many goroutines call the methods at the same time.
//
// An error that is not one of this package says that the store cannot do it now.
type Store interface {
	// Login opens a session of [SessionFor] under the name, or under one like it if that is
	// taken. Names that differ only in case are the same. The token is for the cookie. The error
	// is ErrTooMany if there are [MaxSessions].
	Login(ctx context.Context, name string, operator bool) (token, got string, err error)

	// Find returns the session of a token. ok is false if there is none.
	Find(ctx context.Context, token string) (s Session, ok bool, err error)

	// Logout ends a session. After an error, the session may have ended or not.
	Logout(ctx context.Context, s Session) error

	// Follow loads what is kept into rooms. Then it returns, and until ctx ends it tells rooms
	// what changes. It is called once, before the methods below.
	Follow(ctx context.Context, rooms Rooms) error

	// Say keeps m, and tells the Rooms of each instance when m is kept. It may return before it has
	// told them. If the session of m.Name has said a message with m.ID before, Say changes nothing and
	// returns that message. If it has not and member is false, the error is ErrNotMember. An
	// empty ID is never the same. If the store is full, it forgets the room that has been silent
	// for longest, and none that somebody is in. After another error m may be kept or not, and
	// the author may call Say again with the same ID.
	Say(ctx context.Context, m Message, member bool) (first *Message, err error)

	// Here tells the other instances who is in the rooms on this one. The chat calls it after each
	// change. Here must not block, and must not change the map.
	Here(people map[string][]string)
}

// Rooms is what a [Store] tells an instance. The methods may be called from the beginning of Follow
// to the end of its context, but not by Here.
type Rooms interface {
	// Said tells the members of m.Room on this instance a message, and keeps it for those who
	// come later. A Store calls it once for each message, in one order for each room.
	Said(m Message)

	// Reset replaces what is known of the past of a room. The Store calls it when it has loaded
	// a room, has missed messages of a room, or forgets a room. No message is forgetting it.
	// Members of the room on this instance get its new past.
	Reset(room string, history []Message)

	// Elsewhere says who is in the rooms on all other instances. It replaces what the last call
	// has said.
	Elsewhere(people map[string][]string)

	// People returns who is in the rooms, on this instance and elsewhere.
	People() map[string][]string
}

// What a [Store] must bound.
const (
	SessionFor  = 8 * time.Hour
	MaxSessions = 1000
	MaxRooms    = 20
	MaxHistory  = 50 // the messages of one room, which stay when the last member has left
	MaxIDs      = 50 // the messages of one session that it can send again
)

// The errors of a [Store].
var (
	ErrTooMany   = errors.New("too many logins")
	ErrNotMember = errors.New("not a member of the room")
)

// Session is a login.
type Session struct {
	Hash     string // of the cookie
	Name     string
	Since    time.Time
	Until    time.Time
	Operator bool
}

// Message is what somebody has said in a room.
type Message struct {
	Room string `json:"room"`
	Name string `json:"name"` // of the author
	Text string `json:"text"`
	ID   string `json:"id,omitempty"` // what the author has given it
	At   int64  `json:"at"`           // Unix milliseconds
}
