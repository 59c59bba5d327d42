package wsguardredis

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/store"
)

// admitScript does what store.Admitter says. KEYS has the buckets, the scopes, and the value, if
// there is one. ARGV has
//
//	the number of buckets, the number of scopes, 1 for a value
//	of each bucket: per second, burst, least, most
//	the ID, the life of its lease, the life of a key, and the instance
//	of each scope: the limit, 1 for a wide one, sequence number, slots held, 1 for a fresh ID
//
// The answer has the step that has refused or 0, the number of the bucket or scope in that step,
// the time to wait in microseconds, the value or nil, and the tokens of each bucket. If no step
// has refused, the second item is how many slots were taken that the ID did not have.
//
// A bucket is the number of tokens that are owed, and the time in microseconds at which they
// were. A scope is a sorted set of IDs by the end of their leases in milliseconds.
//
// A wide scope is a hash. Each instance has a sequence number, a number of slots, and the end of
// their lease. An acquire adds 1 to the number. A renewal and a release write the whole number,
// with the slots that are still asked for, and its sequence number. So an acquire whose sequence
// number is smaller is counted already, and subtracts 1 if its slot is refused. If Redis does not
// know the instance, it gets the number of slots that the instance holds. The number is never too
// small. It may be too large when an acquire has failed or was repeated, until the next renewal
// or release.
var admitScript = redis.NewScript(`
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local at = 0
local function text() at = at + 1; return ARGV[at] end
local function num() return tonumber(text()) end
local takes, scopes, once = num(), num(), num()

local tokens, spent = {}, {}
for i = 1, takes do
	local rate, burst, least, most = num(), num(), num(), num()
	local owed, since = 0, us
	local old = redis.call('GET', KEYS[i])
	if old then
		local o, t = string.match(old, '^(%S+) (%S+)$')
		owed, since = tonumber(o), tonumber(t)
		owed = math.max(0, owed - math.max(0, us - since) * rate / 1000000)
	end
	local free = burst - owed
	if least - free > 0.000001 then
		local wait = math.ceil((least - free) / rate * 1000000)
		return {1, i, math.min(math.max(wait, 1), 1000000000000000), false}
	end
	local n = math.max(0, math.min(most, math.floor(free + 0.000001)))
	tokens[i] = n
	if n > 0 then spent[#spent + 1] = {KEYS[i], owed + n, rate} end
end
for _, s in ipairs(spent) do
	local life = math.min(math.ceil(s[2] / s[3] * 1000) + 1, 100000000000000)
	redis.call('SET', s[1], string.format('%.17g %.0f', s[2], us), 'PX', string.format('%.0f', life))
end

local id, ttl, life, instance = text(), num(), text(), text()
local rows, wides, adds, taken = {}, {}, {}, 0
local function write(list)
	for _, r in ipairs(list) do
		redis.call('HSET', r[1], instance, string.format('%.0f %.0f %.0f', r[2], r[3], now + ttl))
		redis.call('PEXPIRE', r[1], life)
	end
end
local function answer(step, i, value)
	local a = {step, i, 0, value}
	for j = 1, takes do a[4 + j] = tokens[j] end
	return a
end
local function refuse(step, i)
	write(rows)
	return answer(step, i, false)
end

for i = 1, scopes do
	local key = KEYS[takes + i]
	local limit, wide, seq, n, fresh = num(), num(), num(), num(), num()
	if wide == 1 then
		local others, since, counted = 0, 0, n + fresh
		local row = redis.call('HGETALL', key)
		for j = 1, #row, 2 do
			local s, c, e = string.match(row[j + 1], '^(%d+) (%d+) (%d+)$')
			if tonumber(e) <= now then
				redis.call('HDEL', key, row[j])
			elseif row[j] ~= instance then
				others = others + c
			else
				since, counted = tonumber(s), tonumber(c)
				if seq < since then
					rows[#rows + 1] = {key, since, counted - fresh}
				else
					counted = counted + fresh
				end
			end
		end
		if limit > 0 and fresh == 1 and others + counted > limit then return refuse(2, i) end
		wides[#wides + 1] = {key, since, counted}
		taken = taken + fresh
	else
		redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
		if not redis.call('ZSCORE', key, id) then
			if limit > 0 and redis.call('ZCARD', key) >= limit then return refuse(2, i) end
			taken = taken + 1
		end
		adds[#adds + 1] = key
	end
end

local value = false
if once == 1 then
	value = redis.call('GETDEL', KEYS[takes + scopes + 1])
	if not value then return refuse(3, 0) end
end
write(wides)
for _, key in ipairs(adds) do
	redis.call('ZADD', key, now + ttl, id)
	redis.call('PEXPIRE', key, life)
end
return answer(0, taken, value)
`)

// Admit implements [store.Admitter] in one round trip. In a Redis Cluster without
// Options.HashTag it needs one for each of the takes, one for the scopes, and one for the value.
func (s *Store) Admit(ctx context.Context, r store.Request) (store.Answer, error) {
	if s.spread {
		return store.Combine(s, s, s).Admit(ctx, r)
	}
	return s.admit(ctx, "admit", r)
}

// admit runs the script. Its keys must be in one hash slot.
func (s *Store) admit(ctx context.Context, op string, r store.Request) (store.Answer, error) {
	if err := r.Validate(); err != nil {
		return store.Answer{}, err
	}
	if len(r.Takes)+len(r.Scopes) == 0 && r.Once == "" {
		return store.Answer{}, nil
	}
	lease := store.Lease{ID: r.ID, Scopes: r.Scopes}
	return call(ctx, s, op, func(ctx context.Context) (store.Answer, error) {
		keys, args, counted := s.script(r)
		reply, err := admitScript.Run(ctx, s.client, keys, args...).Slice()
		if err != nil {
			return store.Answer{}, err
		}
		a, _, err := answer(r, reply)
		switch {
		case err != nil:
		case a.Refused != store.Admitted:
			s.refused(ctx, r.ID, counted, nil)
		default:
			s.confirm(lease)
		}
		return a, err
	}, func() { s.releaseLost(lease) })
}

// counted is a wide scope in which an ID was not counted before.
type counted struct {
	key string // in Redis
	seq uint64 // the sequence number since which it is counted
}

// script returns the keys and the arguments of admitScript. It counts the ID in the wide
// scopes, and returns those in which the ID was not counted before.
func (s *Store) script(r store.Request) (keys []string, args []any, fresh []counted) {
	once := 0
	if r.Once != "" {
		once = 1
	}
	args = append(args, len(r.Takes), len(r.Scopes), once)
	for _, t := range r.Takes {
		keys = append(keys, s.key(kindRate, t.Key))
		args = append(args, strconv.FormatFloat(t.Limit.PerSecond, 'f', -1, 64), t.Limit.Burst, t.Least, min(t.Most, t.Limit.Burst))
	}
	args = append(args, r.ID, r.TTL.Milliseconds(), keyTTL, s.instance)
	for _, scope := range r.Scopes {
		key := s.scopeKey(scope)
		keys = append(keys, key)
		var wide, adds int
		var t tally
		if scope.Wide {
			wide, t = 1, s.tallies.add(key, r.ID)
			if t.fresh {
				adds, fresh = 1, append(fresh, counted{key, t.seq})
			}
		}
		args = append(args, scope.Max, wide, t.seq, t.held, adds)
	}
	if once == 1 {
		keys = append(keys, s.key(kindOnce, r.Once))
	}
	return keys, args, fresh
}

// answer reads the answer of admitScript. taken is how many slots were taken that the ID did not
// have already.
func answer(r store.Request, reply []any) (a store.Answer, taken int, err error) {
	var n []int64
	for i, v := range reply {
		if i == 3 { // the value
			continue
		}
		x, ok := v.(int64)
		if !ok {
			return a, 0, errAnswer
		}
		n = append(n, x)
	}
	if len(n) < 3 || len(reply) < 4 || n[0] < 0 || n[0] > int64(store.RefusedOnce) {
		return a, 0, errAnswer
	}
	a.Refused = store.Refusal(n[0])
	switch i := n[1] - 1; {
	case a.Refused == store.RefusedRate && i >= 0 && i < int64(len(r.Takes)):
		a.Key = r.Takes[i].Key
		a.Wait = time.Duration(n[2]) * time.Microsecond
		return a, 0, nil
	case a.Refused == store.RefusedSlot && i >= 0 && i < int64(len(r.Scopes)):
		a.Key = r.Scopes[i].Key
	case a.Refused == store.RefusedRate, a.Refused == store.RefusedSlot:
		return a, 0, errAnswer
	}
	if len(n[3:]) != len(r.Takes) {
		return a, 0, errAnswer
	}
	if len(r.Takes) > 0 {
		a.Taken = n[3:]
	}
	if value, ok := reply[3].(string); ok {
		a.Value = []byte(value)
	}
	if a.Refused == store.Admitted {
		taken = int(n[1])
	}
	return a, taken, nil
}

var errAnswer = errors.New("redis returned something else than the script does")

// TakeTokens implements [store.Rates] in one round trip.
func (s *Store) TakeTokens(ctx context.Context, t store.Take) (int64, time.Duration, error) {
	a, err := s.admit(ctx, "take", store.Request{Takes: []store.Take{t}})
	if err != nil || a.Refused != store.Admitted {
		return 0, a.Wait, err
	}
	return a.Taken[0], 0, nil
}
