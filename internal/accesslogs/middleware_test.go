package accesslogs_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/handlers"
	"github.com/labstack/echo/v4"
	echomiddleware "github.com/labstack/echo/v4/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// logs has the statuses that a middleware has reported.
type logs struct {
	mu       sync.Mutex
	statuses []int
}

func (l *logs) add(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.statuses = append(l.statuses, status)
}

func (l *logs) all() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int(nil), l.statuses...)
}

// lines is a Writer that finds the status in each line.
type lines struct {
	logs   *logs
	status *regexp.Regexp
}

func (l lines) Write(p []byte) (int, error) {
	if m := l.status.FindSubmatch(p); m != nil {
		n, _ := strconv.Atoi(string(m[1]))
		l.logs.add(n)
	} else if bytes.TrimSpace(p) != nil {
		l.logs.add(-1)
	}
	return len(p), nil
}

func (l lines) Print(v ...any) {
	for _, line := range v {
		l.Write([]byte(line.(string)))
	}
}

// A middleware puts an access log or a metric in front of a handler. statuses returns what it
// has reported so far.
type middleware func(t *testing.T, h http.Handler) (wrapped http.Handler, statuses func() []int)

var all = map[string]middleware{
	"chi":               useChi,
	"chi, compressing":  useChiCompress,
	"gin":               useGin,
	"gin in otelhttp":   func(t *testing.T, h http.Handler) (http.Handler, func() []int) { return inOtel(t, useGin, h) },
	"otelhttp in gin":   otelInGin,
	"echo":              useEcho,
	"echo, compressing": useEchoGzip,
	"otelhttp":          useOtel,
	"promhttp":          useProm,
	"gorilla/handlers":  useGorilla,
	"a recorder with Unwrap": func(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
		return record(h, func(r *recorder) http.ResponseWriter { return unwrapper{r} })
	},
	"a recorder with Unwrap and Hijack": func(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
		return record(h, func(r *recorder) http.ResponseWriter { return both{unwrapper{r}} })
	},
}

func useChi(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	l := &logs{}
	r := chi.NewRouter()
	out := lines{l, regexp.MustCompile(` - (\d{3}) `)}
	r.Use(chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: out, NoColor: true}), chimiddleware.Recoverer)
	r.Handle("/", h)
	return r, l.all
}

func useChiCompress(t *testing.T, h http.Handler) (http.Handler, func() []int) {
	typed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html") // as a middleware may do for all pages
		h.ServeHTTP(w, r)
	})
	return useChi(t, chimiddleware.Compress(5)(typed))
}

func useGin(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	gin.SetMode(gin.ReleaseMode)
	l := &logs{}
	r := gin.New()
	r.Use(gin.LoggerWithConfig(gin.LoggerConfig{Output: io.Discard, Formatter: func(p gin.LogFormatterParams) string {
		l.add(p.StatusCode)
		return ""
	}}), gin.Recovery())
	r.GET("/", gin.WrapH(h))
	return r, l.all
}

func otelInGin(t *testing.T, h http.Handler) (http.Handler, func() []int) {
	inner, ofOtel := useOtel(t, h)
	outer, ofGin := useGin(t, inner)
	return outer, func() []int { return same(ofOtel(), ofGin()) }
}

func inOtel(t *testing.T, inner middleware, h http.Handler) (http.Handler, func() []int) {
	in, ofInner := inner(t, h)
	out, ofOtel := useOtel(t, in)
	return out, func() []int { return same(ofOtel(), ofInner()) }
}

// same returns what two middlewares report, which must be the same. While one is behind, it
// returns nothing.
func same(a, b []int) []int {
	if len(a) != len(b) {
		return nil
	}
	for i := range a {
		if a[i] != b[i] {
			return []int{-a[i], -b[i]}
		}
	}
	return a
}

func newEcho(l *logs) *echo.Echo {
	e := echo.New()
	e.Logger.SetOutput(io.Discard)
	e.Use(echomiddleware.RequestLoggerWithConfig(echomiddleware.RequestLoggerConfig{
		LogStatus: true, LogValuesFunc: func(_ echo.Context, v echomiddleware.RequestLoggerValues) error {
			l.add(v.Status)
			return nil
		},
	}), echomiddleware.Recover(), echomiddleware.RequestID())
	return e
}

func useEcho(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	l := &logs{}
	e := newEcho(l)
	e.GET("/", echo.WrapHandler(h))
	return e, l.all
}

// useEchoGzip compresses. The middleware holds each status back, so the log shows that of echo
// itself for an upgrade.
func useEchoGzip(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	l := &logs{}
	e := newEcho(l)
	e.Use(echomiddleware.Gzip())
	e.GET("/", echo.WrapHandler(h))
	return e, l.all
}

func useOtel(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	return otelhttp.NewHandler(h, "ws", otelhttp.WithMeterProvider(provider)), func() (statuses []int) {
		var all metricdata.ResourceMetrics
		reader.Collect(context.Background(), &all)
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				h, ok := m.Data.(metricdata.Histogram[float64])
				if !ok || !strings.HasSuffix(m.Name, "request.duration") {
					continue
				}
				for _, p := range h.DataPoints {
					status, _ := p.Attributes.Value("http.response.status_code")
					for range p.Count {
						statuses = append(statuses, int(status.AsInt64()))
					}
				}
			}
		}
		return statuses
	}
}

func useProm(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	reg := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "requests"}, []string{"code"})
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "seconds", Help: "durations"}, []string{"code"})
	reg.MustRegister(requests, durations)
	return promhttp.InstrumentHandlerCounter(requests, promhttp.InstrumentHandlerDuration(durations, h)), func() (statuses []int) {
		families, _ := reg.Gather()
		for _, f := range families {
			for _, m := range f.Metric {
				status, _ := strconv.Atoi(m.Label[0].GetValue())
				for range int(m.Counter.GetValue()) {
					statuses = append(statuses, status)
				}
			}
		}
		return statuses
	}
}

func useGorilla(_ *testing.T, h http.Handler) (http.Handler, func() []int) {
	l := &logs{}
	return handlers.CombinedLoggingHandler(lines{l, regexp.MustCompile(`HTTP/1.1" (\d{3}) `)}, h), l.all
}

// recorder is the smallest middleware: it has neither Unwrap nor Hijack.
type recorder struct {
	http.ResponseWriter
	statuses []int
}

func (r *recorder) WriteHeader(status int) {
	r.statuses = append(r.statuses, status)
	r.ResponseWriter.WriteHeader(status)
}

// record reports all statuses of a request, or 0 if there is none.
func record(h http.Handler, as func(*recorder) http.ResponseWriter) (http.Handler, func() []int) {
	l := &logs{}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r := &recorder{ResponseWriter: w}
		defer func() {
			if len(r.statuses) == 0 {
				l.add(0)
			}
			for _, s := range r.statuses {
				l.add(s)
			}
		}()
		h.ServeHTTP(as(r), req)
	}), l.all
}
