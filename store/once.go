// Package store says what the instances of a service have to share, and has the
// form of it that lives in the memory of one.
package store

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"
)

// Once keeps values that can be taken a single time, such as tickets. It is safe
// for concurrent use. wsguard bounds how long it waits for one, and treats an
// error as "cannot decide now": nobody is let in.
type Once interface {
	// Put keeps value under key, which is new, for ttl. It returns ErrFull
	// when there is no room.
	Put(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Take removes the value and returns it. Of several takers at once one
	// gets it; the others get ok == false, as for a key that is not there or
	// no longer.
	Take(ctx context.Context, key string) (value []byte, ok bool, err error)
}

// ErrFull says that a store has no room.
var ErrFull = errors.New("store: full")

// MemoryOnce is a Once in the memory of one instance.
type MemoryOnce struct {
	max int // 0: no limit

	mu    sync.Mutex
	all   map[string]*once
	queue queue
}

type once struct {
	key   string
	value []byte
	until time.Time
	index int // in queue
}

// NewOnce returns a store of at most max values; 0 is no limit, as in the zero
// MemoryOnce.
func NewOnce(max int) *MemoryOnce { return &MemoryOnce{max: max} }

// SetMax changes how many values there may be. What is there stays.
func (m *MemoryOnce) SetMax(max int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.max = max
}

// Put keeps a copy of value.
func (m *MemoryOnce) Put(_ context.Context, key string, value []byte, ttl time.Duration) error {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.queue) > 0 && !now.Before(m.queue[0].until) {
		m.drop(m.queue[0])
	}
	if old := m.all[key]; old != nil {
		m.drop(old)
	}
	if m.max > 0 && len(m.all) >= m.max {
		return ErrFull
	}
	if m.all == nil {
		m.all = map[string]*once{}
	}
	o := &once{key: key, value: append([]byte(nil), value...), until: now.Add(ttl)}
	m.all[key] = o
	heap.Push(&m.queue, o)
	return nil
}

// Take removes the value and returns it.
func (m *MemoryOnce) Take(_ context.Context, key string) ([]byte, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.all[key]
	if o == nil {
		return nil, false, nil
	}
	m.drop(o)
	return o.value, time.Now().Before(o.until), nil
}

func (m *MemoryOnce) drop(o *once) {
	delete(m.all, o.key)
	heap.Remove(&m.queue, o.index)
}

// queue is a heap by the end of life.
type queue []*once

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].until.Before(q[j].until) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	o := x.(*once)
	o.index = len(*q)
	*q = append(*q, o)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	o := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return o
}
