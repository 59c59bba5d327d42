package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/wsguard/wsguard/store"
)

// all returns the marks of an instance by their keys, and the cursor.
func (s *suite) all(in Instance) (map[string]store.Mark, string) {
	s.Helper()
	marks := map[string]store.Mark{}
	cursor, err := in.Marks.All(s.ctx, func(m store.Mark) error {
		marks[m.Key] = m
		return nil
	})
	s.ok(err)
	return marks, cursor
}

// same reports whether a store has returned the mark that Set has returned.
func same(a, b store.Mark) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.At.Equal(b.At) && a.Until.Equal(b.Until) && a.Cleared == b.Cleared
}

func marksSet(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	other := s.open()
	before, err := s.a.Marks.Now(s.ctx)
	s.ok(err)
	want := map[string]store.Mark{}
	for i := range 30 {
		key := fmt.Sprint("subject {", i, "}\x00\xff \r\n")
		var ttl time.Duration
		if i%2 == 0 {
			ttl = long
		}
		m, err := s.a.Marks.Set(s.ctx, key, bytes.Repeat([]byte("\x00 \xff"), i), ttl)
		s.ok(err)
		want[key] = m
		after, err := other.Marks.Now(s.ctx)
		s.ok(err)
		if m.At.Before(before) || m.At.After(after) {
			s.Errorf("set at %v, which is not between %v and %v", m.At, before, after)
		}
		if m.Until.IsZero() != (ttl == 0) || ttl > 0 && m.Until.Sub(m.At).Round(time.Second) != ttl {
			s.Errorf("set at %v until %v, want %v", m.At, m.Until, ttl)
		}
		got, ok, err := other.Marks.Get(s.ctx, key)
		if err != nil || !ok || !same(got, m) {
			s.Errorf("got %+v %v %v, want %+v", got, ok, err, m)
		}
	}
	got, _ := s.all(other)
	for key, m := range want {
		if !same(got[key], m) {
			s.Errorf("All has %+v, want %+v", got[key], m)
		}
		s.ok(s.a.Marks.Clear(s.ctx, key))
		s.ok(s.a.Marks.Clear(s.ctx, key))
		if _, ok, err := other.Marks.Get(s.ctx, key); ok || err != nil {
			s.Error("cleared, but there:", err)
		}
	}
	if got, _ := s.all(other); len(got) != 0 {
		s.Errorf("%d marks are left", len(got))
	}
	stop := errors.New("stop")
	_, err = s.a.Marks.Set(s.ctx, "k", nil, 0)
	s.ok(err)
	if _, err := s.a.Marks.All(s.ctx, func(store.Mark) error { return stop }); err != stop {
		s.Error("All returned", err)
	}
}

func marksLongerStays(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	first, err := s.a.Marks.Set(s.ctx, "k", []byte("1"), long)
	s.ok(err)
	m, err := s.a.Marks.Set(s.ctx, "k", []byte("2"), time.Second)
	s.ok(err)
	if !m.Until.Equal(first.Until) || string(m.Value) != "2" {
		s.Errorf("%+v, want the end of %+v", m, first)
	}
	_, err = s.a.Marks.Set(s.ctx, "k", []byte("3"), 0)
	s.ok(err)
	m, err = s.a.Marks.Set(s.ctx, "k", []byte("4"), long)
	s.ok(err)
	if !m.Until.IsZero() || string(m.Value) != "4" {
		s.Errorf("%+v ends", m)
	}
	s.ok(s.a.Marks.Clear(s.ctx, "k"))
	m, err = s.a.Marks.Set(s.ctx, "k", []byte("5"), time.Minute)
	s.ok(err)
	if m.Until.IsZero() || m.Until.Sub(m.At) > time.Minute {
		s.Errorf("%+v has the end of a mark that was cleared", m)
	}
}

func marksExpire(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	_, err := s.a.Marks.Set(s.ctx, "short", nil, short)
	s.ok(err)
	_, err = s.a.Marks.Set(s.ctx, "long", nil, long)
	s.ok(err)
	s.h.Advance(short + 10*time.Millisecond)
	if _, ok, err := s.a.Marks.Get(s.ctx, "short"); ok || err != nil {
		s.Error("it outlives its ttl:", err)
	}
	if got, _ := s.all(s.a); len(got) != 1 {
		s.Errorf("All has %v", got)
	}
	m, err := s.a.Marks.Set(s.ctx, "short", nil, time.Second)
	s.ok(err)
	if m.Until.Sub(m.At) > time.Second {
		s.Error("a mark that has ended counts:", m)
	}
}

func marksNews(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	reader := s.open()
	_, err := s.a.Marks.Set(s.ctx, "before", nil, long)
	s.ok(err)
	_, cursor := s.all(reader)
	nothing := func() {
		s.Helper()
		news, next, err := reader.Marks.News(s.ctx, cursor, 20*time.Millisecond)
		s.ok(err)
		if len(news) > 0 || next == "" {
			s.Fatalf("news %+v, cursor %q", news, next)
		}
		cursor = next
	}
	nothing()
	a, err := s.a.Marks.Set(s.ctx, "a", []byte("1"), long)
	s.ok(err)
	b, err := s.a.Marks.Set(s.ctx, "b", []byte("2\x00 "), 0)
	s.ok(err)
	s.ok(s.a.Marks.Clear(s.ctx, "unknown")) // no news
	s.ok(s.a.Marks.Clear(s.ctx, "a"))
	old := cursor
	for range 2 { // a cursor can be used again
		news, next, err := reader.Marks.News(s.ctx, old, long)
		s.ok(err)
		if len(news) != 3 || !same(news[0], a) || !same(news[1], b) || news[2].Key != "a" || !news[2].Cleared || news[2].At.Before(b.At) {
			s.Fatalf("news %+v", news)
		}
		cursor = next
	}
	nothing()
	// An empty cursor is now.
	news, cursor, err := reader.Marks.News(s.ctx, "", 20*time.Millisecond)
	s.ok(err)
	if len(news) > 0 {
		s.Errorf("old news: %+v", news)
	}
	_, err = s.a.Marks.Set(s.ctx, "c", nil, 0)
	s.ok(err)
	if news, _, err = reader.Marks.News(s.ctx, cursor, long); err != nil || len(news) != 1 || news[0].Key != "c" {
		s.Errorf("news %+v %v", news, err)
	}
}

// A reader that waits gets the news, and one whose context ends returns.
func marksWake(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	reader := s.open()
	_, cursor := s.all(reader)
	type result struct {
		news []store.Mark
		err  error
	}
	results := make(chan result, 1)
	read := func(ctx context.Context) {
		news, _, err := reader.Marks.News(ctx, cursor, long)
		results <- result{news, err}
	}
	go read(s.ctx)
	_, err := s.a.Marks.Set(s.ctx, "k", nil, long)
	s.ok(err)
	if r := <-results; r.err != nil || len(r.news) != 1 || r.news[0].Key != "k" {
		s.Errorf("%+v", r)
	}
	_, cursor = s.all(reader)
	ctx, cancel := context.WithCancel(s.ctx)
	go read(ctx)
	cancel()
	if r := <-results; !errors.Is(r.err, context.Canceled) || len(r.news) > 0 {
		s.Errorf("%+v", r)
	}
}

func marksNoneLost(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	reader := s.open()
	_, cursor := s.all(reader)
	const writers, each = 8, 25
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.race(writers, func(in Instance, i int) {
			for j := range each {
				if _, err := in.Marks.Set(s.ctx, fmt.Sprint(i, "/", j), nil, long); err != nil {
					s.Error(err)
				}
			}
		})
	}()
	got := map[string]int{}
	for len(got) < writers*each {
		written := false
		select {
		case <-done:
			written = true
		default:
		}
		news, next, err := reader.Marks.News(s.ctx, cursor, 100*time.Millisecond)
		if err != nil || written && len(news) == 0 {
			s.Errorf("after %d: %d news, %v", len(got), len(news), err)
			break
		}
		for _, m := range news {
			got[m.Key]++
		}
		cursor = next
	}
	<-done
	for key, n := range got {
		if n != 1 {
			s.Errorf("%s was told %d times", key, n)
		}
	}
}

func marksGap(s *suite) {
	s.need(s.a.Marks != nil && s.h.ShortNews > 0, "Marks with a known length of news")
	reader := s.open()
	_, cursor := s.all(reader)
	for i := range s.h.ShortNews {
		_, err := s.a.Marks.Set(s.ctx, fmt.Sprint(i%100), nil, long)
		s.ok(err)
	}
	if news, _, err := reader.Marks.News(s.ctx, cursor, long); !errors.Is(err, store.ErrGap) {
		s.Fatalf("%d news, %v; want ErrGap", len(news), err)
	}
	got, cursor := s.all(reader)
	if len(got) != 100 {
		s.Errorf("%d marks, want 100", len(got))
	}
	_, err := s.a.Marks.Set(s.ctx, "after", nil, long)
	s.ok(err)
	if news, _, err := reader.Marks.News(s.ctx, cursor, long); err != nil || len(news) != 1 || news[0].Key != "after" {
		s.Errorf("after the gap: %+v %v", news, err)
	}
}

func marksInvalid(s *suite) {
	s.need(s.a.Marks != nil, "Marks")
	_, err := s.a.Marks.Set(s.ctx, "", nil, long)
	s.invalid("no key", err)
	_, err = s.a.Marks.Set(s.ctx, "k", nil, -1)
	s.invalid("a negative ttl", err)
	_, err = s.a.Marks.Set(s.ctx, "k", nil, time.Microsecond)
	s.invalid("a short ttl", err)
	_, _, err = s.a.Marks.News(s.ctx, "nonsense", time.Millisecond)
	if !errors.Is(err, store.ErrInvalid) && !errors.Is(err, store.ErrGap) {
		s.Error("a foreign cursor:", err)
	}
}
