package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardotel"
	"github.com/wsguard/wsguard/contrib/wsguardprom"
)

// watched is a server that everything is attached to.
const watched = "wsguard, log, Prometheus and OpenTelemetry"

// guardWatched writes its log to nowhere, is scraped by Prometheus every second, and gives its
// figures and spans to exporters of OpenTelemetry that drop them.
func guardWatched(origin string) http.Handler {
	histograms := &wsguardotel.Histograms{}
	reader := metric.NewPeriodicReader(noExporter{}, metric.WithInterval(time.Second), metric.WithProducer(histograms))
	otel := wsguardotel.Config{
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(reader)),
		TracerProvider: trace.NewTracerProvider(trace.WithBatcher(noSpans{})),
		Histograms:     histograms,
	}
	guard := newGuardWith(origin, func(cfg *wsguard.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		cfg.Observer = wsguardotel.Observer(otel)
	})
	if _, err := wsguardotel.Register(guard, otel); err != nil {
		panic(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(wsguardprom.New(guard, wsguardprom.Options{Name: "bench"}))
	go func() { // until the process ends
		for range time.Tick(time.Second) {
			registry.Gather()
		}
	}()
	return guardEcho(guard)
}

// noExporter drops metrics.
type noExporter struct{}

func (noExporter) Temporality(metric.InstrumentKind) metricdata.Temporality {
	return metricdata.CumulativeTemporality
}

func (noExporter) Aggregation(k metric.InstrumentKind) metric.Aggregation {
	return metric.DefaultAggregationSelector(k)
}

func (noExporter) Export(context.Context, *metricdata.ResourceMetrics) error { return nil }
func (noExporter) ForceFlush(context.Context) error                          { return nil }
func (noExporter) Shutdown(context.Context) error                            { return nil }

// noSpans drops spans.
type noSpans struct{}

func (noSpans) ExportSpans(context.Context, []trace.ReadOnlySpan) error { return nil }
func (noSpans) Shutdown(context.Context) error                          { return nil }
