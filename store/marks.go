package store

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"
)

// Marks holds what each instance must know about some keys, such as which subjects are revoked,
// or which clients are banned. Revocations and bans have a Marks each. Many goroutines call it
// at the same time.
//
// Each instance keeps a copy. It reads [Marks.All] when it starts, and [Marks.News] from then
// on. So it asks nobody when it judges a handshake. Set makes a mark durable before its news
// can be read, and news wait for a reader in the store. So no mark is lost if a reader has no
// connection for a time.
//
// The errors wrap [ErrInvalid] if an argument is not valid. They are an [OutageError] if the
// store is slow or gone.
type Marks interface {
	// Set marks key for ttl from now, and returns the mark. A ttl of 0 means that the mark never
	// ends. Set replaces an earlier mark of key. The end of the mark becomes no earlier: if the
	// earlier mark lasts longer, the new one ends when that would have ended. After an
	// [OutageError] the mark may be set. The error wraps [ErrFull] if there is no room.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) (Mark, error)

	// Clear removes the mark of key. A key without a mark is no error.
	Clear(ctx context.Context, key string) error

	// Get returns the mark of key. ok is false if there is none.
	Get(ctx context.Context, key string) (m Mark, ok bool, err error)

	// All calls each with every mark, at least once and in no order, and returns a cursor for
	// News. The cursor is from before the first mark. So marks that change meanwhile are news.
	// If each returns an error, All stops and returns it.
	All(ctx context.Context, each func(Mark) error) (cursor string, err error)

	// News returns what has changed since cursor in its order, and the cursor behind that. If
	// nothing has changed, News waits for news until wait has passed or ctx ends, and returns
	// none. At most one goroutine of an instance should wait. An empty cursor stands for now.
	//
	// The error wraps [ErrGap] if the store does not know everything that has changed since
	// cursor. That happens if the reader has been away for too long, or if the store has lost
	// its memory. The reader must call All, and replace its copy.
	News(ctx context.Context, cursor string, wait time.Duration) (news []Mark, next string, err error)

	// Now returns the time by the clock that Mark.At comes from.
	Now(ctx context.Context) (time.Time, error)
}

// Mark says something about a key.
type Mark struct {
	Key     string
	Value   []byte    // that of Set; nil if Cleared
	At      time.Time // when it was set or cleared, by the clock of the store, to the microsecond
	Until   time.Time // when it ends, by the clock of the store, to the millisecond; zero: never
	Cleared bool      // the key has no mark any more; in news only
}

// ErrGap says that a cursor is too old. See [Marks.News].
var ErrGap = errors.New("store: the news since the cursor are not complete")

// keptNews is how many changes a MemoryMarks keeps.
const keptNews = 4096

// MemoryMarks is a [Marks] in the memory of one instance. The zero value is ready to use and has
// no limit. Only News looks at the context.
type MemoryMarks struct {
	mu     sync.Mutex      // no other lock is taken while it is held
	marks  map[string]Mark // guarded by mu; made when needed
	news   []Mark          // guarded by mu: the latest changes
	seq    uint64          // guarded by mu: the number of all changes
	more   chan struct{}   // guarded by mu; closed at the next change; nil: nobody waits
	tidyAt int             // guarded by mu: the number of marks at which those that have ended are dropped
}

// Set implements [Marks].
func (m *MemoryMarks) Set(_ context.Context, key string, value []byte, ttl time.Duration) (Mark, error) {
	if err := ValidateMark(key, ttl); err != nil {
		return Mark{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := memoryNow()
	mark := Mark{Key: key, Value: append([]byte(nil), value...), At: now}
	if ttl > 0 {
		mark.Until = now.Add(ttl).Truncate(time.Millisecond)
	}
	if old, ok := m.marks[key]; ok && old.holds(now) && (old.Until.IsZero() || !mark.Until.IsZero() && old.Until.After(mark.Until)) {
		mark.Until = old.Until
	}
	m.tidy(now)
	m.marks[key] = mark
	m.publish(mark)
	return mark, nil
}

// ValidateMark returns an error that wraps [ErrInvalid] if Marks.Set must refuse key and ttl.
func ValidateMark(key string, ttl time.Duration) error {
	switch {
	case key == "":
		return invalid("no key")
	case ttl < 0 || ttl > 0 && ttl < time.Millisecond:
		return invalid("a mark must last for at least a millisecond")
	}
	return nil
}

// memoryNow is the clock. It has no monotonic part, as that of another machine.
func memoryNow() time.Time { return time.Now().Round(0).Truncate(time.Microsecond) }

func (m Mark) holds(now time.Time) bool { return m.Until.IsZero() || now.Before(m.Until) }

// tidy drops marks that have ended each time the number of marks has doubled. The caller
// holds mu.
func (m *MemoryMarks) tidy(now time.Time) {
	if m.marks == nil {
		m.marks, m.tidyAt = map[string]Mark{}, 1024
	}
	if len(m.marks) < m.tidyAt {
		return
	}
	for key, mark := range m.marks {
		if !mark.holds(now) {
			delete(m.marks, key)
		}
	}
	m.tidyAt = max(1024, 2*len(m.marks))
}

// publish adds a change to the news. The caller holds mu.
func (m *MemoryMarks) publish(mark Mark) {
	if len(m.news) >= 2*keptNews {
		m.news = append([]Mark(nil), m.news[keptNews:]...)
	}
	m.news = append(m.news, mark)
	m.seq++
	if m.more != nil {
		close(m.more)
		m.more = nil
	}
}

// Clear implements [Marks].
func (m *MemoryMarks) Clear(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := memoryNow()
	if old, ok := m.marks[key]; !ok || !old.holds(now) {
		return nil
	}
	delete(m.marks, key)
	m.publish(Mark{Key: key, At: now, Cleared: true})
	return nil
}

// Get implements [Marks].
func (m *MemoryMarks) Get(_ context.Context, key string) (Mark, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mark, ok := m.marks[key]
	if !ok || !mark.holds(memoryNow()) {
		return Mark{}, false, nil
	}
	return mark.copied(), true, nil
}

// copied returns m with a Value of its own.
func (m Mark) copied() Mark {
	if !m.Cleared {
		m.Value = append([]byte{}, m.Value...)
	}
	return m
}

// All implements [Marks].
func (m *MemoryMarks) All(_ context.Context, each func(Mark) error) (string, error) {
	m.mu.Lock()
	now := memoryNow()
	cursor := strconv.FormatUint(m.seq, 10)
	var all []Mark
	for _, mark := range m.marks {
		if mark.holds(now) {
			all = append(all, mark.copied())
		}
	}
	m.mu.Unlock()
	for _, mark := range all {
		if err := each(mark); err != nil {
			return "", err
		}
	}
	return cursor, nil
}

// News implements [Marks].
func (m *MemoryMarks) News(ctx context.Context, cursor string, wait time.Duration) ([]Mark, string, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		news, next, more, err := m.since(cursor)
		if err != nil || len(news) > 0 {
			return news, next, err
		}
		cursor = next
		select {
		case <-more:
		case <-timer.C:
			return nil, next, nil
		case <-ctx.Done():
			return nil, next, ctx.Err()
		}
	}
}

// since returns the changes since cursor. If there are none, more is closed at the next one.
func (m *MemoryMarks) since(cursor string) (news []Mark, next string, more <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := m.seq
	if cursor != "" {
		if from, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return nil, cursor, nil, invalid("a cursor that is none of this store")
		}
	}
	first := m.seq - uint64(len(m.news)) // changes before it are forgotten
	if from < first || from > m.seq {
		return nil, cursor, nil, ErrGap
	}
	for _, mark := range m.news[from-first:] {
		news = append(news, mark.copied())
	}
	if m.more == nil {
		m.more = make(chan struct{})
	}
	return news, strconv.FormatUint(m.seq, 10), m.more, nil
}

// Now implements [Marks].
func (m *MemoryMarks) Now(context.Context) (time.Time, error) { return memoryNow(), nil }
