package wsguardotel_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/wsguard/wsguard"
)

// page is the origin that the guards of the tests know.
const page = "https://app.example"

// config returns a Config for tests.
func config() wsguard.Config {
	return wsguard.Config{
		Origins: []string{page}, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		Logger: slog.New(slog.DiscardHandler),
		Rates:  wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		Caps:   wsguard.CapConfig{MaxConnsPerClient: wsguard.Off},
	}
}

// doors runs f with an echo behind each door of a guard.
func doors(t *testing.T, f func(t *testing.T, echo func(*wsguard.Guard) http.Handler)) {
	t.Run("handler", func(t *testing.T) {
		f(t, func(g *wsguard.Guard) http.Handler {
			return g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
				for {
					kind, msg, err := c.Read(ctx)
					if err != nil {
						return err
					}
					if err := c.Write(ctx, kind, msg); err != nil {
						return err
					}
				}
			})
		})
	})
	t.Run("wrap", func(t *testing.T) {
		f(t, func(g *wsguard.Guard) http.Handler {
			return g.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
				if err != nil {
					return
				}
				defer c.CloseNow()
				for {
					kind, msg, err := c.Read(context.Background())
					if err != nil {
						return
					}
					if err := c.Write(context.Background(), kind, msg); err != nil {
						return
					}
				}
			}))
		})
	})
}

// newGuard returns a guard that is shut down after the test.
func newGuard(t *testing.T, cfg wsguard.Config) *wsguard.Guard {
	t.Helper()
	g, err := wsguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shutdown(t, g) })
	return g
}

func shutdown(t *testing.T, g *wsguard.Guard) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// server serves h until the test ends.
func server(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// dial connects to s, and returns the status of the answer if there is no connection.
func dial(t *testing.T, s *httptest.Server, path string, header http.Header) (*websocket.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(ctx, s.URL+path, &websocket.DialOptions{
		HTTPHeader: header, Subprotocols: header.Values("Sec-WebSocket-Protocol"),
	})
	switch {
	case err == nil:
		t.Cleanup(func() { c.CloseNow() })
		return c, http.StatusSwitchingProtocols
	case res == nil:
		t.Fatal(err)
	}
	return nil, res.StatusCode
}

// say sends messages to an echo, and reads each of them.
func say(t *testing.T, c *websocket.Conn, messages ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, m := range messages {
		if err := c.Write(ctx, websocket.MessageText, []byte(m)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || string(got) != m {
			t.Fatalf("%q, %v, want the echo %q", got, err, m)
		}
	}
}

// recorder returns a TracerProvider, and a function that waits for some spans and returns all.
func recorder(t *testing.T, options ...sdktrace.TracerProviderOption) (*sdktrace.TracerProvider, func(atLeast int) tracetest.SpanStubs) {
	spans := tracetest.NewInMemoryExporter()
	p := sdktrace.NewTracerProvider(append(options, sdktrace.WithSyncer(spans))...)
	t.Cleanup(func() { p.Shutdown(context.Background()) })
	return p, func(atLeast int) tracetest.SpanStubs {
		t.Helper()
		eventually(t, func() bool { return len(spans.GetSpans()) >= atLeast })
		return spans.GetSpans()
	}
}

// series returns the values of all series, as lines such as `name{key=value} 1`, in order.
func series(rm metricdata.ResourceMetrics) (list []string) {
	line := func(name string, with attribute.Set, v any) {
		list = append(list, fmt.Sprintf("%s{%s} %v", name, with.Encoded(attribute.DefaultEncoder()), v))
	}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					line(m.Name, p.Attributes, p.Count)
				}
			default:
				panic(fmt.Sprintf("%s is a %T", m.Name, data))
			}
		}
	}
	slices.Sort(list)
	return list
}
