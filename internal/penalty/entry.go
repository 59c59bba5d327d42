package penalty

import (
	"container/heap"
	"time"
)

// entry is a ban, or the memory of one.
type entry struct {
	key     Key
	until   time.Time
	reason  string
	strikes int
	manual  bool
	pool    int
	at      int // in it
}

func (e *entry) ban() Ban {
	return Ban{Prefix: e.key.prefix, Name: e.key.name, Until: e.until, Strikes: e.strikes, Reason: e.reason, Manual: e.manual}
}

// remembered is how many strikes still count.
func (e *entry) remembered(now time.Time, decay time.Duration) int {
	past := now.Sub(e.until)
	if past <= 0 {
		return e.strikes
	}
	return max(0, e.strikes-int(min(past/decay, 1<<30)))
}

func (b *Box) entry(k Key) *entry {
	if k.name != "" {
		return b.names[k.name]
	}
	return b.nets[k.prefix]
}

func (b *Box) add(k Key) *entry {
	e := &entry{key: k, pool: noPool}
	if k.name != "" {
		b.names[k.name] = e
	} else {
		b.nets[k.prefix] = e
		b.lengths[family(k.prefix.Addr())].add(k.prefix.Bits())
	}
	b.held.Add(1)
	return e
}

func (b *Box) remove(e *entry) {
	b.unpool(e)
	if e.manual {
		b.manual--
	}
	if k := e.key; k.name != "" {
		delete(b.names, k.name)
	} else {
		delete(b.nets, k.prefix)
		b.lengths[family(k.prefix.Addr())].remove(k.prefix.Bits())
	}
	b.held.Add(-1)
}

// place puts an entry into a pool, or to another place in it.
func (b *Box) place(e *entry, pool int, until time.Time) {
	e.until = until
	if e.pool == noPool {
		e.pool = pool
		heap.Push(&b.pools[pool], e)
		return
	}
	heap.Fix(&b.pools[pool], e.at)
}

func (b *Box) unpool(e *entry) {
	if e.pool != noPool {
		heap.Remove(&b.pools[e.pool], e.at)
		e.pool = noPool
	}
}

// pool is a heap: the ban that ends soonest is the first.
type pool []*entry

func (p pool) Len() int           { return len(p) }
func (p pool) Less(i, j int) bool { return p[i].until.Before(p[j].until) }
func (p pool) Swap(i, j int) {
	p[i], p[j] = p[j], p[i]
	p[i].at, p[j].at = i, j
}
func (p *pool) Push(x any) {
	e := x.(*entry)
	e.at = len(*p)
	*p = append(*p, e)
}
func (p *pool) Pop() any {
	old := *p
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*p = old[:len(old)-1]
	return e
}

// buckets are those of clients without a ban: when each will be full again, in
// nanoseconds.
type buckets struct {
	tat   map[uint64]int64
	clock int64 // a now that steps back forgives nothing
}

// sample is how many are looked at for one to forget.
const sample = 8

// over takes cost from a bucket of burst. It tells whether that is too much, and
// then leaves it empty.
func (b *buckets) over(hash uint64, cost, burst float64, ns int64, most int) bool {
	const far = 1 << 61
	b.clock = max(b.clock, ns)
	tat, known := b.tat[hash]
	tat = max(tat, b.clock)
	owed := float64(tat-b.clock) + cost
	// What rounding loses is less than a violation by far.
	over := owed > burst*(1+1e-9)
	if over {
		owed = burst
	}
	if !known {
		b.makeRoom(most)
	}
	b.tat[hash] = b.clock + int64(min(owed, far))
	return over
}

func (b *buckets) makeRoom(most int) {
	if b.tat == nil {
		b.tat = map[uint64]int64{}
	}
	for len(b.tat) >= most {
		var fullest uint64
		least, seen := int64(0), 0
		for hash, tat := range b.tat { // begins anywhere
			if seen == 0 || tat < least {
				fullest, least = hash, tat
			}
			if seen++; seen == sample {
				break
			}
		}
		delete(b.tat, fullest)
	}
}
