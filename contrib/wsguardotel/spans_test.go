package wsguardotel_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
	"github.com/wsguard/wsguard/reason"
)

// lines returns the attributes of a span, as lines such as "key=value" in order.
func lines(s tracetest.SpanStub) (list []string) {
	for _, a := range s.Attributes {
		list = append(list, string(a.Key)+"="+a.Value.Emit())
	}
	slices.Sort(list)
	return list
}

// one makes the span of a record.
func one(t *testing.T, ctx context.Context, cfg wsguardotel.Config, r audit.Record) tracetest.SpanStub {
	t.Helper()
	provider, spans := recorder(t)
	cfg.TracerProvider = provider
	wsguardotel.Observer(cfg)(ctx, r)
	if got := spans(1); len(got) == 1 {
		return got[0]
	} else {
		t.Fatalf("%d spans, want 1", len(got))
	}
	return tracetest.SpanStub{}
}

// TestSpans makes a handshake that is accepted and one that is refused behind each door.
func TestSpans(t *testing.T) {
	doors(t, func(t *testing.T, echo func(*wsguard.Guard) http.Handler) {
		provider, spans := recorder(t)
		cfg := config()
		cfg.Name, cfg.Subprotocols = "chat", []string{"v1"}
		cfg.Auth = wsguard.AuthConfig{Verifier: func(context.Context, string) (wsguard.Principal, error) {
			return wsguard.Principal{Subject: "alice@example.com"}, nil
		}}
		cfg.Observer = wsguardotel.Observer(wsguardotel.Config{Name: "eu", TracerProvider: provider})
		g := newGuard(t, cfg)
		s := server(t, echo(g))
		header := func(origin string) http.Header {
			return http.Header{
				"Origin": {origin}, "Authorization": {"Bearer hush-token"}, "Cookie": {"session=hush-cookie"}, "X-Request-Id": {"r1"},
				"Sec-Websocket-Protocol": {"v1"},
			}
		}
		before := time.Now()
		c, status := dial(t, s, "/chat?ticket=hush-query", header(page))
		if c == nil {
			t.Fatalf("status %d", status)
		}
		c.CloseNow()
		if _, status := dial(t, s, "/chat?ticket=hush-query", header("https://evil.example")); status != http.StatusForbidden {
			t.Fatalf("status %d", status)
		}
		shutdown(t, g)

		got := spans(2)
		if len(got) != 2 {
			t.Fatalf("%d spans, want 2", len(got))
		}
		// The client may be refused before the guard has reported that it was accepted.
		slices.SortFunc(got, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
		addr := strings.TrimPrefix(s.URL, "http://127.0.0.1:")
		common := []string{
			"client.address=127.0.0.1", "http.request.method=GET", "network.protocol.name=http", "server.address=127.0.0.1",
			"server.port=" + addr, "url.path=/chat", "url.scheme=http", "wsguard.endpoint=chat", "wsguard.guard=eu", "wsguard.request_id=r1",
		}
		accepted := append([]string{
			"http.response.status_code=101", "network.protocol.version=1.1", "wsguard.origin=" + page, "wsguard.subprotocol=v1",
		}, common...)
		refused := append([]string{
			"error.type=origin", "http.response.status_code=403", "wsguard.origin=https://evil.example",
		}, common...)
		for i, want := range [][]string{accepted, refused} {
			span, all := got[i], lines(got[i])
			all = slices.DeleteFunc(all, func(l string) bool { return i == 0 && strings.HasPrefix(l, "wsguard.connection_id=") })
			slices.Sort(want)
			if !slices.Equal(all, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(all, "\n"), strings.Join(want, "\n"))
			}
			if span.Name != "GET chat" || span.SpanKind != trace.SpanKindServer || span.Status.Code != codes.Unset || span.Parent.IsValid() {
				t.Errorf("%q %v %v %v", span.Name, span.SpanKind, span.Status, span.Parent)
			}
			if span.StartTime.Before(before) || span.EndTime.Before(span.StartTime) || span.EndTime.After(time.Now()) {
				t.Errorf("from %v to %v", span.StartTime, span.EndTime)
			}
			if span.InstrumentationScope.Name != wsguardotel.Scope || span.InstrumentationScope.SchemaURL != semconv.SchemaURL {
				t.Errorf("%+v", span.InstrumentationScope)
			}
			if all := fmt.Sprintf("%+v", span); strings.Contains(all, "hush") || strings.Contains(all, "alice") {
				t.Errorf("the span has a secret: %s", all)
			}
		}
		if n := len(got[0].Attributes) - len(accepted); n != 1 {
			t.Error("the accepted handshake has no connection ID")
		}
	})
}

// TestConventions compares the keys with those of the semantic conventions.
func TestConventions(t *testing.T) {
	request := audit.Request{Method: "BREW", Scheme: "https", Path: "/ws", Client: "192.0.2.1", Host: "[2001:db8::1]:8443"}
	known := map[attribute.Key]bool{
		semconv.HTTPRequestMethodKey: true, semconv.HTTPRequestMethodOriginalKey: true, semconv.URLPathKey: true, semconv.URLSchemeKey: true,
		semconv.HTTPResponseStatusCodeKey: true, semconv.ErrorTypeKey: true, semconv.NetworkProtocolNameKey: true,
		semconv.NetworkProtocolVersionKey: true, semconv.ServerAddressKey: true, semconv.ServerPortKey: true, semconv.ClientAddressKey: true,
	}
	seen := map[attribute.Key]attribute.Value{}
	for _, r := range []audit.Record{
		audit.HandshakeRefused{Request: request, Reason: "method", Status: 405},
		audit.HandshakeAccepted{Request: request, ConnID: "c1"},
	} {
		for _, a := range one(t, t.Context(), wsguardotel.Config{}, r).Attributes {
			if !known[a.Key] && !strings.HasPrefix(string(a.Key), "wsguard.") {
				t.Errorf("%s is in no convention", a.Key)
			}
			seen[a.Key] = a.Value
		}
	}
	for key := range known {
		if _, ok := seen[key]; !ok {
			t.Errorf("no span has %s", key)
		}
	}
	for key, want := range map[attribute.Key]attribute.Value{
		semconv.HTTPRequestMethodKey: semconv.HTTPRequestMethodOther.Value, semconv.ServerPortKey: attribute.IntValue(8443),
		semconv.ServerAddressKey: attribute.StringValue("2001:db8::1"), semconv.HTTPResponseStatusCodeKey: attribute.IntValue(101),
	} {
		if seen[key] != want {
			t.Errorf("%s is %v, want %v", key, seen[key].Emit(), want.Emit())
		}
	}
	for _, method := range []attribute.KeyValue{
		semconv.HTTPRequestMethodGet, semconv.HTTPRequestMethodHead, semconv.HTTPRequestMethodPost, semconv.HTTPRequestMethodPut,
		semconv.HTTPRequestMethodDelete, semconv.HTTPRequestMethodConnect, semconv.HTTPRequestMethodOptions, semconv.HTTPRequestMethodTrace,
		semconv.HTTPRequestMethodPatch,
	} {
		name := method.Value.AsString()
		s := one(t, t.Context(), wsguardotel.Config{}, audit.HandshakeRefused{Request: audit.Request{Method: name}})
		if s.Name != name || !slices.Contains(s.Attributes, method) {
			t.Errorf("%s: %q %v", name, s.Name, lines(s))
		}
	}
}

// TestStatus refuses for each reason. A 4xx is not an error of a server, and a 5xx is.
func TestStatus(t *testing.T) {
	refusals := []audit.HandshakeRefused{
		{Reason: reason.ConnectionLost.Token()},
		{Reason: reason.Unauthenticated.Token(), Status: 101, Code: 3000},
	}
	for _, r := range reason.All() {
		if r.Status() != 0 {
			refusals = append(refusals, audit.HandshakeRefused{Reason: r.Token(), Status: r.Status(), Err: r, Detail: "hush"})
		}
	}
	for _, r := range refusals {
		span := one(t, t.Context(), wsguardotel.Config{}, r)
		want := codes.Unset
		if r.Status == 0 || r.Status >= 500 {
			want = codes.Error
		}
		if span.Status.Code != want || span.Status.Description != "" {
			t.Errorf("%s %d: %v, want %v", r.Reason, r.Status, span.Status, want)
		}
		got := map[attribute.Key]string{}
		for _, a := range span.Attributes {
			got[a.Key] = a.Value.Emit()
		}
		status, code := "", ""
		if r.Status != 0 {
			status = fmt.Sprint(r.Status)
		}
		if r.Code != 0 {
			code = fmt.Sprint(int(r.Code))
		}
		if got["error.type"] != r.Reason || got["http.response.status_code"] != status || got["wsguard.close_code"] != code {
			t.Errorf("%+v: %v", r, got)
		}
		if strings.Contains(fmt.Sprint(span), "hush") {
			t.Errorf("%s: the span has the detail", r.Reason)
		}
	}
}

// TestParent makes spans of requests with several kinds of traces.
func TestParent(t *testing.T) {
	parent := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}
	for name, tt := range map[string]struct {
		ctx  context.Context
		kind trace.SpanKind
		want trace.SpanID
	}{
		"none":          {context.Background(), trace.SpanKindServer, trace.SpanID{}},
		"of a client":   {trace.ContextWithRemoteSpanContext(context.Background(), trace.NewSpanContext(parent)), trace.SpanKindServer, parent.SpanID},
		"of middleware": {trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(parent)), trace.SpanKindInternal, parent.SpanID},
	} {
		s := one(t, tt.ctx, wsguardotel.Config{}, audit.HandshakeAccepted{Request: audit.Request{Method: "GET"}})
		if s.SpanKind != tt.kind || s.Parent.SpanID() != tt.want || tt.want.IsValid() != (s.SpanContext.TraceID() == parent.TraceID) {
			t.Errorf("%s: %v %v", name, s.SpanKind, s.Parent)
		}
	}
}

// TestTraceparent sends the header through a middleware as the README has it.
func TestTraceparent(t *testing.T) {
	doors(t, func(t *testing.T, echo func(*wsguard.Guard) http.Handler) {
		provider, spans := recorder(t)
		cfg := config()
		cfg.Observer = wsguardotel.Observer(wsguardotel.Config{TracerProvider: provider})
		g := newGuard(t, cfg)
		next := echo(g)
		s := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
			next.ServeHTTP(w, r.WithContext(ctx))
		}))
		c, status := dial(t, s, "/", http.Header{"Origin": {page}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}})
		if c == nil {
			t.Fatalf("status %d", status)
		}
		c.CloseNow()
		shutdown(t, g)
		got := spans(1)
		if len(got) != 1 || got[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || got[0].Parent.SpanID().String() != "b7ad6b7169203331" {
			t.Errorf("%v", got)
		}
	})
}

// TestDuration takes the times of the span from the record.
func TestDuration(t *testing.T) {
	end := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, r := range []audit.Record{
		audit.HandshakeAccepted{Time: end, Duration: time.Minute}, audit.HandshakeRefused{Time: end, Duration: time.Minute},
	} {
		if s := one(t, t.Context(), wsguardotel.Config{}, r); !s.EndTime.Equal(end) || !s.StartTime.Equal(end.Add(-time.Minute)) {
			t.Errorf("from %v to %v", s.StartTime, s.EndTime)
		}
	}
}

// TestAddresses reads hosts and clients in all forms.
func TestAddresses(t *testing.T) {
	for _, tt := range []struct{ host, client, want string }{
		{"app.example", "192.0.2.1", "client.address=192.0.2.1 server.address=app.example"},
		{"app.example:8443", "2001:db8::1", "client.address=2001:db8::1 server.address=app.example server.port=8443"},
		{"[2001:db8::2]", "alice at 192.0.2.1", "client.address=192.0.2.1 server.address=2001:db8::2"},
		{"app.example:", "bob at home at 2001:db8::1", "client.address=2001:db8::1 server.address=app.example"},
		{"app.example:70000", "@", "server.address=app.example"},
		{"app.example:-1", "192.0.2.1:80", "server.address=app.example"},
		{"", "", ""},
		{"a:b:c", "alice at nowhere", "server.address=a:b:c"},
	} {
		s := one(t, t.Context(), wsguardotel.Config{}, audit.HandshakeRefused{Request: audit.Request{Host: tt.host, Client: tt.client}})
		got := slices.DeleteFunc(lines(s), func(l string) bool { return !strings.HasPrefix(l, "client.") && !strings.HasPrefix(l, "server.") })
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q %q: %v, want %s", tt.host, tt.client, got, tt.want)
		}
	}
}

// TestSubject gives a span the subject only if it is asked for.
func TestSubject(t *testing.T) {
	r := audit.HandshakeAccepted{Request: audit.Request{Subject: "alice"}}
	for _, on := range []bool{false, true} {
		if s := one(t, t.Context(), wsguardotel.Config{Subject: on}, r); slices.Contains(lines(s), "wsguard.subject=alice") != on {
			t.Errorf("%v: %v", on, lines(s))
		}
	}
}

// TestOtherRecords makes no span of anything but handshakes. Next gets everything, with the context.
func TestOtherRecords(t *testing.T) {
	provider, spans := recorder(t)
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, 1)
	var got []audit.Record
	observe := wsguardotel.Observer(wsguardotel.Config{TracerProvider: provider, Next: func(ctx context.Context, r audit.Record) {
		if ctx.Value(key{}) != 1 {
			t.Error("Next gets another context")
		}
		got = append(got, r)
	}})
	all := []audit.Record{
		audit.HandshakeRefused{Report: true}, audit.ConnectionOpened{}, audit.ConnectionRefreshed{}, audit.ConnectionClosed{Duration: time.Hour},
		audit.MessageRefused{}, audit.ClientBanned{}, audit.BanLifted{}, audit.TicketSold{}, audit.SubjectRevoked{}, audit.LoginSignedOut{},
		audit.SubjectRestored{}, audit.GuardReconfigured{}, audit.OperatorWarned{}, nil,
	}
	for _, r := range all {
		observe(ctx, r)
	}
	if n := len(spans(0)); n != 0 || len(got) != len(all) {
		t.Errorf("%d spans, Next got %d of %d", n, len(got), len(all))
	}
	observe(ctx, audit.HandshakeAccepted{})
	if n := len(spans(1)); n != 1 || len(got) != len(all)+1 {
		t.Errorf("%d spans, Next got %d of %d", n, len(got), len(all)+1)
	}
}

// TestNextPanics goes on after a Next that panics, since the guard recovers it.
func TestNextPanics(t *testing.T) {
	provider, spans := recorder(t)
	cfg := config()
	cfg.Observer = wsguardotel.Observer(wsguardotel.Config{TracerProvider: provider, Next: func(context.Context, audit.Record) { panic(errors.New("next")) }})
	g := newGuard(t, cfg)
	h := g.Handler(func(context.Context, *wsguard.Conn) error { return nil })
	for range 3 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}
	shutdown(t, g)
	if n := len(spans(3)); n != 3 {
		t.Errorf("%d spans, want 3", n)
	}
}

// TestGlobalTracerProvider uses the provider that the process has set.
func TestGlobalTracerProvider(t *testing.T) {
	provider, spans := recorder(t)
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(provider)
	defer otel.SetTracerProvider(before)
	wsguardotel.Observer(wsguardotel.Config{})(t.Context(), audit.HandshakeAccepted{})
	if len(spans(1)) != 1 {
		t.Error("no span")
	}
}

// TestSampler shows a sampler the attributes, so that it can decide by them.
func TestSampler(t *testing.T) {
	sampler := keepRefusals{sdktrace.AlwaysSample()}
	provider, spans := recorder(t, sdktrace.WithSampler(sampler))
	observe := wsguardotel.Observer(wsguardotel.Config{TracerProvider: provider})
	observe(t.Context(), audit.HandshakeAccepted{})
	observe(t.Context(), audit.HandshakeRefused{Reason: "origin", Status: 403})
	if got := spans(1); len(got) != 1 || !slices.Contains(lines(got[0]), "error.type=origin") {
		t.Errorf("%v", got)
	}
}

type keepRefusals struct{ sdktrace.Sampler }

func (s keepRefusals) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if set := attribute.NewSet(p.Attributes...); set.HasValue(semconv.ErrorTypeKey) {
		return s.Sampler.ShouldSample(p)
	}
	return sdktrace.SamplingResult{Decision: sdktrace.Drop}
}

// TestHostileRequests sends requests with anything in them. The keys of the spans stay those of the
// README, names and kinds of refusals are few, and each value is valid UTF-8 and short.
func TestHostileRequests(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 2_000
	}
	provider, spans := recorder(t)
	var made atomic.Int64
	cfg := config()
	cfg.Name = "chat\xff"
	cfg.Observer = wsguardotel.Observer(wsguardotel.Config{
		Name: "eu\xff", TracerProvider: provider, Subject: true,
		Next: func(_ context.Context, r audit.Record) {
			if _, ok := r.(audit.HandshakeRefused); ok {
				made.Add(1)
			}
		},
	})
	g := newGuard(t, cfg)
	h := g.Handler(func(context.Context, *wsguard.Conn) error { return nil })
	junk := func() string {
		b := make([]byte, 400)
		rand.Read(b)
		return string(b)
	}
	for i := range int64(n) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path, r.URL.RawQuery, r.Host, r.Method = junk(), "hush="+junk(), junk(), junk()
		if i%2 == 0 {
			r.Method = http.MethodGet
		}
		for _, k := range []string{"Origin", "X-Request-Id", "Sec-Websocket-Protocol", "Sec-Websocket-Key", "X-Forwarded-For"} {
			r.Header.Set(k, junk())
		}
		h.ServeHTTP(unhijackable{httptest.NewRecorder()}, r)
		if i%500 == 0 { // more than 1,024 do not wait
			eventually(t, func() bool { return made.Load() > i })
		}
	}
	all := spans(n)
	names, keys, types := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range all {
		names[s.Name] = true
		for _, a := range s.Attributes {
			keys[string(a.Key)] = true
			if a.Key == semconv.ErrorTypeKey {
				types[a.Value.AsString()] = true
			}
			if v := a.Value.Emit(); !utf8.ValidString(v) || len(v) > 300 || strings.Contains(v, "hush") {
				t.Fatalf("%s=%q", a.Key, v)
			}
		}
	}
	if len(all) != n {
		t.Errorf("%d spans of %d handshakes", len(all), n)
	}
	if len(names) > 2 || len(keys) > 20 || len(types) > 5 {
		t.Errorf("names %v, keys %v, types %v", slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(keys)), slices.Sorted(maps.Keys(types)))
	}
	for name := range names {
		if !utf8.ValidString(name) {
			t.Errorf("%q", name)
		}
	}
}
