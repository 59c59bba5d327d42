package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/store"
)

func onceTakenOnce(s *suite) {
	s.need(s.a.Once != nil, "Once")
	for i, value := range [][]byte{{}, []byte("alice"), {0, 0xff, '\r', '\n', '{', '}'}, bytes.Repeat([]byte("x"), 8192)} {
		key := fmt.Sprint("key", i)
		s.ok(s.a.Once.Put(s.ctx, key, value, long))
		var got atomic.Int32
		s.race(16, func(in Instance, _ int) {
			v, ok, err := in.Once.Take(s.ctx, key)
			if err != nil {
				s.Error(err)
			}
			if ok {
				got.Add(1)
				if !bytes.Equal(v, value) {
					s.Errorf("took %q, want %q", v, value)
				}
			}
		})
		if n := got.Load(); n != 1 {
			s.Errorf("value %d was taken %d times", i, n)
		}
	}
	if _, ok, err := s.a.Once.Take(s.ctx, "unknown"); ok || err != nil {
		s.Error("an unknown key:", ok, err)
	}
	// A value that was taken can be put back.
	s.ok(s.a.Once.Put(s.ctx, "key0", []byte("again"), long))
	if v, ok, err := s.a.Once.Take(s.ctx, "key0"); !ok || err != nil || string(v) != "again" {
		s.Errorf("%q %v %v", v, ok, err)
	}
}

func onceExpires(s *suite) {
	s.need(s.a.Once != nil, "Once")
	s.ok(s.a.Once.Put(s.ctx, "short", []byte("x"), short))
	s.ok(s.a.Once.Put(s.ctx, "long", []byte("x"), long))
	s.h.Advance(short + 10*time.Millisecond)
	if _, ok, err := s.a.Once.Take(s.ctx, "short"); ok || err != nil {
		s.Error("a value outlives its ttl:", ok, err)
	}
	if _, ok, err := s.a.Once.Take(s.ctx, "long"); !ok || err != nil {
		s.Error("a value is gone too early:", ok, err)
	}
}

func onceOwned(s *suite) {
	once, ok := s.a.Once.(store.OwnedOnce)
	s.need(ok, "OwnedOnce")
	put := func(key, owner string, ttl time.Duration) error {
		return once.PutOwned(s.ctx, key, owner, 3, []byte(key), ttl)
	}
	s.ok(put("a", "alice", long))
	s.ok(put("b", "alice", long))
	s.ok(put("c", "alice", long))
	full := func(key string) {
		s.Helper()
		if err := put(key, "alice", long); !errors.Is(err, store.ErrOwnerFull) {
			s.Errorf("%s: %v, want ErrOwnerFull", key, err)
		}
		if _, ok, _ := once.Take(s.ctx, key); ok {
			s.Errorf("%s was refused, and is there", key)
		}
	}
	full("d")
	s.ok(put("bob", "bob", long))
	if _, ok, err := once.Take(s.ctx, "b"); !ok || err != nil {
		s.Errorf("%v %v", ok, err)
	}
	s.ok(put("short", "alice", short)) // b was taken
	s.ok(once.PutOwned(s.ctx, "nolimit", "alice", 0, nil, short))
	s.h.Advance(short + 10*time.Millisecond)
	s.ok(put("e", "alice", long)) // short and nolimit have expired
	full("f")
	if v, ok, err := once.Take(s.ctx, "a"); !ok || err != nil || string(v) != "a" {
		s.Errorf("%q %v %v", v, ok, err)
	}
	s.ok(put("g", "alice", long)) // a was taken

	var stored atomic.Int32
	s.race(40, func(in Instance, i int) {
		err := in.Once.(store.OwnedOnce).PutOwned(s.ctx, fmt.Sprint("race", i), "carol", 8, nil, long)
		switch {
		case err == nil:
			stored.Add(1)
		case !errors.Is(err, store.ErrOwnerFull):
			s.Error(err)
		}
	})
	if n := stored.Load(); n > 8 || n == 0 {
		s.Errorf("carol has %d values, want at most 8", n)
	}
}
