package wsguard

import (
	"testing"
	"time"
)

// A session that a revocation has ended passes nothing on, and a session that is gone takes
// nothing.
func TestSucceed(t *testing.T) {
	alice := Principal{Subject: "alice"}
	id := identity{id: "alice"}
	s := newRegistry()
	old, newer := s.register(Principal{}), s.register(alice)
	s.revoke(id, 0, time.Now, time.Now)
	if registered, killed := s.succeed(old, newer); registered || !killed || len(s.who[id]) != 1 {
		t.Errorf("killed: %v %v %v", registered, killed, s.who)
	}
	s.unregister(newer)
	s.restore(id, 0)

	newer = s.register(alice)
	if registered, killed := s.succeed(old, newer); !registered || killed {
		t.Error(registered, killed)
	}
	s.unregister(newer)
	if _, listed := s.who[id][old]; !listed || len(s.who[id]) != 1 {
		t.Errorf("after succeed: %v", s.who)
	}
	s.unregister(old)
	newer = s.register(alice)
	if registered, killed := s.succeed(old, newer); registered || killed {
		t.Error("gone:", registered, killed)
	}
	s.unregister(newer)
	if len(s.who) != 0 {
		t.Errorf("left: %v", s.who)
	}
}
