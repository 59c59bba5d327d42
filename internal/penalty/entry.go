package penalty

import (
	"container/heap"
	"time"
)

// entry is a ban, or a ban that is over and kept for its strikes. The mu of its box guards it.
type entry struct {
	key     Key
	until   time.Time
	reason  string
	strikes int
	manual  bool
	pool    int // the pool that the entry is in, or noPool
	at      int // its index in the pool
}

func (e *entry) ban() Ban {
	return Ban{Prefix: e.key.prefix, Name: e.key.name, Until: e.until, Strikes: e.strikes, Reason: e.reason, Manual: e.manual}
}

// remembered returns how many strikes still count.
func (e *entry) remembered(now time.Time, decay time.Duration) int {
	past := now.Sub(e.until)
	if past <= 0 || decay <= 0 {
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

// place sets the end of an entry's ban. It puts an entry that is in no pool into pool.
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

// pool is a heap. Its first entry is the ban that ends soonest.
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
