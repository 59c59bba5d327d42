package wsguardotel

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// full returns figures that give each instrument a value of each attribute.
func full() audit.Snapshot {
	now := time.Now()
	h := audit.Histogram{Count: 3, Sum: 3, Buckets: []audit.Bucket{{Upper: 0.5, Count: 2}, {Upper: 2, Count: 1}}}
	return audit.Snapshot{
		Time: now, Since: now.Add(-time.Hour), Open: 1, HandshakesAccepted: 7,
		HandshakesRefused: map[string]uint64{"origin": 2}, HandshakesReported: map[string]uint64{"host": 1},
		Closed: map[audit.Closing]uint64{
			{By: audit.ByApplication, Code: 1000}: 3, {Reason: reason.Kicked.Token(), By: audit.ByOperator, Code: 1008}: 1,
			{Reason: reason.PongTimeout.Token(), By: audit.ByGuard, Code: 3008}: 4, {By: audit.ByPeer}: 5,
		},
		Violations: map[audit.Offence]uint64{{Reason: "schema", Action: audit.ActionClose}: 1}, Warnings: map[string]uint64{"panic": 1},
		Spikes: map[string]uint64{"bytes": 1}, Spiking: []audit.Spike{{Of: "bytes"}},
		Tables:           map[string]audit.Table{"clients": {Tracked: 5, Penalised: 2, Evicted: 1}},
		Limits:           []audit.Limit{{Name: "Caps.MaxConns", Max: 10, Used: 5}, {Name: "Rates.MaxInFlight"}},
		Shared:           audit.Shared{Instances: 3, Calls: map[audit.StoreCall]uint64{{Operation: "admit", Result: "ok"}: 1}},
		HandshakeSeconds: h, ConnectionSeconds: h, MessageBytes: h, PingSeconds: h,
	}
}

// inPrometheus returns the name that Prometheus gives a metric of OpenTelemetry.
func inPrometheus(name, unit string, k kind) string {
	name = strings.ReplaceAll(name, ".", "_")
	suffix := map[string]string{"s": "seconds", "By": "bytes"}[unit]
	if unit == "1" && k == fraction {
		suffix = "ratio"
	}
	if suffix != "" && !slices.Contains(strings.Split(name, "_"), suffix) {
		name += "_" + suffix
	}
	if k == counter {
		name += "_total"
	}
	return name
}

// rows returns the rows that the tables of metrics in README.md must have.
func rows() (metrics, bounds []string) {
	const histogram kind = -1
	s := full()
	row := func(name, instrument, unit, attributes string, k kind) {
		if unit == "" {
			unit = " "
		} else {
			unit = " `" + unit + "` "
		}
		metrics = append(metrics, strings.TrimSpace(fmt.Sprintf("| `%s` | %s |%s|%s| `%s` |", name, instrument, unit, attributes, inPrometheus(name, strings.Trim(unit, " `"), k))))
	}
	kinds := map[kind]string{counter: "counter", upDown: "up-down counter", gauge: "gauge", fraction: "gauge"}
	for _, i := range instruments {
		row(i.name, kinds[i.kind], i.unit, attributesOf(i, &s), i.kind)
	}
	for _, d := range distributions {
		row(d.name, "histogram", d.unit, " ", histogram)
		unit := map[string]string{"s": " s", "By": " bytes"}[d.unit]
		last := d.bounds[len(d.bounds)-1]
		bounds = append(bounds, fmt.Sprintf("| `%s` | %s%s | %s%s | %v |", d.name, plain(d.bounds[0]), unit, plain(last), unit, math.Round(d.bounds[1]/d.bounds[0])))
	}
	return metrics, bounds
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// attributesOf returns the names of the attributes of an instrument, except for guard.
func attributesOf(i instrument, s *audit.Snapshot) string {
	keys := map[string]bool{}
	i.observe(s, func(_ float64, attributes ...attribute.KeyValue) {
		for _, a := range attributes {
			keys["`"+string(a.Key)+"`"] = true
		}
	})
	if len(keys) == 0 {
		return " "
	}
	var list []string
	for k := range keys {
		list = append(list, k)
	}
	slices.Sort(list)
	return " " + strings.Join(list, ", ") + " "
}

// TestREADME compares the tables of metrics in README.md with those in the code.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	page := regexp.MustCompile("(?m)^\\| `wsguard\\..*").FindAllString(string(text), -1)
	page = slices.DeleteFunc(page, func(row string) bool {
		key := regexp.MustCompile("^\\| `([a-z_.]+)`").FindStringSubmatch(row)
		return key != nil && strings.Contains(spanKeys, " "+key[1]+" ")
	})
	metrics, bounds := rows()
	if want := append(metrics, bounds...); !slices.Equal(page, want) {
		t.Errorf("README.md has\n%s\nwant\n%s", strings.Join(page, "\n"), strings.Join(want, "\n"))
	}
}

// spanKeys are the attributes of spans that have a row of their own.
const spanKeys = " wsguard.guard wsguard.endpoint wsguard.request_id wsguard.origin wsguard.subject wsguard.connection_id wsguard.subprotocol wsguard.close_code "

// TestNamesOfPrometheus compares the names in Prometheus with those of contrib/wsguardprom, so that a
// dashboard of one can be used for the other.
func TestNamesOfPrometheus(t *testing.T) {
	text, err := os.ReadFile("../wsguardprom/README.md")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("there is no contrib/wsguardprom")
	}
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(wsguard_[a-z_]+)").FindAllStringSubmatch(string(text), -1) {
		theirs[m[1]] = true
	}
	metrics, _ := rows()
	for _, row := range metrics {
		name := regexp.MustCompile("wsguard_[a-z_]+").FindString(row)
		if !theirs[name] {
			t.Errorf("wsguardprom has no %s", name)
		}
		delete(theirs, name)
	}
	for name := range theirs {
		t.Errorf("wsguardotel has no %s", name)
	}
}
