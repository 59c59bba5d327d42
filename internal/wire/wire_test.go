package wire

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// In no window does a bucket give more than its burst and what flows in, and
// it never refuses what is there, whatever now does.
func TestBucket(t *testing.T) {
	for range 2000 {
		rate, burst := []float64{0.5, 1, 10, 1e3, 1e9}[rand.N(5)], 1+rand.N(30)
		b := bucket{rate: rate, burst: float64(burst), tokens: float64(burst)}
		var taken []time.Duration
		now, high := time.Duration(1), time.Duration(0)
		model := float64(burst)
		for range 300 {
			switch rand.N(4) {
			case 0:
				now += rand.N(time.Duration(float64(time.Second)/rate) + 2)
			case 1:
				now = max(1, now-rand.N(time.Second)) // a clock that steps back
			}
			if now > high {
				model = min(float64(burst), model+rate*(now-high).Seconds())
				high = now
			}
			ok := b.take(now)
			switch {
			case ok && model < 1-1e-6:
				t.Fatalf("rate %v burst %d: gave one although %v were there", rate, burst, model)
			case !ok && model > 1+1e-6:
				t.Fatalf("rate %v burst %d: refused although %v were there", rate, burst, model)
			}
			if ok {
				model--
				taken = append(taken, high)
			}
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				if n, most := float64(j-i+1), float64(burst)+rate*(taken[j]-taken[i]).Seconds()+1e-6; n > most {
					t.Fatalf("rate %v burst %d: %v in %v", rate, burst, n, taken[j]-taken[i])
				}
			}
		}
	}
	var off bucket
	for range 1000 {
		if !off.take(1) {
			t.Fatal("no limit refused")
		}
	}
}

func TestCtxWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fired atomic.Int32
		var last atomic.Value
		w := ctxWatch{fire: func(done <-chan struct{}) { fired.Add(1); last.Store(done) }}

		w.watch(context.Background())
		ctx, cancel := context.WithCancel(context.Background())
		for range 1000 {
			w.watch(ctx)
		}
		type key struct{}
		w.watch(context.WithValue(ctx, key{}, 1)) // the same Done
		cancel()
		synctest.Wait()
		if n := fired.Load(); n != 1 || last.Load() != ctx.Done() {
			t.Fatalf("1,000 times the same context: fired %d times, with %v", n, last.Load())
		}
		w.watch(ctx) // ended already: the caller asks ctx.Err
		synctest.Wait()
		if n := fired.Load(); n != 1 {
			t.Fatalf("fired %d times", n)
		}

		// One that was replaced does not fire.
		old, cancelOld := context.WithCancel(context.Background())
		next, cancelNext := context.WithCancel(context.Background())
		w.watch(old)
		w.watch(next)
		cancelOld()
		synctest.Wait()
		if n := fired.Load(); n != 1 {
			t.Fatalf("fired %d times after a context that was replaced", n)
		}
		w.watch(old) // already ended: fires, with its own Done
		synctest.Wait()
		if last.Load() != old.Done() {
			t.Fatal("one that has ended already does not fire")
		}
		w.watch(next)
		cancelNext()
		synctest.Wait()
		if last.Load() != next.Done() {
			t.Fatal("the last one does not fire")
		}

		ctx, cancel = context.WithCancel(context.Background())
		w.watch(ctx)
		w.clear()
		n := fired.Load()
		cancel()
		synctest.Wait()
		if fired.Load() != n {
			t.Fatal("fired after clear")
		}
	})
}

func TestCtxWatchAllocs(t *testing.T) {
	w := ctxWatch{fire: func(<-chan struct{}) {}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.watch(ctx)
	if n := testing.AllocsPerRun(10_000, func() { w.watch(ctx) }); n != 0 {
		t.Errorf("a context that is watched already: %v allocations", n)
	}
	w.clear()
}

// narrow is a net.Conn that takes room bytes and then waits for its deadline:
// no kernel can be kept full to the last byte.
type narrow struct {
	mu      sync.Mutex
	changed *sync.Cond
	room    int
	by      time.Time
	got     []byte
	net.Conn
}

func newNarrow(room int) *narrow {
	n := &narrow{room: room}
	n.changed = sync.NewCond(&n.mu)
	return n
}

func (n *narrow) Write(p []byte) (k int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		if !n.by.IsZero() && !time.Now().Before(n.by) {
			return k, os.ErrDeadlineExceeded
		}
		m := min(n.room, len(p)-k)
		n.got = append(n.got, p[k:k+m]...)
		n.room -= m
		if k += m; k == len(p) {
			return k, nil
		}
		n.changed.Wait()
	}
}

func (n *narrow) SetWriteDeadline(t time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.by = t
	n.changed.Broadcast()
	if d := time.Until(t); !t.IsZero() && d > 0 {
		time.AfterFunc(d, n.changed.Broadcast)
	}
	return nil
}

func (n *narrow) widen(room int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.room += room
	n.changed.Broadcast()
}

func (n *narrow) Read([]byte) (int, error)        { return 0, io.EOF }
func (n *narrow) SetReadDeadline(time.Time) error { return nil }
func (n *narrow) Close() error                    { return nil }
func (n *narrow) taken() string                   { n.mu.Lock(); defer n.mu.Unlock(); return string(n.got) }

// full returns a connection to a peer that takes nothing, like TCP's: a write
// that has timed out may go on.
func full() (*Conn, *narrow) {
	n := newNarrow(0)
	c := newConn(n, nil, &Config{WriteTimeout: 4 * time.Second, CloseGrace: time.Second, Linger: time.Second})
	c.resumes = true
	return c, n
}

// Before a byte has left, a Write that is interrupted leaves everything as it
// was: the next one is written, or fails in its own time, and never says that
// it was written when it was not.
func TestWriteInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, size := range []int{0, 1, 100, 5000, 100_000} {
			c, n := full()
			msg := make([]byte, size)
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			for _, ctx := range []context.Context{ended, ended} {
				if err := c.Write(ctx, Text, msg); err != ErrInterrupted {
					t.Fatalf("an ended context: %v", err)
				}
				synctest.Wait()
			}
			for range 3 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				start := time.Now()
				if err := c.Write(ctx, Text, msg); err != ErrInterrupted || time.Since(start) != time.Second {
					t.Fatalf("interrupted: %v after %v", err, time.Since(start))
				}
				cancel()
				synctest.Wait()
			}
			var failed *WriteError
			start := time.Now()
			if err := c.Write(context.Background(), Text, msg); !errors.As(err, &failed) || !failed.Timeout || failed.Broken {
				t.Fatalf("a write that times out after one that was interrupted: %v", err)
			}
			// The timeout is the connection's: it has begun with the first of them.
			if d := time.Since(start); d < time.Second || d > time.Second+time.Millisecond {
				t.Errorf("timed out after %v", d)
			}
			n.widen(1 << 20)
			want := string(appendHeader(nil, Text, size)) + string(msg)
			if err := c.Write(context.Background(), Text, msg); err != nil || n.taken() != want {
				t.Fatalf("then %v, %d bytes", err, len(n.taken()))
			}
		}
	})
}

// endsBroken are hooks that end a broken connection.
type endsBroken struct {
	Hooks
	c *Conn
}

func (e endsBroken) Broken(err error) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if e.c.cause == nil {
		e.c.cause = err
		close(e.c.closing)
	}
}

// Control frames that wait do not make a Write take longer than its time: each
// of them would otherwise have a time of its own.
func TestWriteTimesOutDespiteControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := full()
		c.Serve(endsBroken{c: c})
		stop := make(chan struct{})
		go func() { // a peer that pings and reads nothing
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					c.pong([]byte("are you there"))
				}
			}
		}()
		time.Sleep(10 * time.Millisecond)
		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- c.Write(context.Background(), Text, []byte("x")) }()
		select {
		case err := <-done:
			var failed *WriteError
			if d := time.Since(start); !errors.As(err, &failed) || !failed.Timeout || d > 5*time.Second {
				t.Errorf("a Write with 4 s returned after %v: %v", d, err)
			}
		case <-time.After(time.Minute):
			t.Error("a Write with 4 s has not returned after a minute")
		}
		close(stop)
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// A write that was given less than its time by the deadline of an earlier one
// gets the rest.
func TestWriteGetsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := full()
		n.widen(10)
		if err := c.Write(context.Background(), Text, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		n.mu.Lock()
		n.room = 1
		n.mu.Unlock()
		go func() { time.Sleep(3900 * time.Millisecond); n.widen(1000) }()
		start := time.Now()
		if err := c.Write(context.Background(), Text, []byte("hello")); err != nil {
			t.Errorf("a write that needed %v of 4 s: %v", time.Since(start), err)
		}
		if got, want := n.taken(), "\x81\x00\x81\x05hello"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}
