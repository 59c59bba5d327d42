package wsguardotel

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
)

// Register makes the instruments of all figures of the Guard, and reads them from Guard.Stats once
// for each collection. It also adds the Guard to cfg.Histograms. It returns the error of the
// MeterProvider if that refuses an instrument, and has registered nothing then.
//
// Unregister ends the reports. Call it when the Guard has been shut down and another one takes
// its Name. It can be called more than once.
func Register(guard *wsguard.Guard, cfg Config) (metric.Registration, error) {
	if guard == nil {
		return nil, errors.New("wsguardotel: Register needs a Guard")
	}
	return register(guard.Stats, cfg)
}

func register(stats func() audit.Snapshot, cfg Config) (metric.Registration, error) {
	provider := cfg.MeterProvider
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	meter := provider.Meter(Scope)
	made := make([]metric.Observable, len(instruments))
	for i, row := range instruments {
		var err error
		if made[i], err = row.make(meter); err != nil {
			return nil, fmt.Errorf("wsguardotel: %s: %w", row.name, err)
		}
	}
	common := text("guard", cfg.name())
	r, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := stats()
		for i, row := range instruments {
			row.observe(&s, func(v float64, attributes ...attribute.KeyValue) {
				with := metric.WithAttributes(append(attributes, common)...)
				if row.kind == fraction {
					o.ObserveFloat64(made[i].(metric.Float64Observable), v, with)
				} else {
					o.ObserveInt64(made[i].(metric.Int64Observable), int64(v), with)
				}
			})
		}
		return nil
	}, made...)
	if err != nil {
		return nil, fmt.Errorf("wsguardotel: %w", err)
	}
	return &registration{callback: r, remove: cfg.Histograms.add(stats, common)}, nil
}

// registration is what Unregister ends.
type registration struct {
	embedded.Registration
	callback metric.Registration
	remove   func() // from the Histograms
}

// Unregister ends the reports about the Guard.
func (r *registration) Unregister() error {
	r.remove()
	return r.callback.Unregister()
}

// kind says which instrument of OpenTelemetry a figure is.
type kind int

const (
	counter  kind = iota // it only grows
	upDown               // its sum over several processes has a meaning
	gauge                // its sum has none
	fraction             // a gauge whose values need not be whole
)

// observer takes the values of an instrument. They are whole except for a fraction. A float64 is
// exact for counts below 2^53.
type observer func(v float64, attributes ...attribute.KeyValue)

// instrument is a row of the table of instruments.
type instrument struct {
	name, unit, description string
	kind                    kind
	observe                 func(s *audit.Snapshot, to observer)
}

// make makes the instrument.
func (i instrument) make(m metric.Meter) (metric.Observable, error) {
	unit, description := metric.WithUnit(i.unit), metric.WithDescription(i.description)
	switch i.kind {
	case counter:
		return m.Int64ObservableCounter(i.name, unit, description)
	case upDown:
		return m.Int64ObservableUpDownCounter(i.name, unit, description)
	case gauge:
		return m.Int64ObservableGauge(i.name, unit, description)
	}
	return m.Float64ObservableGauge(i.name, unit, description)
}

// number returns the observe function of a figure without attributes.
func number[T int | int64 | uint64](of func(*audit.Snapshot) T) func(*audit.Snapshot, observer) {
	return func(s *audit.Snapshot, to observer) { to(float64(of(s))) }
}

// reasons returns the observe function of counts by reason.
func reasons(of func(*audit.Snapshot) map[string]uint64) func(*audit.Snapshot, observer) {
	return func(s *audit.Snapshot, to observer) {
		for token, n := range of(s) {
			to(float64(n), text("reason", token))
		}
	}
}

// tables returns the observe function of a figure of each table.
func tables[T int | uint64](of func(audit.Table) T) func(*audit.Snapshot, observer) {
	return func(s *audit.Snapshot, to observer) {
		for name, t := range s.Tables {
			to(float64(of(t)), text("table", name))
		}
	}
}

// directions returns the observe function of a count of both directions.
func directions(of func(audit.Traffic) uint64) func(*audit.Snapshot, observer) {
	return func(s *audit.Snapshot, to observer) {
		to(float64(of(s.In)), text("direction", "in"))
		to(float64(of(s.Out)), text("direction", "out"))
	}
}
