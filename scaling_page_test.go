package wsguard_test

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
)

const scalingPage = "docs/scaling.md"

// docs/scaling.md says of each cap and each rate once for whom it holds.
func TestScalingPage(t *testing.T) {
	listed := map[string]int{}
	tableRows(t, scalingPage, func(heading string, cells []string) {
		if heading == "What holds for all instances together" {
			for _, m := range codeText.FindAllStringSubmatch(cells[0], -1) {
				listed[m[1]]++
			}
		}
	})
	for group, cfg := range map[string]any{"Caps": wsguard.CapConfig{}, "Rates": wsguard.RateConfig{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(cfg)) {
			name := group + "." + f.Name
			switch name {
			case "Rates.Action", "Rates.WarnAt", "Rates.ReportOnly":
				continue // they limit nothing
			}
			if listed[name] != 1 {
				t.Errorf("%s is in %d rows, want 1", name, listed[name])
			}
			delete(listed, name)
		}
	}
	for name := range listed {
		if group, field, ok := strings.Cut(name, "."); ok && (group == "Caps" || group == "Rates") {
			t.Errorf("there is no %s.%s", group, field)
		}
	}
}

// The figures for many connections follow from those that bench/README.md has of one.
func TestScalingPageFigures(t *testing.T) {
	bench, err := os.ReadFile("bench/README.md")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(scalingPage)
	if err != nil {
		t.Fatal(err)
	}
	one, many := map[string][]float64{}, map[string][]float64{}
	tableRows(t, scalingPage, func(heading string, cells []string) {
		switch {
		case heading != "What the store must carry":
		case strings.Contains(cells[1], "C"):
			many[cells[0]] = figures(t, cells[2:])
		default:
			one[cells[0]] = figures(t, cells[1:])
			if row := fmt.Sprintf("| %s | %s |\n", cells[0], strings.Join(cells[2:], " | ")); !strings.Contains(string(bench), row) {
				t.Errorf("bench/README.md does not have %q", row)
			}
		}
	})
	const memory = 311
	for name, text := range map[string]string{scalingPage: string(page), "bench/README.md": string(bench)} {
		if !strings.Contains(text, fmt.Sprint(memory, " bytes")) {
			t.Errorf("%s does not have the memory of a connection", name)
		}
	}
	shake, renewal, refill, end := one["handshake"], one["renewal of one connection"], one["refill of one lease"], one["end of one connection"]
	if len(one) != 4 || len(shake) != 4 || len(renewal) != 4 || len(refill) != 4 || len(end) != 4 {
		t.Fatalf("the costs of one are %v", one)
	}
	const core, mega = 1e4, 1e6 // microseconds per second and percent; bytes per MB
	perC := map[string]float64{
		"calls per second for handshakes":        shake[0] / 600,
		"calls per second for renewals":          renewal[0] / 10,
		"calls per second for refills":           4 * refill[0] / 100,
		"CPU without refills, % of one core":     ((shake[1]+end[1])/600 + renewal[1]/10) / core,
		"CPU of refills, % of one core":          4 * refill[1] / 100 / core,
		"memory, MB":                             memory / mega,
		"MB per second to Redis without refills": ((shake[2]+end[2])/600 + renewal[2]/10) / mega,
		"MB per second to Redis for refills":     4 * refill[2] / 100 / mega,
		"MB per second from Redis":               ((shake[3]+end[3])/600 + renewal[3]/10 + 4*refill[3]/100) / mega,
	}
	for name, per := range perC {
		got := many[name]
		if len(got) != 3 {
			t.Errorf("%s: %v, want three figures", name, got)
			continue
		}
		for i, c := range []float64{1e4, 1e5, 1e6} {
			if want := per * c; math.Abs(got[i]-want) > 0.06*want+0.005 {
				t.Errorf("%s at %.0f connections: %v, want %.3f", name, c, got[i], want)
			}
		}
	}
	if len(many) != len(perC) {
		t.Errorf("%d rows, want %d", len(many), len(perC))
	}
}

func figures(t *testing.T, cells []string) (all []float64) {
	t.Helper()
	for _, cell := range cells {
		n, err := strconv.ParseFloat(cell, 64)
		if err != nil {
			t.Errorf("%q is no figure", cell)
		}
		all = append(all, n)
	}
	return all
}

// MaxConnsPerClient and MaxUnauthenticated hold in each instance.
func TestSharedCapsOfAnInstance(t *testing.T) {
	for name, tt := range map[string]struct {
		auth wsguard.AuthConfig
		caps wsguard.CapConfig
	}{
		"client":          {wsguard.AuthConfig{InsecureAnonymous: true}, wsguard.CapConfig{MaxConnsPerClient: 1, MaxUsersPerClient: 8}},
		"unauthenticated": {wsguard.AuthConfig{Verifier: anyone, Sources: wsguard.TokenSources{FirstMessage: true}}, wsguard.CapConfig{MaxUnauthenticated: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := newCluster().two(t, wsguard.Config{Auth: tt.auth, Caps: tt.caps})
				for _, e := range []*env{a, b} {
					defer e.open(header()).Close()
				}
			})
		})
	}
}

// A cap that is only reported refuses nothing, and takes no slots of the store.
func TestSharedCapsReportOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := newCluster().two(t, wsguard.Config{Auth: wsguard.AuthConfig{Verifier: anyone}, Caps: wsguard.CapConfig{MaxConns: 1, ReportOnly: true}})
		for _, e := range []*env{a, b} {
			defer e.open(bearer("alice")).Close()
			if n := e.g.Stats().Shared.Slots; n != 0 {
				t.Errorf("%d slots, want 0", n)
			}
		}
	})
}
