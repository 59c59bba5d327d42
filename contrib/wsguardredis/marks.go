package wsguardredis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/store"
)

// marks is a store.Marks. All of its keys are in one hash slot.
//
// A hash has the marks, and a sorted set has those that end by their ends. A stream has the
// latest changes. Each of its entries names the one before it, so that a reader sees when there
// is a gap. Another hash has the ID of the last entry, and the epoch, which is a random text. A
// Redis that has lost its memory gets another epoch.
//
// A record of a mark is the time at which it was set in microseconds, its end in milliseconds,
// and the value. The end is 0 for never, and -1 if the mark was cleared.
type marks struct {
	// Read-only after newMarks.
	s       *Store
	keys    []string      // the hash, the sorted set, the stream, the other hash
	reading chan struct{} // has a value while a reader waits in Redis
}

func newMarks(s *Store, kind string) *marks {
	m := &marks{s: s, reading: make(chan struct{}, 1)}
	for _, key := range []string{"marks", "ends", "news", "state"} {
		m.keys = append(m.keys, "{"+s.opts.Prefix+":"+kind+"}:"+key)
	}
	return m
}

// changeLua is what the scripts that change marks have in common. ARGV has a random text, and
// how long the stream may be.
const changeLua = `
local time = redis.call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
local hash, ends, news, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
redis.call('HSETNX', state, 'epoch', ARGV[1])
local function lives(record)
	local e = record and tonumber(string.match(record, '^%d+ (%d+) ') or '')
	return e and (e == 0 or e > now) and e
end
local function tell(key, record)
	local before = redis.call('HGET', state, 'last') or '0-0'
	local id = redis.call('XADD', news, 'MAXLEN', ARGV[2], '*', 'before', before, 'key', key, 'record', record)
	redis.call('HSET', state, 'last', id)
end
`

// setScript has further the key, the life, the value, and how many marks there may be.
var setScript = redis.NewScript(changeLua + `
local key, ttl = ARGV[3], tonumber(ARGV[4])
local ended = redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)
for _, k in ipairs(ended) do
	redis.call('HDEL', hash, k)
	redis.call('ZREM', ends, k)
end
local old = lives(redis.call('HGET', hash, key))
if not old and redis.call('HLEN', hash) >= tonumber(ARGV[6]) then return {0, 0} end
local e = 0
if ttl > 0 then e = now + ttl end
if old and (old == 0 or e > 0 and old > e) then e = old end
local record = string.format('%.0f %.0f ', us, e) .. ARGV[5]
redis.call('HSET', hash, key, record)
if e == 0 then redis.call('ZREM', ends, key) else redis.call('ZADD', ends, e, key) end
tell(key, record)
return {us, e}
`)

// clearScript has further the key.
var clearScript = redis.NewScript(changeLua + `
local old = lives(redis.call('HGET', hash, ARGV[3]))
redis.call('HDEL', hash, ARGV[3])
redis.call('ZREM', ends, ARGV[3])
if old then tell(ARGV[3], string.format('%.0f -1 ', us)) end
return 0
`)

// getScript reads on the master, whatever the client does with commands that only read.
var getScript = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('HGET', KEYS[1], ARGV[1])
local e = record and tonumber(string.match(record, '^%d+ (%d+) ') or '')
if e and (e == 0 or e > now) then return record end
return false
`)

// pageScript returns some marks, and where to continue.
var pageScript = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 500)
local answer = {page[1]}
for i = 1, #page[2], 2 do
	local e = tonumber(string.match(page[2][i + 1], '^%d+ (%d+) ') or '')
	if e and (e == 0 or e > now) then
		answer[#answer + 1] = page[2][i]
		answer[#answer + 1] = page[2][i + 1]
	end
end
return answer
`)

// newsScript returns the epoch, the ID of the last entry, 1 if there is a gap, and the ID, key
// and record of each entry after a cursor. ARGV has a random text, the epoch and the ID of the
// cursor, and how many entries to return. An empty epoch is a cursor of now.
var newsScript = redis.NewScript(`
local news, state = KEYS[3], KEYS[4]
redis.call('HSETNX', state, 'epoch', ARGV[1])
local epoch = redis.call('HGET', state, 'epoch')
local last = redis.call('HGET', state, 'last') or '0-0'
if ARGV[2] == '' then return {epoch, last, 0} end
if ARGV[2] ~= epoch then return {epoch, last, 1} end
local entries = redis.call('XRANGE', news, '(' .. ARGV[3], '+', 'COUNT', ARGV[4])
if #entries == 0 then
	if last == ARGV[3] then return {epoch, last, 0} end
	return {epoch, last, 1}
end
local answer = {epoch, last, 0}
for i, entry in ipairs(entries) do
	local f = entry[2]
	if i == 1 and f[2] ~= ARGV[3] then return {epoch, last, 1} end
	answer[#answer + 1] = entry[1]
	answer[#answer + 1] = f[4]
	answer[#answer + 1] = f[6]
end
return answer
`)

// Set implements [store.Marks] in one round trip.
func (m *marks) Set(ctx context.Context, key string, value []byte, ttl time.Duration) (store.Mark, error) {
	if err := store.ValidateMark(key, ttl); err != nil {
		return store.Mark{}, err
	}
	times, err := call(ctx, m.s, "set", func(ctx context.Context) ([]int64, error) {
		times, err := setScript.Run(ctx, m.s.client, m.keys, rand.Text(), m.s.opts.News, key, ttl.Milliseconds(), value, m.s.opts.MaxMarks).Int64Slice()
		switch {
		case err == nil && len(times) != 2:
			err = errAnswer
		case err == nil && times[0] == 0:
			err = store.ErrFull
		}
		return times, err
	}, nil)
	if err != nil {
		return store.Mark{}, err
	}
	mark := store.Mark{Key: key, Value: append([]byte{}, value...), At: time.UnixMicro(times[0])}
	if times[1] > 0 {
		mark.Until = time.UnixMilli(times[1])
	}
	return mark, nil
}

// Clear implements [store.Marks] in one round trip.
func (m *marks) Clear(ctx context.Context, key string) error {
	_, err := call(ctx, m.s, "clear", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, clearScript.Run(ctx, m.s.client, m.keys, rand.Text(), m.s.opts.News, key).Err()
	}, nil)
	return err
}

// Get implements [store.Marks] in one round trip.
func (m *marks) Get(ctx context.Context, key string) (mark store.Mark, ok bool, err error) {
	type found struct {
		mark store.Mark
		ok   bool
	}
	f, err := call(ctx, m.s, "get", func(ctx context.Context) (found, error) {
		record, err := getScript.Run(ctx, m.s.client, m.keys, key).Text()
		if errors.Is(err, redis.Nil) {
			return found{}, nil
		}
		if err != nil {
			return found{}, err
		}
		mark, err := parseMark(key, record)
		return found{mark, err == nil}, err
	}, nil)
	return f.mark, f.ok, err
}

// parseMark reads a record.
func parseMark(key, record string) (store.Mark, error) {
	at, rest, ok := strings.Cut(record, " ")
	end, value, ok2 := strings.Cut(rest, " ")
	us, err := strconv.ParseInt(at, 10, 64)
	ms, err2 := strconv.ParseInt(end, 10, 64)
	if !ok || !ok2 || err != nil || err2 != nil {
		return store.Mark{}, errAnswer
	}
	m := store.Mark{Key: key, At: time.UnixMicro(us), Cleared: ms < 0}
	if ms > 0 {
		m.Until = time.UnixMilli(ms)
	}
	if !m.Cleared {
		m.Value = []byte(value)
	}
	return m, nil
}

// All implements [store.Marks]. It needs a round trip for the cursor, and one for about 500
// marks.
func (m *marks) All(ctx context.Context, each func(store.Mark) error) (string, error) {
	_, cursor, err := m.read(ctx, "")
	if err != nil {
		return "", err
	}
	page := "0"
	for {
		reply, err := call(ctx, m.s, "all", func(ctx context.Context) ([]string, error) {
			reply, err := pageScript.Run(ctx, m.s.client, m.keys, page).StringSlice()
			if err == nil && len(reply)%2 != 1 {
				err = errAnswer
			}
			return reply, err
		}, nil)
		if err != nil {
			return "", err
		}
		for i := 1; i < len(reply); i += 2 {
			mark, err := parseMark(reply[i], reply[i+1])
			if err == nil {
				err = each(mark)
			}
			if err != nil {
				return "", err
			}
		}
		if page = reply[0]; page == "0" {
			return cursor, nil
		}
	}
}

// newsPage is how many changes News returns at most.
const newsPage = 500

// read returns the changes since cursor, and the cursor behind them.
func (m *marks) read(ctx context.Context, cursor string) (news []store.Mark, next string, err error) {
	epoch, id, ok := strings.Cut(cursor, "/")
	if cursor != "" && (!ok || epoch == "" || !streamID(id)) {
		return nil, cursor, fmt.Errorf("%w: a cursor that is none of this store", store.ErrInvalid)
	}
	next = cursor
	reply, err := call(ctx, m.s, "news", func(ctx context.Context) ([]any, error) {
		reply, err := newsScript.Run(ctx, m.s.client, m.keys, rand.Text(), epoch, id, newsPage).Slice()
		if err == nil && (len(reply) < 3 || len(reply)%3 != 0) {
			err = errAnswer
		}
		return reply, err
	}, nil)
	if err != nil {
		return nil, cursor, err
	}
	if reply[2] == int64(1) {
		return nil, cursor, store.ErrGap
	}
	last := fmt.Sprint(reply[1])
	for i := 3; i < len(reply); i += 3 {
		mark, err := parseMark(fmt.Sprint(reply[i+1]), fmt.Sprint(reply[i+2]))
		if err != nil {
			return nil, cursor, err
		}
		last = fmt.Sprint(reply[i])
		news = append(news, mark)
	}
	return news, fmt.Sprint(reply[0]) + "/" + last, nil
}

// streamID reports whether s is the ID of an entry of a stream.
func streamID(s string) bool {
	ms, seq, ok := strings.Cut(s, "-")
	_, err := strconv.ParseUint(ms, 10, 64)
	_, err2 := strconv.ParseUint(seq, 10, 64)
	return ok && err == nil && err2 == nil
}

// waitSlice is how long Redis is asked to wait for news at a time. When a reader leaves, its
// command lasts until then.
const waitSlice = time.Second

// News implements [store.Marks]. It waits in Redis, on a connection of the client's pool. When
// ctx ends it returns at once, and its command ends within a second.
func (m *marks) News(ctx context.Context, cursor string, wait time.Duration) ([]store.Mark, string, error) {
	until := time.Now().Add(wait)
	for {
		news, next, err := m.read(ctx, cursor)
		left := time.Until(until)
		if err != nil || len(news) > 0 || left < time.Millisecond {
			return news, next, err
		}
		cursor = next
		if err := m.wait(ctx, cursor, min(left, waitSlice)); err != nil {
			return nil, cursor, err
		}
	}
}

// wait waits until the stream has an entry after cursor, or d has passed.
func (m *marks) wait(ctx context.Context, cursor string, d time.Duration) error {
	_, id, _ := strings.Cut(cursor, "/")
	_, err := callFor(ctx, m.s, "news", d+m.s.opts.Timeout, m.reading, func(ctx context.Context) (struct{}, error) {
		err := m.s.client.XRead(ctx, &redis.XReadArgs{Streams: []string{m.keys[2], id}, Count: 1, Block: d}).Err()
		if errors.Is(err, redis.Nil) {
			err = nil
		}
		return struct{}{}, err
	}, nil)
	return err
}

// Now implements [store.Marks] in one round trip.
func (m *marks) Now(ctx context.Context) (time.Time, error) {
	us, err := call(ctx, m.s, "now", func(ctx context.Context) (int64, error) {
		return nowScript.Run(ctx, m.s.client, m.keys).Int64()
	}, nil)
	return time.UnixMicro(us), err
}

// nowScript runs on the node that has the marks.
var nowScript = redis.NewScript(`
local time = redis.call('TIME')
return time[1] * 1000000 + time[2]
`)
