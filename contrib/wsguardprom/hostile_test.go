package wsguardprom

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// pipe is a ResponseWriter whose Hijack gives one end of a pipe away.
type pipe struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (p *pipe) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return p.conn, bufio.NewReadWriter(bufio.NewReader(p.conn), bufio.NewWriter(p.conn)), nil
}

// request returns a handshake from a random address.
func request(origin, path, subprotocol string) *http.Request {
	r := &http.Request{
		Method: "GET", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "app.example.com", Body: http.NoBody,
		URL: httptest.NewRequest("GET", "/", nil).URL, RemoteAddr: fmt.Sprintf("[2001:db8:%x:%x::1]:4711", rand.N(1<<16), rand.N(1<<16)),
		Header: http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
			"Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}, "Origin": {origin},
		},
	}
	r.URL.Path = path
	if subprotocol != "" {
		r.Header.Set("Sec-WebSocket-Protocol", subprotocol)
	}
	return r
}

// noLimits lets one test be many clients.
func noLimits(cfg *wsguard.Config) {
	off := wsguard.Rate{PerSecond: wsguard.Off}
	cfg.Rates.Handshakes, cfg.Rates.Messages, cfg.Rates.Bytes = off, off, off
	cfg.Rates.MaxInFlight, cfg.Rates.MaxInFlightPerClient = wsguard.Off, wsguard.Off
	cfg.Caps.MaxConnsPerClient = wsguard.Off
}

// Nothing that a peer sends adds a series: neither origins, paths, hosts and subprotocols, nor
// close codes and their texts, nor messages.
func TestHostile(t *testing.T) {
	n := 50_000 // behind each door
	if testing.Short() {
		n = 4000
	}
	eachDoor(t, func(t *testing.T, door func(*wsguard.Guard) http.Handler) {
		g := newGuard(t, noLimits, func(cfg *wsguard.Config) { cfg.Subprotocols = []string{"chat"} })
		c, h := New(g, Options{}), door(g)
		before := series(gather(t, c))
		random := func() string { return fmt.Sprintf("%x", rand.Uint64()) }
		var peers sync.WaitGroup
		for i := range n {
			switch i % 20 {
			default:
				r := request("https://"+random()+".example", "/"+random(), random())
				h.ServeHTTP(&pipe{httptest.NewRecorder(), nil}, r)
			case 1:
				r := request(origin, "/"+random(), "chat, "+random())
				r.Host = random()
				client, server := net.Pipe()
				peers.Go(func() { misbehave(wstest.NewClient(t, client), random()) })
				h.ServeHTTP(&pipe{httptest.NewRecorder(), server}, r)
				peers.Wait()
			}
		}
		if s := g.Stats(); s.HandshakesAccepted != uint64(n/20) || s.HandshakesRefused["origin"] != uint64(n-n/20) {
			t.Fatalf("%d accepted, and refused: %v", s.HandshakesAccepted, s.HandshakesRefused)
		}
		after := series(gather(t, c))
		if !slices.Equal(before, after) {
			for _, name := range after {
				if !slices.Contains(before, name) {
					t.Errorf("a new series: %s", name)
				}
			}
			t.Errorf("%d series before, %d after", len(before), len(after))
		}
	})
}

// misbehave is a peer that reads its 101 and then closes with any code, breaks a rule, or leaves.
func misbehave(c *wstest.Client, text string) {
	defer c.Close()
	if _, err := c.ReadResponse(); err != nil {
		return
	}
	closing := func(code int) wstest.Frame {
		return wstest.Frame{Fin: true, Masked: true, Opcode: wstest.OpClose, Payload: append(binary.BigEndian.AppendUint16(nil, uint16(code)), text...)}
	}
	f := closing(rand.N(1 << 16))
	switch rand.N(10) {
	case 0:
		f = wstest.Frame{Fin: true, Masked: true, RSV: 1 + byte(rand.N(7)), Opcode: byte(rand.N(16)), Payload: []byte(text)}
	case 1:
		f = wstest.Text("\xff" + text)
	case 2:
		f = wstest.Binary([]byte(text))
	case 3:
		f = closing(1000 + rand.N(15))
	case 4:
		f = closing(3000 + rand.N(2000))
	case 5:
		return
	}
	go c.Write(wstest.AppendFrame(wstest.AppendFrame(nil, f), closing(1000)))
	c.ReadClose()
}

// The application adds few series, however many reasons and close codes of its own it has.
func TestOwnReasons(t *testing.T) {
	g := newGuard(t, noLimits, func(cfg *wsguard.Config) {
		cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) {
			return nil, reason.New(fmt.Sprintf("own_%d", rand.Uint64()), "a reason that is made again and again", 4000)
		}
	})
	c, h := New(g, Options{}), doors["handler"](g)
	before := len(series(gather(t, c)))
	for range 1000 {
		h.ServeHTTP(&pipe{httptest.NewRecorder(), nil}, request(origin, "/", ""))
	}
	if more := len(series(gather(t, c))) - before; more != 65 {
		t.Errorf("%d more series, want 64 and one for all others", more)
	}

	// What a Snapshot tells apart, and a label does not, is added up.
	s := full()
	s.Closed = map[audit.Closing]uint64{
		{By: audit.ByApplication, Code: 1000}: 1, {Reason: "handler_done", By: audit.ByApplication, Code: 1000}: 2,
	}
	if got := closed(&s); len(got) != 1 || got[closing(audit.ByApplication, "", 1000)] != 3 {
		t.Errorf("%v", got)
	}
}

// Scrapes and traffic do not disturb each other.
func TestRace(t *testing.T) {
	eachDoor(t, func(t *testing.T, door func(*wsguard.Guard) http.Handler) {
		g := newGuard(t, noLimits)
		c := New(g, Options{})
		s := wstest.Serve(t, door(g))
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(c)
		stop := make(chan struct{})
		var scrapers, clients sync.WaitGroup
		for range 2 {
			scrapers.Go(func() {
				for last := 0.0; ; {
					select {
					case <-stop:
						return
					default:
					}
					families, err := r.Gather()
					if err != nil {
						t.Error(err)
						return
					}
					for _, f := range families {
						if f.GetName() != "wsguard_messages_total" {
							continue
						}
						if now := f.Metric[0].Counter.GetValue(); now < last {
							t.Errorf("a counter falls from %v to %v", last, now)
						} else {
							last = now
						}
					}
				}
			})
		}
		for range 4 {
			clients.Go(func() {
				ws, _, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
				if err != nil {
					t.Error(err)
					return
				}
				defer ws.Close(1000, "")
				for range 100 {
					if err := ws.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
						t.Error(err)
					}
					if _, _, err := ws.Read(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		clients.Wait()
		close(stop)
		scrapers.Wait()
		if in := g.Stats().In.Messages; in != 400 {
			t.Errorf("%d messages", in)
		}
	})
}

// allocations returns how often a scrape allocates.
func allocations(g *wsguard.Guard) float64 {
	c := New(g, Options{})
	out := make(chan prometheus.Metric, 10_000)
	return testing.AllocsPerRun(20, func() {
		c.Collect(out)
		for len(out) > 0 {
			<-out
		}
	})
}

// A scrape costs the same, however many clients there are, and at most ten allocations per
// series.
func TestCost(t *testing.T) {
	g := newGuard(t, noLimits)
	h := doors["handler"](g)
	few := allocations(g)
	for range 5000 {
		h.ServeHTTP(&pipe{httptest.NewRecorder(), nil}, request("https://evil.example", "/", ""))
	}
	many, n := allocations(g), float64(len(series(gather(t, New(g, Options{})))))
	t.Logf("%v series, %v allocations, and %v with many clients", n, few, many)
	if many > few+10 || few > 10*n {
		t.Errorf("%v series: %v allocations, and %v with many clients", n, few, many)
	}
}

func BenchmarkCollect(b *testing.B) {
	g := newGuard(b)
	c := New(g, Options{})
	out := make(chan prometheus.Metric, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		c.Collect(out)
		for len(out) > 0 {
			<-out
		}
	}
}
