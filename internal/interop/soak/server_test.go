package soak_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
)

// origin is that of the pages that may connect.
const origin = "https://app.example.com"

// What a server does with a connection depends on the path of its handshake.
const (
	pathEcho  = "/echo"  // it sends each message back
	pathBurst = "/burst" // it answers each message with burst numbered messages
	pathFeed  = "/feed"  // it sends numbered messages of feedBytes, one behind the other
)

const (
	burst     = 300
	feedBytes = 16 << 10
	// maxMessage is the default of wsguard. All servers have it.
	maxMessage = 32 << 10
)

// message returns a numbered message of about size bytes.
func message(n, size int) []byte {
	msg := make([]byte, 0, max(size, 64))
	msg = fmt.Appendf(msg, `{"seq":%d,"text":"`, n)
	if rest := size - len(msg) - 2; rest > 0 {
		msg = append(msg, filling[:rest]...)
	}
	return append(msg, `"}`...)
}

var filling = strings.Repeat("abcdefghijklmnopqrstuvwxyz", 1+maxMessage/26)

// schema describes what message returns.
const schema = `{
	"type": "object", "additionalProperties": false, "required": ["seq", "text"],
	"properties": {"seq": {"type": "integer"}, "text": {"type": "string"}}
}`

// server is one way to serve the three paths.
type server struct {
	name string
	// handler returns the handler, and for a guarded server its Guard.
	handler func(*record) (http.Handler, *wsguard.Guard)
}

// The guarded servers.
const (
	throughHandler = "wsguard, Guard.Handler"
	throughWrap    = "wsguard, Guard.Wrap"
)

var servers = []server{
	{throughHandler, handlerServer},
	{throughWrap, wrapServer},
	{"gorilla", func(*record) (http.Handler, *wsguard.Guard) { return known(gorillaHandler()), nil }},
	{"coder/websocket", func(*record) (http.Handler, *wsguard.Guard) { return known(coderHandler(coderCareful)), nil }},
	{"gws", func(*record) (http.Handler, *wsguard.Guard) { return known(gwsHandler()), nil }},
}

// subject returns the user whom a token stands for. Good clients and attackers have tokens
// that differ in nothing but the name.
func subject(token string) (string, bool) {
	name, ok := strings.CutPrefix(token, "token-of-")
	return name, ok
}

// known refuses clients without a token and pages of another origin.
func known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o := r.Header.Get("Origin"); o != "" && o != origin {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if _, ok := subject(token); !ok {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ofGood ends what record says of a good client.
const ofGood = " (a good client)"

// record counts the events of a Guard by their kind and reason.
type record struct {
	mu     sync.Mutex
	counts map[string]int // guarded by mu
}

func (r *record) add(e audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	if e.Kind == audit.Open || e.Kind == audit.Accepted {
		return
	}
	what := fmt.Sprintf("%s %s", e.Kind, e.Reason)
	if strings.HasPrefix(e.Subject, "good-") {
		what += ofGood
	}
	r.counts[what]++
}

func (r *record) snapshot() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[string]int, len(r.counts))
	maps.Copy(counts, r.counts)
	return counts
}

// newGuard has the default of nearly every limit.
func newGuard(r *record) *wsguard.Guard {
	s, err := wsguard.CompileSchema([]byte(schema))
	if err != nil {
		panic(err)
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{origin},
		Auth: wsguard.AuthConfig{Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
			name, ok := subject(token)
			if !ok {
				return wsguard.Principal{}, errors.New("no such token")
			}
			return wsguard.Principal{Subject: name}, nil
		}},
		// A third of the clients come from one address.
		Rates:    wsguard.RateConfig{MaxInFlightPerClient: 128},
		Messages: wsguard.MessageConfig{Validator: s},
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
		OnEvent:  r.add,
	})
	if err != nil {
		panic(err)
	}
	return guard
}

func handlerServer(r *record) (http.Handler, *wsguard.Guard) {
	guard := newGuard(r)
	mux := http.NewServeMux()
	mux.Handle(pathEcho, guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			typ, msg, err := c.Read(ctx)
			if err == nil {
				err = c.Write(ctx, typ, msg)
			}
			if err != nil {
				return err
			}
		}
	}))
	mux.Handle(pathBurst, guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			if _, _, err := c.Read(ctx); err != nil {
				return err
			}
			for n := range burst {
				if err := c.Send(wsguard.MessageText, message(n, 0)); err != nil {
					return err
				}
			}
		}
	}))
	mux.Handle(pathFeed, guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		c.CloseRead()
		for n := 0; ; n++ {
			if err := c.Write(ctx, wsguard.MessageText, message(n, feedBytes)); err != nil {
				return err
			}
		}
	}))
	return mux, guard
}

func wrapServer(r *record) (http.Handler, *wsguard.Guard) {
	guard := newGuard(r)
	return guard.Wrap(coderHandler(coderPlain)), guard
}

// greeting is the first line of a server.
type greeting struct {
	Addr, TLSAddr string
	Certificate   []byte // of the server at TLSAddr
}

// What a server is asked.
const (
	askState    = "state"
	askShutdown = "shutdown" // the same, after Guard.Shutdown
)

// state is the answer of a server.
type state struct {
	Conns      int // slots held; 0 for a server without a Guard
	Goroutines int
	CPU        time.Duration  // user and system
	Heap       int64          // bytes of objects, after a collection
	Events     map[string]int // of the Guard, by kind and reason
	Shutdown   string         // the error of Guard.Shutdown
}

func serverMain(name string, in *bufio.Scanner, out *json.Encoder) error {
	for _, s := range servers {
		if s.name == name {
			return s.serve(in, out)
		}
	}
	return fmt.Errorf("no server %q", name)
}

func (s server) serve(in *bufio.Scanner, out *json.Encoder) error {
	var r record
	handler, guard := s.handler(&r)
	configured := func() *httptest.Server {
		srv := httptest.NewUnstartedServer(handler)
		srv.Config.ReadHeaderTimeout = 10 * time.Second // of a TLS handshake as well, on a busy machine
		srv.Config.IdleTimeout = time.Minute
		srv.Config.MaxHeaderBytes = 16 << 10
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		return srv
	}
	plain, secure := configured(), configured()
	plain.Start()
	secure.StartTLS()
	if err := out.Encode(greeting{plain.Listener.Addr().String(), secure.Listener.Addr().String(), secure.Certificate().Raw}); err != nil {
		return err
	}
	for in.Scan() {
		var question string
		if err := json.Unmarshal(in.Bytes(), &question); err != nil {
			return err
		}
		var now state
		if question == askShutdown && guard != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			if err := guard.Shutdown(ctx); err != nil {
				now.Shutdown = err.Error()
			}
			cancel()
		}
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			return err
		}
		now.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		// What a pool holds is dropped by the second collection.
		runtime.GC()
		runtime.GC()
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		now.Heap, now.Goroutines, now.Events = int64(ms.HeapAlloc), runtime.NumGoroutine(), r.snapshot()
		if guard != nil {
			now.Conns = guard.Conns()
		}
		if err := out.Encode(now); err != nil {
			return err
		}
	}
	return in.Err()
}
