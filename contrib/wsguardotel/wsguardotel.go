// Package wsguardotel gives the figures of a wsguard.Guard to OpenTelemetry as metrics, and its
// handshakes as spans. New Relic, Datadog and others take both over OTLP.
//
// # Usage
//
// One Config serves a Guard. Observer makes the spans, and Register the metrics:
//
//	cfg := wsguardotel.Config{Histograms: &wsguardotel.Histograms{}}
//	guard, err := wsguard.New(wsguard.Config{
//		…
//		Observer: wsguardotel.Observer(cfg),
//	})
//	…
//	metrics, err := wsguardotel.Register(guard, cfg)
//	…
//	defer metrics.Unregister()
//
// The reader of the MeterProvider needs the Histograms as well, as [Histograms] says. README.md
// has the whole set-up, and tables of all metrics and attributes.
//
// # Cost
//
// Nothing of this package runs when a message comes or goes. The metrics are read from
// Guard.Stats, once for each collection. A handshake costs the guard one record, and the span is
// made on the goroutine of Config.Observer.
package wsguardotel

import (
	"cmp"
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/wsguard/wsguard/audit"
)

// Scope is the name of the instrumentation scope of all metrics and spans.
const Scope = "github.com/wsguard/wsguard/contrib/wsguardotel"

// Config says how a Guard reports to OpenTelemetry. Its zero value is ready to use.
type Config struct {
	// Name tells the Guards of a process apart. All metrics have it as the attribute "guard", and
	// all spans have it as "wsguard.guard". The default is "default". Each Guard of a process
	// needs a Name of its own, because the metrics of two Guards overwrite each other otherwise.
	Name string

	// MeterProvider makes the instruments. The default is otel.GetMeterProvider.
	MeterProvider metric.MeterProvider

	// TracerProvider makes the spans. The default is otel.GetTracerProvider.
	TracerProvider trace.TracerProvider

	// Histograms gets the distributions of the Guard. The default is to report none. Several
	// Guards can have the same Histograms.
	Histograms *Histograms

	// Subject adds the subject of a handshake to its span, as "wsguard.subject". A subject may be
	// personal data, and no attribute has it by default. Metrics never have it.
	Subject bool

	// Next is called with each record after the span has been made, on the same goroutine. It is
	// for an observer of the application's own. The default calls nothing.
	Next func(context.Context, audit.Record)
}

// name returns the Name or its default.
func (cfg Config) name() string { return cmp.Or(cfg.Name, "default") }

// text returns an attribute whose value is valid UTF-8. An exporter drops a whole batch because of
// one value that is not.
func text(key attribute.Key, value string) attribute.KeyValue {
	return key.String(strings.ToValidUTF8(value, "\uFFFD"))
}
