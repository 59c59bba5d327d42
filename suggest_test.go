package wsguard_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
)

// suggested returns the suggestion for a field.
func suggested(t *testing.T, g *wsguard.Guard, field string) audit.Suggestion {
	t.Helper()
	for _, s := range g.Suggest() {
		if s.Field == field {
			return s
		}
	}
	t.Errorf("no suggestion for %s", field)
	return audit.Suggestion{}
}

// set sets the field of cfg that s is about, as its reader would.
func set(cfg *wsguard.Config, s audit.Suggestion) {
	v := reflect.ValueOf(cfg).Elem()
	for _, name := range strings.Split(s.Field, ".") {
		v = v.FieldByName(name)
	}
	switch v.Interface().(type) {
	case wsguard.Rate:
		v.Set(reflect.ValueOf(wsguard.Rate{PerSecond: s.Value.PerSecond, Burst: s.Value.Burst}))
	case time.Duration:
		v.SetInt(int64(s.Value.Duration))
	default:
		v.SetInt(s.Value.Number)
	}
}

// percentile is the exact one.
func percentile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[max(0, int(math.Ceil(q*float64(len(values))))-1)]
}

// near checks that a percentile is exact, or at most an eighth too large.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want || got > want*1.125+1e-9 {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func observing() wsguard.Config {
	return wsguard.Config{
		Observe:  true,
		Auth:     wsguard.AuthConfig{Verifier: anyone, InsecureAnonymous: true},
		Messages: wsguard.MessageConfig{MaxBytes: 100 << 10, Timeout: wsguard.Off},
		Timeouts: wsguard.TimeoutConfig{PingInterval: wsguard.Off},
	}
}

// The percentiles are those of what the clients do.
func TestSuggestPercentiles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveWith(t, observing(), func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		c := e.open(bearer("alice"))
		time.Sleep(100 * time.Millisecond) // never when the sweeper looks
		rng := rand.New(rand.NewPCG(1, 2))
		var counts, bytes, sizes, gaps []float64
		for range 2000 {
			n := 1 + rng.IntN(5)
			if rng.IntN(50) == 0 {
				n = 40
			}
			sum := 0
			for range n {
				size := 1 + rng.IntN(1000)
				roundTrip(t, c, strings.Repeat("x", size))
				sizes = append(sizes, float64(size))
				sum += size
			}
			counts, bytes = append(counts, float64(n)), append(bytes, float64(sum))
			gap := time.Duration(1+rng.IntN(30)) * time.Second
			gaps = append(gaps, gap.Seconds())
			time.Sleep(gap)
		}
		for field, want := range map[string][]float64{
			"Rates.Messages": counts, "Rates.ClientMessages": counts, "Rates.SubjectMessages": counts,
			"Rates.Bytes": bytes, "Rates.ClientBytes": bytes, "Rates.SubjectBytes": bytes,
			"Messages.MaxBytes": sizes, "Timeouts.Idle": gaps,
		} {
			s := suggested(t, e.g, field)
			near(t, field+" Percentile99", s.Percentile99, percentile(want, 0.99))
			near(t, field+" Percentile999", s.Percentile999, percentile(want, 0.999))
			if off := int(s.Observations) - len(want); off < -1 || off > 1 {
				t.Errorf("%s: %d observations, want %d", field, s.Observations, len(want))
			}
		}
		if s := suggested(t, e.g, "Rates.Messages"); s.Short != (s.Observed < 24*time.Hour) || s.Value.Burst < 40 {
			t.Errorf("%+v", s)
		}
		c.Close()
	})
}

// The connections of clients and subjects are counted when one of them opens.
func TestSuggestCaps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := observing()
		cfg.Caps = wsguard.CapConfig{MaxConns: 40, MaxConnsPerClient: 3, MaxConnsPerSubject: 2}
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		for range 5 {
			e.open(header())
		}
		for i := range 40 {
			e.open(bearer(fmt.Sprint("user", i/4)))
		}
		synctest.Wait()
		got := reports(t, e.events.all())
		for field, want := range map[string]struct {
			top, refused int
		}{
			"Caps.MaxConns":           {45, 5},
			"Caps.MaxUsersPerClient":  {45, 35}, // for all clients of the test are one
			"Caps.MaxConnsPerSubject": {4, 20},
			"Caps.MaxConnsPerClient":  {5, 2},
		} {
			s := suggested(t, e.g, field)
			near(t, field, s.Percentile999, float64(want.top))
			if int(s.Refused) != want.refused {
				t.Errorf("%s: %d refused, want %d", field, s.Refused, want.refused)
			}
		}
		all := 0
		for _, s := range e.g.Suggest() {
			if strings.HasPrefix(s.Field, "Caps.") {
				all += int(s.Refused)
			}
		}
		if n := got["max_conns"] + got["max_client_conns"] + got["max_subject_conns"]; all != n {
			t.Errorf("%d refused, and %d reported: %v", all, n, got)
		}
	})
}

// act is what a client does: it waits, and sends a message of some bytes.
type act struct {
	wait  time.Duration
	bytes int
}

// services are days of synthetic services, as what one client does.
var services = map[string]func(rng *rand.Rand) []act{
	"chat": func(rng *rand.Rand) (acts []act) {
		for range 150 {
			acts = append(acts, act{time.Duration(rng.ExpFloat64() * float64(20*time.Second)), 20 + rng.IntN(400)})
			for range rng.IntN(4) {
				acts = append(acts, act{time.Duration(rng.IntN(2000)) * time.Millisecond, 1 + rng.IntN(2000)})
			}
		}
		return acts
	},
	"game": func(rng *rand.Rand) (acts []act) {
		for range 4 {
			acts = append(acts, act{time.Duration(rng.IntN(300)) * time.Second, 100})
			for range 300 {
				acts = append(acts, act{50 * time.Millisecond, 40 + rng.IntN(40)})
			}
		}
		return acts
	},
	"telemetry": func(rng *rand.Rand) (acts []act) {
		for range 15 {
			acts = append(acts, act{time.Minute, 30 << 10})
			for range 10 {
				acts = append(acts, act{0, 1 << 10})
			}
		}
		return acts
	},
}

// day lets 25 clients do what a service does, and returns how many messages they have sent.
func day(t *testing.T, e *env, service func(*rand.Rand) []act) (sent int) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range 25 {
		c := e.open(bearer(fmt.Sprint("user", i/2))) // one by one: how many are under way at once would differ from day to day
		wg.Go(func() {
			acts := service(rand.New(rand.NewPCG(7, uint64(i))))
			for _, a := range acts {
				time.Sleep(a.wait)
				roundTrip(t, c, strings.Repeat("x", a.bytes))
			}
			mu.Lock()
			defer mu.Unlock()
			sent += len(acts)
			bye(c)
		})
	}
	wg.Wait()
	synctest.Wait()
	return sent
}

// What Suggest says is a Config, from the first suggestion on. With these limits, the same day
// once more has next to no refusal, and a flood has many.
func TestSuggestReplay(t *testing.T) {
	for name, service := range services {
		t.Run(name, func(t *testing.T) {
			var learned []audit.Suggestion
			bubble(t, func(t *testing.T) {
				e := serveWith(t, observing(), func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
				day(t, e, service)
				learned = e.g.Suggest()
				refused := map[string]uint64{"Rates.": 0, "Messages.": 0, "Timeouts.Idle": 0}
				for _, s := range learned {
					for prefix := range refused {
						if strings.HasPrefix(s.Field, prefix) && s.Field != "Rates.Handshakes" {
							refused[prefix] += s.Refused
						}
					}
				}
				got := reports(t, e.events.all())
				if int(refused["Rates."]) != got["rate_limited"]+got["in_flight"] || int(refused["Messages."]) != got["message_too_big"] || int(refused["Timeouts.Idle"]) != got["idle"] {
					t.Errorf("refused %v, reported %v", refused, got)
				}
			})
			if len(learned) < 10 {
				t.Fatalf("%v", learned)
			}
			bubble(t, func(t *testing.T) {
				cfg := observing()
				cfg.Origins = []string{appOrigin}
				for _, s := range learned {
					set(&cfg, s)
					if _, err := wsguard.New(cfg); err != nil {
						t.Fatalf("after %s: %v", s.Field, err)
					}
					if s.Value == (audit.Setting{}) || s.Percentile999 < s.Percentile99 {
						t.Errorf("%+v", s)
					}
				}
				e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
				sent := day(t, e, service)
				n := 0
				for why, k := range reports(t, e.events.all()) {
					if n += k; k > 0 {
						t.Logf("%s: %d", why, k)
					}
				}
				if n*500 >= sent {
					t.Errorf("%d of %d messages exceed the suggested limits", n, sent)
				}
				c := e.open(header())
				for range 2000 {
					c.WriteFrame(wstest.Text("x"))
					c.ReadMessage()
				}
				if got := reports(t, e.events.all())["rate_limited"]; got < 500 {
					t.Errorf("of a flood %d messages exceed the suggested limits", got)
				}
				c.Close()
			})
		})
	}
}

// A limit that is in force counts what it refuses.
func TestSuggestRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		only := wsguard.Rate{PerSecond: never, Burst: 1}
		cfg := observing()
		cfg.Observe = false
		cfg.Rates = wsguard.RateConfig{ClientMessages: only, Action: wsguard.ActionReply}
		cfg.Messages.MaxBytes = 100
		cfg.Timeouts.Idle = time.Minute
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		c := e.open(header())
		roundTrip(t, c, "x")
		for range 7 {
			c.WriteFrame(wstest.Text("x"))
		}
		c.WriteFrame(wstest.Text(strings.Repeat("x", 101)))
		c.ReadClose()
		time.Sleep(2 * time.Minute)
		c = e.open(header())
		time.Sleep(2 * time.Minute)
		for field, want := range map[string]uint64{"Rates.ClientMessages": 7, "Rates.Messages": 0, "Rates.ClientBytes": 0, "Messages.MaxBytes": 1, "Timeouts.Idle": 1} {
			if s := suggested(t, e.g, field); s.Refused != want {
				t.Errorf("%s: %d refused, want %d", field, s.Refused, want)
			}
		}
		c.Close()
	})
}

// Every limit of Caps, Rates, Send and Timeouts has a suggestion, or is named here.
func TestSuggestFields(t *testing.T) {
	without := map[string]bool{
		"Rates.SentBytes": true, "Rates.WarnAt": true,
		"Messages.MaxFragments": true, "Messages.Timeout": true, "Messages.ControlFrames": true,
		"SpikeFactor": true, "Shared.Timeout": true, "Timeouts.PingInterval": true, "Timeouts.Write": true, "Timeouts.CloseGrace": true, "Timeouts.Linger": true,
	}
	g := must(wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}))
	leaves("", reflect.ValueOf(g.Resolved()), func(name string, q quantity) {
		part, _, _ := strings.Cut(name, ".")
		if part == "Auth" || part == "Penalties" {
			return
		}
		if has := slices.Contains(wsguard.Suggestible(), name); has == without[name] {
			t.Errorf("%s has a suggestion: %t", name, has)
		}
	})
	if got := g.Suggest(); len(got) != 0 {
		t.Errorf("nothing was observed: %v", got)
	}
}

// A Setting is written as Go code.
func TestSettingString(t *testing.T) {
	for want, s := range map[string]audit.Setting{
		"64": {Number: 64}, "32 << 10": {Number: 32 << 10}, "3 << 20": {Number: 3 << 20}, "no limit": {},
		"5 * time.Minute": {Duration: 5 * time.Minute}, "1500 * time.Millisecond": {Duration: 1500 * time.Millisecond},
		"wsguard.Rate{PerSecond: 0.25, Burst: 3}":         {PerSecond: 0.25, Burst: 3},
		"wsguard.Rate{PerSecond: 262144, Burst: 1048576}": {PerSecond: 256 << 10, Burst: 1 << 20},
	} {
		if got := s.String(); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
}

// New accepts the first suggestions, however many of them, whatever was seen and whatever the
// limits are. None is without a limit, or below what was seen of 99.9 %.
func FuzzSuggest(f *testing.F) {
	f.Add(uint64(1), uint64(2), false)
	f.Add(uint64(3), uint64(4), true)
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64, off bool) {
		rng := rand.New(rand.NewPCG(seed1, seed2))
		any := func(n int) int { return 1 + rng.IntN(1<<rng.IntN(n)) }
		cfg := wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}}
		cfg.Caps.MaxConnsPerClient = any(20)
		cfg.Messages.MaxBytes = int64(any(20))
		cfg.Timeouts.PingInterval = time.Duration(any(40) + 2)
		if off {
			none := wsguard.Rate{PerSecond: wsguard.Off}
			cfg.Caps.MaxConnsPerClient, cfg.Timeouts.PingInterval = wsguard.Off, wsguard.Off
			cfg.Rates.Bytes, cfg.Rates.Messages = none, none
		}
		g, err := wsguard.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		must(g.Endpoint(wsguard.EndpointConfig{Messages: wsguard.MessageConfig{MaxBytes: int64(any(20))}}))
		for _, field := range wsguard.Suggestible() {
			for range rng.IntN(4) {
				g.NoteUse(field, rng.Uint64N(1<<rng.IntN(45)+1))
			}
		}
		for _, s := range g.Suggest() {
			set(&cfg, s)
			if err := g.Reconfigure(cfg); err != nil {
				t.Fatalf("after %s: %v", s.Field, err)
			}
			value := max(float64(s.Value.Number), s.Value.Duration.Seconds(), float64(s.Value.Burst))
			if s.Field != "Timeouts.Pong" && s.Field != "Messages.MaxBytes" && value < min(s.Percentile999, 1<<34) || value <= 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// What is sent, and how handshakes come, is observed too.
func TestSuggestHandshakesAndQueues(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := observing()
		cfg.Rates.MaxInFlight = 4
		cfg.Send = wsguard.SendConfig{MaxMessages: 10, DropNewest: true}
		cfg.Timeouts = wsguard.TimeoutConfig{Idle: wsguard.Off, Lifetime: time.Hour}
		cfg.Auth.Verifier = func(ctx context.Context, token string) (wsguard.Principal, error) {
			time.Sleep(100 * time.Millisecond)
			return anyone(ctx, token)
		}
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				go c.Write(ctx, wsguard.MessageText, make([]byte, 1<<20)) // the queue waits until the client reads it
				time.Sleep(time.Millisecond)
				for range 15 {
					c.Send(wsguard.MessageText, []byte("0123456789"))
				}
				return echo(ctx, c)
			})
		})
		time.Sleep(50 * time.Millisecond)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				c := e.open(bearer(fmt.Sprint("user", i/3)))
				time.Sleep(100 * time.Millisecond)
				wantMessage(t, c, string(make([]byte, 1<<20)))
				for range 10 {
					wantMessage(t, c, "0123456789")
				}
				time.Sleep(2 * time.Hour)
				c.Close()
			})
		}
		time.Sleep(2 * time.Second)
		for field, want := range map[string]struct{ p999, refused float64 }{
			"Rates.Handshakes": {3, 0}, "Rates.MaxInFlight": {6, 2}, "Rates.MaxInFlightPerClient": {6, 0},
			"Send.MaxMessages": {10, 30}, "Send.MaxBytes": {100, 0},
		} {
			s := suggested(t, e.g, field)
			near(t, field, s.Percentile999, want.p999)
			if float64(s.Refused) != want.refused {
				t.Errorf("%s: %d refused, want %v", field, s.Refused, want.refused)
			}
		}
		wg.Wait()
		if s := suggested(t, e.g, "Timeouts.Lifetime"); s.Refused != 6 {
			t.Errorf("%+v", s)
		}
	})
}

// A day without Observe that is quiet needs no more than a day of it: the suggestion for a rate
// that comes in bursts has the bursts in Burst, and the average in PerSecond.
func TestSuggestBursts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := observing()
		cfg.Observe = false
		cfg.Rates.Messages = wsguard.Rate{PerSecond: 1000, Burst: 1000}
		cfg.Timeouts.Lifetime = wsguard.Off
		e := serveWith(t, cfg, func(g *wsguard.Guard) http.Handler { return echoDoor(g) })
		c := e.open(header())
		time.Sleep(100 * time.Millisecond)
		for range 1500 {
			for range 30 {
				roundTrip(t, c, "x")
			}
			time.Sleep(time.Minute)
		}
		s := suggested(t, e.g, "Rates.Messages")
		if s.Short || s.Value.PerSecond > 1.5 || s.Value.Burst < 45 || s.Value.Burst > 100 {
			t.Errorf("%+v", s)
		}
		c.Close()
	})
}
