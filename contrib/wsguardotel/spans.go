package wsguardotel

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsguard/wsguard/audit"
)

// The attributes of spans that are not of the semantic conventions.
const (
	keyGuard       = attribute.Key("wsguard.guard")
	keyEndpoint    = attribute.Key("wsguard.endpoint")
	keyRequestID   = attribute.Key("wsguard.request_id")
	keyOrigin      = attribute.Key("wsguard.origin")
	keySubject     = attribute.Key("wsguard.subject")
	keyConnection  = attribute.Key("wsguard.connection_id")
	keySubprotocol = attribute.Key("wsguard.subprotocol")
	keyCloseCode   = attribute.Key("wsguard.close_code")
)

// Observer returns a function for Config.Observer of package wsguard. It makes a span of each
// handshake that was accepted or refused, and of each refused request for a ticket. The span
// begins with the guard's checks and ends with the answer. Its parent is the span in the context
// of the request, if a middleware in front has put one there.
//
// The span has the attributes of the stable semantic conventions for HTTP servers, and "error.type"
// is the token of the reason. Its status is an error if the response is a 5xx, or if the
// connection broke before there was one. A 4xx is the client's mistake and leaves the status unset.
// No attribute has a query, a header except Origin and Host, or a text of the application's.
//
// There is no span of a connection. An exporter gets a span when it ends, which may be hours
// later or, after a crash, never, and samplers do not wait that long. The log, the records and
// the metrics have what happens on a connection. The attribute "wsguard.connection_id" is its ID
// there.
func Observer(cfg Config) func(context.Context, audit.Record) {
	provider := cfg.TracerProvider
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	s := spans{cfg: cfg, tracer: provider.Tracer(Scope, trace.WithSchemaURL(semconv.SchemaURL))}
	return func(ctx context.Context, r audit.Record) {
		switch r := r.(type) {
		case audit.HandshakeAccepted:
			s.accepted(ctx, r)
		case audit.HandshakeRefused:
			if !r.Report {
				s.refused(ctx, r)
			}
		}
		if cfg.Next != nil {
			cfg.Next(ctx, r)
		}
	}
}

// spans makes the spans of a Guard.
type spans struct {
	cfg    Config       // read-only
	tracer trace.Tracer // read-only
}

func (s *spans) accepted(ctx context.Context, r audit.HandshakeAccepted) {
	attributes := append(s.request(r.Request),
		semconv.HTTPResponseStatusCode(http.StatusSwitchingProtocols),
		semconv.NetworkProtocolVersion("1.1"), // the guard accepts no other one
		text(keyConnection, r.ConnID))
	if r.Subprotocol != "" {
		attributes = append(attributes, text(keySubprotocol, r.Subprotocol))
	}
	s.span(ctx, r.Request, r.Time, r.Duration, attributes).End(trace.WithTimestamp(r.Time))
}

func (s *spans) refused(ctx context.Context, r audit.HandshakeRefused) {
	attributes := append(s.request(r.Request), text(semconv.ErrorTypeKey, r.Reason))
	if r.Status != 0 {
		attributes = append(attributes, semconv.HTTPResponseStatusCode(r.Status))
	}
	if r.Code != 0 {
		attributes = append(attributes, keyCloseCode.Int(int(r.Code)))
	}
	span := s.span(ctx, r.Request, r.Time, r.Duration, attributes)
	if r.Status == 0 || r.Status >= 500 {
		span.SetStatus(codes.Error, "")
	}
	span.End(trace.WithTimestamp(r.Time))
}

// span starts a span. A sampler sees its attributes.
func (s *spans) span(ctx context.Context, r audit.Request, end time.Time, took time.Duration, attributes []attribute.KeyValue) trace.Span {
	name, _ := method(r.Method)
	if name == otherMethod {
		name = "HTTP" // as the conventions say
	}
	if r.Endpoint != "" {
		name += " " + strings.ToValidUTF8(r.Endpoint, "\uFFFD")
	}
	kind := trace.SpanKindServer
	if parent := trace.SpanContextFromContext(ctx); parent.IsValid() && !parent.IsRemote() {
		kind = trace.SpanKindInternal // a middleware has the span of the server
	}
	_, span := s.tracer.Start(ctx, name, trace.WithTimestamp(end.Add(-took)), trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	return span
}

// request returns the attributes that a request has, however it was answered.
func (s *spans) request(r audit.Request) []attribute.KeyValue {
	known, original := method(r.Method)
	attributes := make([]attribute.KeyValue, 0, 20)
	attributes = append(attributes,
		semconv.HTTPRequestMethodKey.String(known), semconv.NetworkProtocolName("http"), text(semconv.URLPathKey, r.Path), text(semconv.URLSchemeKey, r.Scheme))
	add := func(key attribute.Key, value string) {
		if value != "" {
			attributes = append(attributes, text(key, value))
		}
	}
	add(semconv.HTTPRequestMethodOriginalKey, original)
	host, port := split(r.Host)
	add(semconv.ServerAddressKey, host)
	if port != 0 {
		attributes = append(attributes, semconv.ServerPort(port))
	}
	add(semconv.ClientAddressKey, address(r.Client))
	add(keyGuard, s.cfg.name())
	add(keyEndpoint, r.Endpoint)
	add(keyRequestID, r.RequestID)
	add(keyOrigin, r.Origin)
	if s.cfg.Subject {
		add(keySubject, r.Subject)
	}
	return attributes
}

// otherMethod stands for the methods that the conventions do not know.
const otherMethod = "_OTHER"

// method returns the method of a request as the conventions know it. If they do not, original is
// what the client has sent.
func method(m string) (known, original string) {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m, ""
	}
	return otherMethod, m
}

// split returns the name and the port of a Host header. A port that is not there or none is 0.
func split(host string) (name string, port int) {
	name, digits, err := net.SplitHostPort(host)
	if err != nil {
		return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), 0
	}
	if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
		port = int(n)
	}
	return name, port
}

// address returns the address of a client without the name that Proxies.ClientName has given it,
// which may be personal. It returns "" if there is no address.
func address(client string) string {
	if i := strings.LastIndex(client, " at "); i >= 0 {
		client = client[i+len(" at "):]
	}
	if _, err := netip.ParseAddr(client); err != nil {
		return ""
	}
	return client
}
