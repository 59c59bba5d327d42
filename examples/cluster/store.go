package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/examples/chat/server"
)

const (
	storeTimeout = 3 * time.Second // how long a call tries to reach Redis
	retryEvery   = 50 * time.Millisecond
	keptMessages = 4 * server.MaxHistory // of a room, for an instance that has lost its connection
	keptNews     = 1000                  // of which rooms there are
)

// store is a server.Store on Redis.
//
// A login is a hash under the hash of its cookie, and another key has its name. Both end with the
// login. The messages of a room are a capped stream. Another stream, the index, says which rooms
// begin and which are forgotten. Each entry of these streams names the one before it, so that a
// reader sees when it has missed any. A third stream has who is in the rooms of each instance.
type store struct {
	// Read-only.
	client *redis.Client
	prefix string        // begins each key
	id     string        // of this instance
	every  time.Duration // how often it announces who is here
	log    *slog.Logger
	rooms  server.Rooms // read-only after Follow

	running sync.WaitGroup // the goroutines that Follow starts
	changed chan struct{}  // has an item while here must be announced
	mu      sync.Mutex     // no other lock is taken while it is held
	here    string         // guarded by mu; who is in the rooms of this instance, in JSON
}

func newStore(client *redis.Client, prefix string, log *slog.Logger) *store {
	return &store{
		client: client, prefix: prefix + ":", id: rand.Text(), every: announceEvery, log: log,
		changed: make(chan struct{}, 1), here: "{}",
	}
}

func (s *store) key(kind, name string) string { return s.prefix + kind + ":" + name }

func (s *store) nameKey(name string) string { return s.key("name", strings.ToLower(name)) }

// sentKeys are the keys of the IDs that a login has given its messages: a hash with the messages
// by their IDs, and a list with the IDs in their order.
func (s *store) sentKeys(name string) (messages, order string) {
	name = strings.ToLower(name)
	return s.key("sent", name), s.key("order", name)
}

func hash(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// loginScript returns 1, or 0 if the name is taken, or -1 if there are too many logins. It may run
// again after an error.
var loginScript = redis.NewScript(`
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local hash, name, operator, ttl, most = unpack(ARGV)
local holder = redis.call('GET', KEYS[2])
if holder == hash then return 1 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(most) then return -1 end
if holder then return 0 end
redis.call('ZADD', KEYS[1], now + ttl, hash)
redis.call('SET', KEYS[2], hash, 'PX', ttl)
redis.call('HSET', KEYS[3], 'name', name, 'operator', operator,
	'since', string.format('%.0f', us), 'until', string.format('%.0f', us + ttl * 1000))
redis.call('PEXPIRE', KEYS[3], ttl)
redis.call('DEL', KEYS[4], KEYS[5])
return 1
`)

// Login implements server.Store.
func (s *store) Login(ctx context.Context, name string, operator bool) (token, got string, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	token = rand.Text()
	got = name
	for n := 2; ; n++ {
		messages, order := s.sentKeys(got)
		keys := []string{s.prefix + "logins", s.nameKey(got), s.key("login", hash(token)), messages, order}
		answer, err := loginScript.Run(ctx, s.client, keys,
			hash(token), got, operator, server.SessionFor.Milliseconds(), server.MaxSessions).Int()
		switch {
		case err != nil:
			return "", "", err
		case answer < 0:
			return "", "", server.ErrTooMany
		case answer > 0:
			return token, got, nil
		}
		got = fmt.Sprintf("%s-%d", name, n)
	}
}

// Find implements server.Store.
func (s *store) Find(ctx context.Context, token string) (server.Session, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	l, err := s.client.HGetAll(ctx, s.key("login", hash(token))).Result()
	if err != nil || len(l) == 0 {
		return server.Session{}, false, err
	}
	since, err := strconv.ParseInt(l["since"], 10, 64)
	end, err2 := strconv.ParseInt(l["until"], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return server.Session{}, false, err
	}
	return server.Session{
		Hash: hash(token), Name: l["name"], Operator: l["operator"] == "1",
		Since: time.UnixMicro(since), Until: time.UnixMicro(end),
	}, true, nil
}

var logoutScript = redis.NewScript(`
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2], KEYS[4], KEYS[5]) end
return 0
`)

// Logout implements server.Store.
func (s *store) Logout(ctx context.Context, l server.Session) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	messages, order := s.sentKeys(l.Name)
	return logoutScript.Run(ctx, s.client,
		[]string{s.prefix + "logins", s.nameKey(l.Name), s.key("login", l.Hash), messages, order}, l.Hash).Err()
}

// sayScript returns the word "said", or "outside", or the message that was said first. It may run
// again after an error, with the same attempt, and then does nothing twice.
var sayScript = redis.NewScript(`
local name, sent, order, stream, rooms, index = unpack(KEYS)
local id, attempt, member, message, room, inUse, prefix = unpack(ARGV)
local cap, mostNews, mostRooms, mostIDs, life = unpack(ARGV, 8)

local first = redis.call('HGET', sent, id)
if first then
	if string.match(first, '^%S+') == attempt then return 'said' end
	return string.match(first, '^%S+ (.*)$')
end
if member == '0' then return 'outside' end

local function add(stream, most, ...)
	local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
	redis.call('XADD', stream, 'MAXLEN', most, '*', 'before', last and last[1] or '0-0', ...)
end
if redis.call('EXISTS', stream) == 0 then
	if redis.call('ZCARD', rooms) >= tonumber(mostRooms) then
		local used = cjson.decode(inUse)
		for _, r in ipairs(redis.call('ZRANGE', rooms, 0, -1)) do
			if not used[r] then
				redis.call('DEL', prefix .. r)
				redis.call('ZREM', rooms, r)
				add(index, mostNews, 'forget', r)
				break
			end
		end
	end
	add(index, mostNews, 'begin', room)
end
local time = redis.call('TIME')
redis.call('ZADD', rooms, time[1] * 1000 + math.floor(time[2] / 1000), room)
add(stream, cap, 'message', message)

redis.call('HSET', sent, id, attempt .. ' ' .. message)
if redis.call('RPUSH', order, id) > tonumber(mostIDs) then
	redis.call('HDEL', sent, redis.call('LPOP', order))
end
local left = redis.call('PTTL', name)
if left <= 0 then left = life end
redis.call('PEXPIRE', sent, left)
redis.call('PEXPIRE', order, left)
return 'said'
`)

// Say implements server.Store. If the connection breaks, nobody knows whether Redis has the
// message. So Say tries again with the same attempt.
func (s *store) Say(ctx context.Context, m server.Message, member bool) (*server.Message, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	message, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	inUse := map[string]bool{}
	for room := range maps.Keys(s.rooms.People()) {
		inUse[room] = true
	}
	used, err := json.Marshal(inUse)
	if err != nil {
		return nil, err
	}
	attempt := rand.Text()
	messages, order := s.sentKeys(m.Name)
	keys := []string{s.nameKey(m.Name), messages, order, s.key("room", m.Room), s.prefix + "rooms", s.prefix + "index"}
	args := []any{
		cmp.Or(m.ID, "."+attempt), attempt, member, message, m.Room, used, s.key("room", ""),
		keptMessages, keptNews, server.MaxRooms, server.MaxIDs, server.SessionFor.Milliseconds(),
	}
	var answer string
	for {
		if answer, err = sayScript.Run(ctx, s.client, keys, args...).Text(); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(retryEvery):
		}
	}
	switch answer {
	case "said":
		return nil, nil
	case "outside":
		return nil, server.ErrNotMember
	}
	var first server.Message
	err = json.Unmarshal([]byte(answer), &first)
	return &first, err
}
