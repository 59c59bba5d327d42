package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	collectmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collecttraces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
)

// collector is what the exporters send to.
type collector struct {
	t *testing.T

	mu      sync.Mutex
	service map[string]bool // guarded by mu: the names of services
	series  map[string]any  // guarded by mu: the last point of each series
	kinds   map[string]string
	spans   []*traces.Span // guarded by mu, like kinds: for each metric "cumulative sum" and the like
}

// collect starts a collector, to which exporters send that are made during the test.
func collect(t *testing.T) *collector {
	c := &collector{t: t, service: map[string]bool{}, series: map[string]any{}, kinds: map[string]string{}}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", s.URL)
	t.Setenv("OTEL_SERVICE_NAME", "the-service")
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			c.t.Error(err)
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	if err != nil {
		c.t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch r.URL.Path {
	case "/v1/metrics":
		var req collectmetrics.ExportMetricsServiceRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			c.t.Error(err)
		}
		for _, rm := range req.ResourceMetrics {
			c.note(rm.Resource.Attributes)
			for _, sm := range rm.ScopeMetrics {
				if sm.Scope.Name != wsguardotel.Scope {
					c.t.Errorf("scope %q", sm.Scope.Name)
				}
				for _, m := range sm.Metrics {
					c.metric(m)
				}
			}
		}
	case "/v1/traces":
		var req collecttraces.ExportTraceServiceRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			c.t.Error(err)
		}
		for _, rs := range req.ResourceSpans {
			c.note(rs.Resource.Attributes)
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	default:
		c.t.Errorf("%s %s", r.Method, r.URL)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// note remembers the service. The caller holds mu.
func (c *collector) note(resource []*common.KeyValue) {
	for _, a := range resource {
		if a.Key == "service.name" {
			c.service[a.Value.GetStringValue()] = true
		}
	}
}

// metric remembers the points of a metric. The caller holds mu.
func (c *collector) metric(m *metrics.Metric) {
	key := func(attributes []*common.KeyValue) string {
		return m.Name + "{" + strings.Join(pairs(attributes), ",") + "}"
	}
	temporality := func(t metrics.AggregationTemporality) string {
		return strings.ToLower(strings.TrimPrefix(t.String(), "AGGREGATION_TEMPORALITY_"))
	}
	switch data := m.Data.(type) {
	case *metrics.Metric_Sum:
		c.kinds[m.Name] = temporality(data.Sum.AggregationTemporality) + " sum"
		for _, p := range data.Sum.DataPoints {
			c.series[key(p.Attributes)] = p.GetAsInt()
		}
	case *metrics.Metric_Gauge:
		c.kinds[m.Name] = "gauge"
		for _, p := range data.Gauge.DataPoints {
			c.series[key(p.Attributes)] = p.GetAsInt()
		}
	case *metrics.Metric_Histogram:
		c.kinds[m.Name] = temporality(data.Histogram.AggregationTemporality) + " histogram"
		for _, p := range data.Histogram.DataPoints {
			if len(p.BucketCounts) != len(p.ExplicitBounds)+1 || p.StartTimeUnixNano == 0 || p.TimeUnixNano < p.StartTimeUnixNano {
				c.t.Errorf("%s: %v", m.Name, p)
			}
			c.series[key(p.Attributes)] = fmt.Sprint(p.Count, " ", p.GetSum())
		}
	default:
		c.t.Errorf("%s is a %T", m.Name, data)
	}
}

// pairs returns attributes in order, such as "key=value".
func pairs(attributes []*common.KeyValue) (list []string) {
	for _, a := range attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			list = append(list, a.Key+"="+v.StringValue)
		case *common.AnyValue_IntValue:
			list = append(list, fmt.Sprintf("%s=%d", a.Key, v.IntValue))
		default:
			list = append(list, fmt.Sprintf("%s=%T", a.Key, v))
		}
	}
	slices.Sort(list)
	return list
}

// TestOTLP sends metrics and spans over OTLP, behind each door and with each temporality.
func TestOTLP(t *testing.T) {
	doors := map[string]func(*wsguard.Guard) http.Handler{
		"handler": func(g *wsguard.Guard) http.Handler { return g.Handler(echo) },
		"wrap":    func(g *wsguard.Guard) http.Handler { return g.Wrap(http.HandlerFunc(plainEcho)) },
	}
	for name, door := range doors {
		for _, temporality := range []string{"cumulative", "delta"} {
			t.Run(name+" "+temporality, func(t *testing.T) {
				c := collect(t)
				t.Setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality)
				roundTrip(t, door)
				c.check(temporality)
			})
		}
	}
}

// plainEcho is the echo of a program that does not know the guard.
func plainEcho(w http.ResponseWriter, r *http.Request) {
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
}

// roundTrip sends what happens to a guard to the collector: an accepted handshake, a message of
// five bytes and its echo, and a refused handshake.
func roundTrip(t *testing.T, door func(*wsguard.Guard) http.Handler) {
	t.Helper()
	tel, err := newTelemetry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tel.cfg.Name = "eu"
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example"}, Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		Observer: wsguardotel.Observer(tel.cfg),
	})
	if err != nil {
		t.Fatal(err)
	}
	registration, err := wsguardotel.Register(guard, tel.cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(door(guard))
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := talk(ctx, s.URL+"/ws?ticket=secret", "https://app.example"); err != nil {
		t.Fatal(err)
	}
	if err := talk(ctx, s.URL+"/ws?ticket=secret", "https://evil.example"); err == nil {
		t.Fatal("a stranger's page can connect")
	}
	if err := guard.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := tel.shutdown(); err != nil {
		t.Error(err)
	}
	if err := registration.Unregister(); err != nil {
		t.Error(err)
	}
}

// talk exchanges a message with an echo.
func talk(ctx context.Context, url, origin string) error {
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
	if err != nil {
		return err
	}
	defer c.CloseNow()
	if err := c.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err
	}
	if _, msg, err := c.Read(ctx); err != nil || string(msg) != "hello" {
		return fmt.Errorf("the echo is %q, %v", msg, err)
	}
	return c.Close(websocket.StatusNormalClosure, "")
}

// check compares what has come with what roundTrip has done.
func (c *collector) check(temporality string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.service) != 1 || !c.service["the-service"] {
		c.t.Errorf("services %v", c.service)
	}
	for series, want := range map[string]any{
		"wsguard.handshakes{guard=eu,result=accepted}":                                     int64(1),
		"wsguard.handshakes{guard=eu,result=rejected}":                                     int64(1),
		"wsguard.handshakes.rejected{guard=eu,reason=origin}":                              int64(1),
		"wsguard.connections{guard=eu}":                                                    int64(0),
		"wsguard.connections.closed{code=1000,guard=eu,initiator=peer,reason=peer_closed}": int64(1),
		"wsguard.messages{direction=in,guard=eu}":                                          int64(1),
		"wsguard.message.bytes{direction=out,guard=eu}":                                    int64(5),
		"wsguard.message.size{guard=eu}":                                                   "1 5",
		"wsguard.draining{guard=eu}":                                                       int64(1),
	} {
		if got := c.series[series]; got != want {
			c.t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	for metric, want := range map[string]string{
		"wsguard.handshakes": temporality + " sum", "wsguard.message.size": temporality + " histogram", "wsguard.handshake.duration": temporality + " histogram",
		"wsguard.connections": "cumulative sum", "wsguard.draining": "gauge",
	} {
		if c.kinds[metric] != want {
			c.t.Errorf("%s is a %s, want a %s", metric, c.kinds[metric], want)
		}
	}
	if len(c.spans) != 2 {
		c.t.Fatalf("%d spans, want 2", len(c.spans))
	}
	for i, want := range []string{
		"http.request.method=GET http.response.status_code=101 network.protocol.name=http network.protocol.version=1.1 url.path=/ws url.scheme=http",
		"error.type=origin http.request.method=GET http.response.status_code=403 network.protocol.name=http url.path=/ws url.scheme=http",
	} {
		span := c.spans[i]
		got := slices.DeleteFunc(pairs(span.Attributes), func(p string) bool {
			return strings.HasPrefix(p, "wsguard.") || strings.HasPrefix(p, "server.") || strings.HasPrefix(p, "client.")
		})
		if strings.Join(got, " ") != want || span.Name != "GET" || span.Kind != traces.Span_SPAN_KIND_SERVER {
			c.t.Errorf("span %q %v: %s, want %s", span.Name, span.Kind, got, want)
		}
		if span.EndTimeUnixNano < span.StartTimeUnixNano || strings.Contains(span.String(), "secret") {
			c.t.Errorf("%v", span)
		}
	}
}

// TestRun runs the program as its README says, and ends it.
func TestRun(t *testing.T) {
	c := collect(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	r, w := io.Pipe()
	go func() {
		err := run(ctx, "127.0.0.1:0", w)
		w.CloseWithError(err)
		ended <- err
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	if err := talk(ctx, url+"/ws", url); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spans) != 1 || c.spans[0].Name != "GET echo" || c.series["wsguard.messages{direction=out,guard=default}"] != int64(1) {
		t.Errorf("%v\n%v", c.spans, c.series)
	}
}

// TestREADMEOfWsguardotel compiles the code of contrib/wsguardotel/README.md.
func TestREADMEOfWsguardotel(t *testing.T) {
	text, err := os.ReadFile("../../contrib/wsguardotel/README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of Go, want 2", len(blocks))
	}
	name := filepath.Join(t.TempDir(), "main.go")
	program := fmt.Sprintf(`package main

import (
	"context"
	"log"
	"net/http"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
)

func main() {
	ctx := context.Background()
%s
	http.Handle("/ws", traced(guard.Handler(nil)))
}

%s`, blocks[0][1], blocks[1][1])
	if err := os.WriteFile(name, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
