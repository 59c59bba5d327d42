package proxies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// rows stands for the application's database. It holds the messages and the tickets.
type rows struct {
	addr string

	mu       sync.Mutex
	messages map[string]int    // guarded by mu: how often each message came
	order    []string          // guarded by mu: the messages that were stored
	tickets  map[string][]byte // guarded by mu
	gate     chan struct{}     // guarded by mu: while it is there, messages wait until it is closed
	waiting  int               // guarded by mu: messages that wait
}

func openRows(t *testing.T) *rows {
	t.Helper()
	r := &rows{messages: map[string]int{}, tickets: map[string][]byte{}}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	r.addr = srv.Listener.Addr().String()
	return r
}

func (r *rows) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	value, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	key := req.URL.Query().Get("key")
	if req.URL.Path == "/message" {
		r.message(req.Context(), key)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch req.URL.Path {
	case "/put":
		r.tickets[key] = value
	case "/take":
		w.Write(r.tickets[key])
		delete(r.tickets, key)
	default:
		http.NotFound(w, req)
	}
}

// message inserts a message, and does nothing if the ID exists. While there is a gate, every other
// message waits before it is inserted, and the rest wait afterwards. A message whose instance is gone
// meanwhile is not inserted.
func (r *rows) message(ctx context.Context, id string) {
	insert := func() {
		if r.messages[id]++; r.messages[id] == 1 {
			r.order = append(r.order, id)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gate == nil {
		insert()
		return
	}
	gate, before := r.gate, r.waiting%2 == 0
	r.waiting++
	if !before {
		insert()
	}
	r.mu.Unlock()
	select {
	case <-gate:
	case <-ctx.Done():
	}
	r.mu.Lock()
	if before && ctx.Err() == nil {
		insert()
	}
}

// shut lets messages wait, and returns when n of them do.
func (r *rows) shut(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	r.gate, r.waiting = make(chan struct{}), 0
	r.mu.Unlock()
	waitFor(t, "messages wait", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.waiting >= n
	})
}

// open ends what shut has begun.
func (r *rows) open() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.gate)
	r.gate = nil
}

func (c certificate) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	chain, err := os.ReadFile(filepath.Join(c.dir, "fullchain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// flags are those with which Chromium accepts the key of the certificate, and no other
// certificate that it cannot verify. The names of hosts lead to this machine.
func (c certificate) flags(t *testing.T) []string {
	t.Helper()
	sum := sha256.Sum256(c.leaf(t).RawSubjectPublicKeyInfo)
	return []string{
		"--ignore-certificate-errors-spki-list=" + base64.StdEncoding.EncodeToString(sum[:]),
		"--host-resolver-rules=MAP * 127.0.0.1",
	}
}

// rolling is two instances behind nginx, and browsers in front of it.
type rolling struct {
	t     *testing.T
	db    *rows
	logs  string // the directory of nginx's logs
	both  [2]instance
	procs [2]*process
	b     *browser.Browser
	f     *browser.Firefox // nil if none is installed
	pages []tab
}

// tab is a page in either browser.
type tab interface {
	Eval(script string) any
	Wait(condition string)
}

func startRolling(t *testing.T) *rolling {
	t.Helper()
	browser.Find(t)
	s := &rolling{t: t, db: openRows(t), logs: t.TempDir()}
	for i := range s.both {
		s.both[i] = instance{Addr: "127.0.0.1:" + freePort(t), Database: s.db.addr, Wrap: i == 1}
	}
	r := startNginx(t, s.logs, s.both[0].Addr, s.both[1].Addr)
	for i := range s.both {
		s.both[i].Origin = origin + ":" + r.https
		s.procs[i] = s.both[i].start(t)
	}
	s.b = browser.Start(t, r.cert.flags(t)...)
	for i := range 3 {
		s.open(s.b.Open(s.address(fmt.Sprintf("tab%d", i), 1, 200)))
	}
	s.open(s.b.Open(s.address("crowd", 50, 1000)))
	if s.f = browser.StartFirefox(t, host+":"+r.https, r.cert.leaf(t)); s.f != nil {
		s.open(s.f.Open(s.address("fox", 1, 200)))
	} else {
		t.Log("no Firefox is installed, so only Chromium shows that pages come back")
	}
	return s
}

// The blocks of docs/operations.md in the language nginx, in their order.
const (
	blockServer = iota
	blockCDN
	blockLogFormat
	blockLogs
	blockUpstream
	blockLocations
)

// startNginx starts nginx with the blocks of the page for two servers.
func startNginx(t *testing.T, logs string, first, second string) *run {
	t.Helper()
	nginx := blocks(t, "nginx")
	block := withLogs(t, nginx, logs) + substitute(t, nginx[blockUpstream], "127.0.0.1:8080", first, "127.0.0.1:8081", second)
	block = substitute(t, block, "http://127.0.0.1:8080", "http://app", "\tlocation = /ws {", nginx[blockLocations]+"\tlocation = /ws {")
	return allProxies[0].start(t, block)
}

// withLogs returns the block of a server, with those of its logs. They are written to the directory logs.
func withLogs(t *testing.T, nginx []string, logs string) string {
	t.Helper()
	lines := substitute(t, nginx[blockLogs], "/var/log/nginx", logs)
	return nginx[blockLogFormat] + substitute(t, nginx[blockServer], "\tlocation = /ws {", lines+"\tlocation = /ws {")
}

// noTickets fails the test if there is a ticket in the logs of nginx, or if the access log lacks an entry.
func noTickets(t *testing.T, logs string, entries ...string) {
	t.Helper()
	access, err := os.ReadFile(filepath.Join(logs, "app.log"))
	if err != nil {
		t.Fatal(err)
	}
	errs, err := os.ReadFile(filepath.Join(logs, "app-error.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !bytes.Contains(access, []byte(entry)) {
			t.Errorf("the access log lacks %s", entry)
		}
	}
	for _, line := range strings.Split(string(access)+string(errs), "\n") {
		if strings.Contains(line, "ticket=") {
			t.Errorf("there is a ticket in the log: %s", line)
		}
	}
}

// address is that of a page whose clients send a message each in every so many milliseconds.
func (s *rolling) address(name string, clients, every int) string {
	return fmt.Sprintf("%s/?name=%s&clients=%d&every=%d", s.both[0].Origin, name, clients, every)
}

// open waits until the clients of a page are connected.
func (s *rolling) open(p tab) {
	s.t.Helper()
	p.Wait("globalThis.roll?.all('open') === true && roll.acked() > 2")
	if p.Eval("document.visibilityState") != "visible" {
		s.t.Error("the page is hidden, so it waits longer")
	}
	s.pages = append(s.pages, p)
}

// back waits until all clients are connected, and each has more messages acknowledged than before.
func (s *rolling) back() {
	s.t.Helper()
	for _, p := range s.pages {
		p.Eval("roll.before = roll.acked()")
	}
	for _, p := range s.pages {
		p.Wait("roll.all('open') && roll.acked() > roll.before + 2")
	}
}

// wait is a wait of a client for its next attempt.
type wait struct {
	Code          int
	Reason, Why   string
	Delay, Lasted float64 // milliseconds
}

// figures are what a client says at the end.
type figures struct {
	Name, State   string
	Acked         []string
	Waits         []wait
	Opened        int
	Made, Unacked int
}

// figures stops the pages, waits until everything is acknowledged, and returns what the clients say.
func (s *rolling) figures() (all []figures) {
	s.t.Helper()
	for _, p := range s.pages {
		p.Eval("roll.quiet()")
	}
	for _, p := range s.pages {
		p.Wait("roll.settled()")
		var fs []figures
		if err := json.Unmarshal([]byte(p.Eval("JSON.stringify(roll.figures())").(string)), &fs); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, fs...)
	}
	return all
}

// check compares what the clients say with the database: every message is there once, also
// each that was acknowledged, and nothing else. It returns how many came again.
func (s *rolling) check(all []figures) (again int) {
	s.t.Helper()
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	stored := map[string]int{}
	for _, id := range s.db.order {
		stored[id]++
	}
	made := 0
	for _, times := range s.db.messages {
		again += times - 1
	}
	for _, f := range all {
		made += f.Made
		if f.State != "open" || len(f.Acked) != f.Made {
			s.t.Errorf("%s is %s, and %d of its %d messages are acknowledged", f.Name, f.State, len(f.Acked), f.Made)
		}
		for _, id := range f.Acked {
			if stored[id] != 1 {
				s.t.Errorf("%s was acknowledged, and is stored %d times", id, stored[id])
			}
		}
	}
	if len(stored) != made || len(s.db.order) != made {
		s.t.Errorf("%d messages were made, and %d are stored", made, len(s.db.order))
	}
	s.t.Logf("%d messages of %d clients, %d of them came again", made, len(all), again)
	return again
}

// checkWaits compares the waits of a client with the rules of client/js/README.md, and its closes with
// those that the test expects.
func (s *rolling) checkWaits(f figures, codes ...string) {
	s.t.Helper()
	ceiling := 5_000.0
	for _, w := range f.Waits {
		if w.Lasted > 11_000 { // beyond doubt longer than stableAfter
			ceiling = 5_000
		}
		least, most := 0.0, ceiling
		if w.Code == 1012 {
			least, most = 500, 500+ceiling
		}
		// The client computes the wait a moment before the page is told.
		if w.Delay < least-100 || w.Delay > most {
			s.t.Errorf("%s waits for %.0f ms after %d %q, want %.0f to %.0f", f.Name, w.Delay, w.Code, w.Reason, least, most)
		}
		if got := strings.TrimSpace(fmt.Sprint(w.Code, " ", w.Reason)); w.Lasted == 0 || !slices.Contains(codes, got) {
			s.t.Errorf("%s waits after %q (%s), and was open for %.0f ms", f.Name, got, w.Why, w.Lasted)
		}
		ceiling = min(2*ceiling, 30_000)
	}
	if f.Opened != len(f.Waits)+1 {
		s.t.Errorf("%s has waited %d times and has opened %d times", f.Name, len(f.Waits), f.Opened)
	}
}

// Two instances behind nginx are restarted one after the other, while pages send. No message is
// lost, each page comes back at its first attempt, and no console has a red line.
func TestNightlyRollingRestart(t *testing.T) {
	wstest.Nightly(t)
	s := startRolling(t)
	for i := range s.procs {
		s.procs[i].drain(t)
		s.back() // with one instance
		s.procs[i] = s.both[i].start(t)
	}
	s.back()
	all := s.figures()
	s.check(all)
	waits := 0
	for _, f := range all {
		s.checkWaits(f, "1012 draining")
		waits += len(f.Waits)
	}
	if waits < len(all) { // all of them were at one of the instances
		t.Errorf("%d clients have waited %d times", len(all), waits)
	}
	s.b.NoRed()
	if s.f != nil {
		s.f.NoErrors()
	}
	noTickets(t, s.logs, `"GET /ws" 101`, `"POST /ticket" 200`)
}

// An instance is killed while it has messages that it has not stored, and messages that it has stored
// and not acknowledged. No acknowledged message is lost, none is there twice, and the clients come back to
// the other instance.
func TestNightlyKilledInstance(t *testing.T) {
	wstest.Nightly(t)
	s := startRolling(t)
	for i := range s.procs {
		s.db.shut(t, 40)
		s.procs[i].kill()
		s.db.open()
		s.back()
		s.procs[i] = s.both[i].start(t)
	}
	s.back()
	if s.check(s.figures()) == 0 {
		t.Error("no message came again, so this test shows nothing")
	}
	noTickets(t, s.logs, `"GET /ws" 101`, `"POST /ticket" 200`)
}
