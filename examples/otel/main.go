// Command otel is an echo server whose metrics and spans go to a collector of OpenTelemetry, over
// OTLP. The README says how to try it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends. It says on stdout where.
func run(ctx context.Context, addr string, stdout io.Writer) (err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	t, err := newTelemetry(ctx)
	if err != nil {
		return err
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins:            []string{"http://" + l.Addr().String()},
		AllowMissingOrigin: true, // programs may connect as well
		Hosts:              []string{l.Addr().String()},
		Auth:               wsguard.AuthConfig{InsecureAnonymous: true},
		Name:               "echo",
		Observer:           wsguardotel.Observer(t.cfg),
	})
	if err != nil {
		return errors.Join(err, t.shutdown())
	}
	metrics, err := wsguardotel.Register(guard, t.cfg)
	if err != nil {
		return errors.Join(err, t.shutdown())
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", guard.Handler(echo))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	fmt.Fprintf(stdout, "listening on http://%s\n", l.Addr())
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	// The guard first, so that the collector gets what has happened at the end.
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(err, guard.Shutdown(end), srv.Shutdown(end), t.shutdown(), metrics.Unregister())
}

// echo sends each message back.
func echo(ctx context.Context, c *wsguard.Conn) error {
	for {
		kind, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, kind, msg); err != nil {
			return err
		}
	}
}

// telemetry has the providers of the process. A program has one of it.
type telemetry struct {
	meters  *metric.MeterProvider
	tracers *trace.TracerProvider
	cfg     wsguardotel.Config // uses both
}

// newTelemetry makes the providers. The exporters read their endpoint, headers and temporality from
// the variables OTEL_EXPORTER_OTLP_…, and the SDK reads the name of the service from
// OTEL_SERVICE_NAME.
func newTelemetry(ctx context.Context) (*telemetry, error) {
	metrics, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, err
	}
	spans, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	histograms := &wsguardotel.Histograms{Temporality: metrics.Temporality}
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(metrics, metric.WithProducer(histograms))))
	tracers := trace.NewTracerProvider(trace.WithBatcher(spans))
	return &telemetry{meters, tracers, wsguardotel.Config{MeterProvider: meters, TracerProvider: tracers, Histograms: histograms}}, nil
}

// shutdown sends what the collector has not got yet.
func (t *telemetry) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(t.meters.Shutdown(ctx), t.tracers.Shutdown(ctx))
}
