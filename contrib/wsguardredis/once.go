package wsguardredis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/store"
)

// errTaken is the cause of an outage if Put finds another value.
var errTaken = errors.New("the key has a value already")

// Put implements [store.Once] in one round trip. A key that has another value is an error.
func (s *Store) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := validatePut(key, ttl); err != nil {
		return err
	}
	_, err := call(ctx, s, "put", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.put(ctx, key, value, ttl)
	}, nil)
	return err
}

func validatePut(key string, ttl time.Duration) error {
	if key == "" || ttl < time.Millisecond {
		return fmt.Errorf("%w: a value needs a key and a life of at least a millisecond", store.ErrInvalid)
	}
	return nil
}

// put is SET NX. The client repeats a command whose answer it did not get. So a value that is
// there already is no error if it is the same.
func (s *Store) put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	ok, err := s.client.SetNX(ctx, s.key(kindOnce, key), value, ttl).Result()
	if err != nil || ok {
		return err
	}
	old, err := s.client.Get(ctx, s.key(kindOnce, key)).Bytes()
	if err == nil && !bytes.Equal(old, value) {
		err = errTaken
	}
	return err
}

// Take implements [store.Once] in one round trip. If the connection fails during a call, the
// value can be lost.
func (s *Store) Take(ctx context.Context, key string) (value []byte, ok bool, err error) {
	value, err = call(ctx, s, "take once", func(ctx context.Context) ([]byte, error) {
		value, err := s.client.GetDel(ctx, s.key(kindOnce, key)).Bytes()
		switch {
		case errors.Is(err, redis.Nil):
			return nil, nil
		case err == nil && value == nil:
			value = []byte{}
		}
		return value, err
	}, nil)
	return value, value != nil, err
}

// ownerScript counts a value of an owner. KEYS has the sorted set of the owner's keys by their
// ends. ARGV has the key of the value, its life, and how many there may be. The answer has 1,
// or 0 and keys of which some may have been taken.
var ownerScript = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl, most = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if most > 0 and redis.call('ZCARD', KEYS[1]) >= most and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
	local keys = redis.call('ZRANGE', KEYS[1], 0, 999)
	table.insert(keys, 1, '0')
	return keys
end
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return {'1'}
`)

// PutOwned implements [store.OwnedOnce] in two round trips. It needs four if the owner seems to
// have as many values as it may. An empty owner has no limit.
func (s *Store) PutOwned(ctx context.Context, key, owner string, max int, value []byte, ttl time.Duration) error {
	if owner == "" {
		return s.Put(ctx, key, value, ttl)
	}
	if err := validatePut(key, ttl); err != nil {
		return err
	}
	_, err := call(ctx, s, "put", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.putOwned(ctx, key, owner, max, value, ttl)
	}, nil)
	return err
}

// putOwned stores the value first and counts it afterwards. So a value that counts and is not
// there was taken.
func (s *Store) putOwned(ctx context.Context, key, owner string, max int, value []byte, ttl time.Duration) error {
	if err := s.put(ctx, key, value, ttl); err != nil {
		return err
	}
	for range 3 {
		keys, err := ownerScript.Run(ctx, s.client, []string{s.key(kindOwner, owner)}, key, ttl.Milliseconds(), max).StringSlice()
		if err != nil || len(keys) > 0 && keys[0] == "1" {
			return err
		}
		dropped, err := s.dropTaken(ctx, owner, keys[1:])
		if err != nil {
			return err
		}
		if dropped == 0 {
			break
		}
	}
	if err := s.client.Del(ctx, s.key(kindOnce, key)).Err(); err != nil {
		return err
	}
	return store.ErrOwnerFull
}

// dropTaken counts the keys that have no value any more no longer, and returns how many they
// are.
func (s *Store) dropTaken(ctx context.Context, owner string, keys []string) (int, error) {
	cmds, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			p.Exists(ctx, s.key(kindOnce, key))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var taken []any
	for i, cmd := range cmds {
		if cmd.(*redis.IntCmd).Val() == 0 {
			taken = append(taken, keys[i])
		}
	}
	if len(taken) == 0 {
		return 0, nil
	}
	return len(taken), s.client.ZRem(ctx, s.key(kindOwner, owner), taken...).Err()
}
