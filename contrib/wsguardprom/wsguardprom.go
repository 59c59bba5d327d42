// Package wsguardprom gives the figures of a Guard to Prometheus.
//
// A [Collector] reads Guard.Stats once for each scrape. Nothing happens on the path of a message,
// and nothing runs between two scrapes:
//
//	prometheus.MustRegister(wsguardprom.New(guard, wsguardprom.Options{}))
//	mux := http.NewServeMux() // and not the mux that clients reach
//	mux.Handle("/metrics", promhttp.Handler())
//	go func() { log.Fatal(http.ListenAndServe("127.0.0.1:9180", mux)) }()
//
// The figures say how busy the server is and whom it refuses. So serve them to your monitoring
// only, and not to the world.
//
// The README of this module lists all metrics. The folder docs/monitoring of wsguard has a
// dashboard for Grafana and alerts for Prometheus that use them.
//
// # Labels
//
// All label values come from closed sets, such as the tokens of package reason. Nothing that a
// peer sends becomes a label or adds a series. Only the application can add series: with reasons
// of reason.New, of which at most 64 are told apart, and with other close codes.
//
// Most counters begin with 0 for each value of their labels, so that the functions rate and
// increase see the first event, too.
package wsguardprom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
)

// Options are the options of New. The zero value is for a process with one Guard.
type Options struct {
	// Name is the value of the label "guard", which all series have. The default is "default".
	// It must be valid UTF-8. Each Guard of a process needs a name of its own. The registry
	// returns an error for a second Collector with the same name, and for a name that is not
	// valid.
	Name string
}

// Collector is a prometheus.Collector for the figures of a Guard. Many goroutines may use it at
// the same time.
type Collector struct {
	stats func() audit.Snapshot // read-only
	descs []*prometheus.Desc    // read-only; one for each of families
}

// New returns a Collector for a Guard. It panics if guard is nil. Register the Collector with a
// prometheus.Registerer.
func New(guard *wsguard.Guard, o Options) *Collector {
	if guard == nil {
		panic("wsguardprom: New needs a Guard")
	}
	return newCollector(guard.Stats, o)
}

func newCollector(stats func() audit.Snapshot, o Options) *Collector {
	if o.Name == "" {
		o.Name = "default"
	}
	c := &Collector{stats: stats}
	for _, f := range families {
		c.descs = append(c.descs, prometheus.NewDesc("wsguard_"+f.name, f.help, f.labels, prometheus.Labels{"guard": o.Name}))
	}
	return c
}

// Describe sends the descriptions of all metrics to out.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect reads the figures of the Guard once and sends them to out.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := c.stats()
	for i, f := range families {
		f.collect(&sink{desc: c.descs[i], born: s.Since, out: out}, &s)
	}
}
