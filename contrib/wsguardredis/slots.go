package wsguardredis

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/store"
)

// Acquire implements [store.Slots] in one round trip. In a Redis Cluster without Options.HashTag
// it asks for all scopes at the same time, and gives back what it has if one of them is full.
// Then calls that run at the same time may refuse each other although there is a free slot.
func (s *Store) Acquire(ctx context.Context, id string, ttl time.Duration, scopes ...store.Scope) (string, error) {
	r := store.Request{ID: id, TTL: ttl, Scopes: scopes}
	lease := store.Lease{ID: id, Scopes: scopes}
	if err := store.ValidateLeases(ttl, lease); err != nil {
		return "", err
	}
	if s.spread && len(scopes) > 1 {
		return s.acquireSpread(ctx, r)
	}
	a, err := s.admit(ctx, "acquire", r)
	return a.Key, err
}

// acquireSpread takes slots in scopes that are in different hash slots.
func (s *Store) acquireSpread(ctx context.Context, r store.Request) (full string, err error) {
	lease := store.Lease{ID: r.ID, Scopes: r.Scopes}
	return call(ctx, s, "acquire", func(ctx context.Context) (string, error) {
		var keys [][]string
		var args [][]any
		var fresh []counted
		for _, scope := range r.Scopes {
			k, a, f := s.script(store.Request{ID: r.ID, TTL: r.TTL, Scopes: []store.Scope{scope}})
			keys, args, fresh = append(keys, k), append(args, a), append(fresh, f...)
		}
		taken, full, err := s.runSpread(ctx, r, keys, args)
		switch {
		case err != nil:
		case full != "":
			s.refused(ctx, r.ID, fresh, taken)
		default:
			s.confirm(lease)
		}
		return full, err
	}, func() { s.releaseLost(lease) })
}

// runSpread runs admitScript for each scope. taken has the scopes in which the ID has a slot that
// it did not have.
func (s *Store) runSpread(ctx context.Context, r store.Request, keys [][]string, args [][]any) (taken []store.Scope, full string, err error) {
	cmds, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range keys {
			admitScript.Eval(ctx, p, keys[i], args[i]...)
		}
		return nil
	})
	if err != nil {
		return taken, "", err
	}
	for i, cmd := range cmds {
		scope := r.Scopes[i : i+1]
		reply, err := cmd.(*redis.Cmd).Slice()
		if err != nil {
			return taken, "", err
		}
		a, n, err := answer(store.Request{Scopes: scope}, reply)
		switch {
		case err != nil:
			return taken, "", err
		case a.Refused != store.Admitted && full == "":
			full = a.Key
		case n > 0:
			taken = append(taken, scope...)
		}
	}
	return taken, full, nil
}

// rowScript writes the tally of an instance in a wide scope, unless Redis has a newer one.
// ARGV has the instance, the sequence number, the tally, the life of its lease, and that of the
// key. A life of 0 keeps the end that the lease has, and does nothing without a lease.
var rowScript = redis.NewScript(`
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = now + ARGV[4]
local old = redis.call('HGET', KEYS[1], ARGV[1])
local s, e = string.match(old or '', '^(%d+) %d+ (%d+)$')
if s and tonumber(s) > tonumber(ARGV[2]) then return 0 end
if tonumber(ARGV[4]) == 0 then
	if not s then return 0 end
	ends = tonumber(e)
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%s %s %.0f', ARGV[2], ARGV[3], ends))
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
`)

// row adds a rowScript to a pipeline.
func (s *Store) row(ctx context.Context, p redis.Pipeliner, key string, t tally, ttl time.Duration) {
	rowScript.Eval(ctx, p, []string{key}, s.instance, t.seq, t.n, ttl.Milliseconds(), keyTTL)
}

// batch is how many leases are renewed or released in one round trip.
const batch = 500

// Renew implements [store.Slots]. It needs one round trip for the time of Redis, and one for 500
// leases.
func (s *Store) Renew(ctx context.Context, ttl time.Duration, leases ...store.Lease) error {
	if err := store.ValidateLeases(ttl, leases...); err != nil {
		return err
	}
	if len(leases) == 0 {
		return nil
	}
	now, err := call(ctx, s, "renew", func(ctx context.Context) (time.Time, error) { return s.client.Time(ctx).Result() }, nil)
	if err != nil {
		return err
	}
	until := float64(now.Add(ttl).UnixMilli())
	wide := map[string]bool{}
	for _, l := range leases {
		for _, scope := range l.Scopes {
			if scope.Wide {
				key := s.scopeKey(scope)
				s.tallies.add(key, l.ID)
				s.tallies.confirm(key, l.ID)
				wide[key] = true
			}
		}
	}
	for len(leases) > 0 {
		some := leases[:min(batch, len(leases))]
		leases = leases[len(some):]
		rows := wide
		wide = nil // they are written once
		err := s.pipelined(ctx, "renew", func(ctx context.Context, p redis.Pipeliner) {
			for key := range rows {
				s.row(ctx, p, key, s.tallies.now(key), ttl)
			}
			renew(ctx, p, s, until, some)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// renew adds the renewal of leases to a pipeline, wide scopes aside. ZADD without XX restores
// the leases that a Redis has lost.
func renew(ctx context.Context, p redis.Pipeliner, s *Store, until float64, leases []store.Lease) {
	members := map[string][]redis.Z{}
	for _, l := range leases {
		for _, scope := range l.Scopes {
			if !scope.Wide {
				key := s.scopeKey(scope)
				members[key] = append(members[key], redis.Z{Score: until, Member: l.ID})
			}
		}
	}
	for key, z := range members {
		p.ZAdd(ctx, key, z...)
		p.PExpire(ctx, key, time.Duration(keyTTL)*time.Millisecond)
	}
}

// pipelined runs what add adds to a pipeline.
func (s *Store) pipelined(ctx context.Context, op string, add func(context.Context, redis.Pipeliner)) error {
	_, err := call(ctx, s, op, func(ctx context.Context) (struct{}, error) {
		p := s.client.Pipeline()
		add(ctx, p)
		if p.Len() == 0 {
			return struct{}{}, nil
		}
		_, err := p.Exec(ctx)
		return struct{}{}, err
	}, nil)
	return err
}

// Release implements [store.Slots]. It needs one round trip for 500 leases.
func (s *Store) Release(ctx context.Context, leases ...store.Lease) error {
	wide := map[string]tally{}
	for _, l := range leases {
		s.remove(l, wide)
	}
	for len(leases) > 0 {
		some := leases[:min(batch, len(leases))]
		leases = leases[len(some):]
		rows := wide
		wide = nil // they are written once
		err := s.pipelined(ctx, "release", func(ctx context.Context, p redis.Pipeliner) { s.release(ctx, p, rows, some) })
		if err != nil {
			return err
		}
	}
	return nil
}

// remove counts a lease in wide scopes no longer. It notes the new tallies.
func (s *Store) remove(l store.Lease, wide map[string]tally) {
	for _, scope := range l.Scopes {
		if scope.Wide {
			key := s.scopeKey(scope)
			wide[key] = s.tallies.remove(key, l.ID)
		}
	}
}

// release adds the release of leases to a pipeline. wide has the tallies of their wide scopes.
func (s *Store) release(ctx context.Context, p redis.Pipeliner, wide map[string]tally, leases []store.Lease) {
	for key, t := range wide {
		s.row(ctx, p, key, t, 0)
	}
	members := map[string][]any{}
	for _, l := range leases {
		for _, scope := range l.Scopes {
			if !scope.Wide {
				key := s.scopeKey(scope)
				members[key] = append(members[key], l.ID)
			}
		}
	}
	for key, ids := range members {
		p.ZRem(ctx, key, ids...)
	}
}

// confirm notes that the slots of a lease are held.
func (s *Store) confirm(l store.Lease) {
	for _, scope := range l.Scopes {
		if scope.Wide {
			s.tallies.confirm(s.scopeKey(scope), l.ID)
		}
	}
}

// refused forgets an ID that was refused, and gives back the slots that it has in the scopes
// taken. The ID was not counted in the wide scopes fresh before. If Redis was told a number that
// counts the ID, it gets the new one. If that fails, the slots end with their lease.
func (s *Store) refused(ctx context.Context, id string, fresh []counted, taken []store.Scope) {
	wide := map[string]tally{}
	for _, c := range fresh {
		if t, told := s.tallies.forget(c, id); told {
			wide[c.key] = t
		}
	}
	lease := store.Lease{ID: id, Scopes: taken}
	s.remove(lease, wide)
	if len(wide)+len(taken) > 0 {
		p := s.client.Pipeline()
		s.release(ctx, p, wide, []store.Lease{lease})
		p.Exec(ctx)
	}
}

// undoTimeout bounds the release of slots of which it is not known whether they are held.
const undoTimeout = time.Second

// releaseLost gives such slots back. If that fails, they end with their lease.
func (s *Store) releaseLost(l store.Lease) {
	if len(l.Scopes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	wide := map[string]tally{}
	s.remove(l, wide)
	p := s.client.Pipeline()
	s.release(ctx, p, wide, []store.Lease{l})
	p.Exec(ctx)
}
