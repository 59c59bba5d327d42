package wsguardprom

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v2"

	"github.com/wsguard/wsguard/audit"
)

// folder has the dashboard, the rules and their page.
const folder = "../../docs/monitoring"

// read decodes a file of folder into to.
func read(t *testing.T, name string, decode func([]byte, any) error, to any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := decode(b, to); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

type ruleFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

func alerts(t *testing.T) (rules []rule) {
	t.Helper()
	var file ruleFile
	read(t, "alerts.yml", yaml.UnmarshalStrict, &file)
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) == 0 {
		t.Fatal("there are no alerts")
	}
	return rules
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ Type, UID string }
	Targets                  []struct{ RefID, Expr string }
}

type dashboard struct {
	Title, UID    string
	SchemaVersion int
	Panels        []panel
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
}

func theDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	read(t, "dashboard.json", json.Unmarshal, &d)
	return d
}

// exprs returns the expressions of the dashboard by their panels, as Prometheus gets them from
// Grafana.
func (d dashboard) exprs() map[string]string {
	grafana := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*", "$guard", ".*")
	all := map[string]string{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all[fmt.Sprintf("panel %d %s", p.ID, target.RefID)] = grafana.Replace(target.Expr)
		}
	}
	return all
}

// known has each series name of the collector, with the values of its labels. The values of le are
// those of the histogram.
func known(t *testing.T) map[string]map[string]map[string]bool {
	t.Helper()
	names := map[string]map[string]map[string]bool{}
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
	for _, s := range slices.Concat(series(gather(t, of(full(), Options{}))), series(gather(t, New(newGuard(t), Options{})))) {
		name, labels, _ := strings.Cut(s, "{")
		if names[name] == nil {
			names[name] = map[string]map[string]bool{}
		}
		for _, m := range label.FindAllStringSubmatch(labels, -1) {
			if names[name][m[1]] == nil {
				names[name][m[1]] = map[string]bool{}
			}
			names[name][m[1]][m[2]] = true
		}
	}
	return names
}

var (
	selector = regexp.MustCompile(`\b(wsguard_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(!=|=~|!~|=)\s*"([^"]*)"`)
)

// faults says which metrics, labels and label values of an expression the collector does not have.
func faults(expr string, names map[string]map[string]map[string]bool) (faults []string) {
	found := selector.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		faults = append(faults, "no metric in "+expr)
	}
	for _, m := range found {
		labels, ok := names[m[1]]
		if !ok {
			faults = append(faults, "there is no metric "+m[1])
			continue
		}
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if l[1] == "job" || l[1] == "instance" || l[1] == "guard" {
				continue
			}
			for value := range strings.SplitSeq(l[3], "|") {
				if !labels[l[1]][value] {
					faults = append(faults, fmt.Sprintf("%s is never %q for %s", l[1], value, m[1]))
				}
			}
		}
	}
	return faults
}

func TestFaults(t *testing.T) {
	names := known(t)
	for _, expr := range []string{
		`wsguard_nothing`, `rate(wsguard_draining_total[5m])`, `wsguard_draining{reason="x"}`, `1`,
		`wsguard_handshakes_total{result="good"}`, `wsguard_connection_duration_seconds_bucket{le="60"}`,
	} {
		if len(faults(expr, names)) == 0 {
			t.Errorf("no fault in %s", expr)
		}
	}
}

// Each metric, label and value that the alerts, the recorded series and the dashboard use
// exists.
func TestMonitoringMetrics(t *testing.T) {
	names := known(t)
	judge := func(place, expr string) {
		for _, fault := range faults(expr, names) {
			t.Errorf("%s: %s", place, fault)
		}
	}
	for _, r := range alerts(t) {
		judge(r.Alert, r.Expr)
	}
	d := theDashboard(t)
	for place, expr := range d.exprs() {
		judge(place, expr)
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			judge("$"+v.Name, v.Definition)
		}
	}
	for _, test := range recorded(t).Tests {
		for _, s := range test.InputSeries {
			judge("testdata", s.Series)
		}
	}

	// The page names no metric that does not exist.
	page, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`\bwsguard_\w+`).FindAllString(string(page), -1) {
		judge("README.md", name)
	}
}

type testFile struct {
	Tests []struct {
		InputSeries []struct {
			Series string `yaml:"series"`
		} `yaml:"input_series"`
		AlertRuleTest []struct {
			EvalTime  string        `yaml:"eval_time"`
			Alertname string        `yaml:"alertname"`
			ExpAlerts []interface{} `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

func recorded(t *testing.T) (f testFile) {
	t.Helper()
	read(t, "testdata/alerts_test.yml", yaml.Unmarshal, &f)
	return f
}

// claims returns what the row of the page must say about a rule: its ratio, its age and its duration.
func claims(r rule) (claims []string) {
	if m := regexp.MustCompile(`> (0\.\d+)`).FindStringSubmatch(r.Expr); m != nil {
		ratio, _ := strconv.ParseFloat(m[1], 64)
		claims = append(claims, fmt.Sprintf("%.0f %%", 100*ratio))
	}
	if m := regexp.MustCompile(`_age_seconds > (\d+)`).FindStringSubmatch(r.Expr); m != nil {
		claims = append(claims, "more than "+m[1]+" s ")
	}
	if r.For == "1m" {
		claims = append(claims, "a minute")
	} else if minutes, ok := strings.CutSuffix(r.For, "m"); ok {
		claims = append(claims, minutes+" minutes")
	}
	return claims
}

// Each alert has its severity, its texts, a section and a row of the page, and recorded series on
// which it fires and does not.
func TestAlerts(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	var names []string
	quiet, fires := map[string]bool{}, map[string]bool{}
	for _, test := range recorded(t).Tests {
		for _, c := range test.AlertRuleTest {
			if len(c.ExpAlerts) > 0 {
				fires[c.Alertname] = true
			} else {
				quiet[c.Alertname] = true
			}
		}
	}
	for _, r := range alerts(t) {
		names = append(names, r.Alert)
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		for _, a := range []string{"summary", "description", "runbook_url"} {
			if r.Annotations[a] == "" {
				t.Errorf("%s has no annotation %s", r.Alert, a)
			}
		}
		if !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/monitoring/README.md#"+strings.ToLower(r.Alert)) {
			t.Errorf("%s: the runbook is %s", r.Alert, r.Annotations["runbook_url"])
		}
		start := fmt.Sprintf("| [%s](#%s) | %s |", r.Alert, strings.ToLower(r.Alert), r.Labels["severity"])
		_, row, ok := strings.Cut(page, start)
		if row, _, _ = strings.Cut(row, "\n"); !ok {
			t.Errorf("the page has no row %s", start)
		}
		for _, want := range claims(r) {
			if !strings.Contains(row, want) {
				t.Errorf("the row about %s does not say %q: %s", r.Alert, want, row)
			}
		}
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s: fires in a test %t, does not fire in a test %t", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
		_, section, _ := strings.Cut(page, "### "+r.Alert+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		for _, part := range []string{"**What it means.**", "**Likely causes.**", "**What to do.**", "**Who is locked out.**"} {
			if !strings.Contains(section, part) {
				t.Errorf("the section about %s lacks %s", r.Alert, part)
			}
		}
	}
	var sections []string
	for _, m := range regexp.MustCompile(`(?m)^### (.*)$`).FindAllStringSubmatch(page, -1) {
		sections = append(sections, m[1])
	}
	if !slices.Equal(names, sections) {
		t.Errorf("the sections of the page are %q, and the alerts %q", sections, names)
	}
	for _, title := range regexp.MustCompile(`"([A-Z][^"]+)"`).FindAllStringSubmatch(page, -1) {
		if !slices.ContainsFunc(theDashboard(t).Panels, func(p panel) bool { return p.Title == title[1] }) {
			t.Errorf("the dashboard has no panel %q", title[1])
		}
	}
}

// promtool takes the rules, and they fire on the recorded series.
func TestPromtool(t *testing.T) {
	promtool(t, "", "check", "rules", filepath.Join(folder, "alerts.yml"))
	promtool(t, "", "test", "rules", filepath.Join(folder, "testdata/alerts_test.yml"))
}

// The dashboard is one that Grafana can show: panels have their own places, and each asks the
// chosen data source.
func TestDashboard(t *testing.T) {
	d := theDashboard(t)
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 36 {
		t.Errorf("title %q, uid %q, schema %d", d.Title, d.UID, d.SchemaVersion)
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	if !slices.Equal(variables, []string{"datasource", "job", "instance", "guard"}) {
		t.Errorf("the variables are %q", variables)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the ID %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q and %q are in one place", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || !strings.HasSuffix(p.Description, ".") || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %d: %+v", p.ID, p)
		}
		for _, target := range p.Targets {
			for _, v := range variables[1:] {
				if !strings.Contains(target.Expr, v+"=~\"$"+v+"\"") {
					t.Errorf("%s: %s does not obey $%s", p.Title, target.Expr, v)
				}
			}
		}
	}
}

// Each expression of the dashboard gives data for the series that the collector makes, while every
// figure grows.
func TestDashboardHasData(t *testing.T) {
	before, after := values(t, audit.Snapshot{}), values(t, full())
	var rules, inputs, checks []string
	for name, v := range after {
		first := cmp.Or(before[name], "0")
		name = strings.Replace(name, "{", `{job="chat",instance="ws1:9180",`, 1)
		inputs = append(inputs, fmt.Sprintf("{series: '%s', values: '%sx2 %sx20'}", name, first, v))
	}
	all := theDashboard(t).exprs()
	for _, place := range slices.Sorted(maps.Keys(all)) {
		alert := regexp.MustCompile(`\W`).ReplaceAllString(place, "_")
		rules = append(rules, fmt.Sprintf("{alert: %s, expr: 'count(%s) > 0'}", alert, all[place]))
		checks = append(checks, fmt.Sprintf("{eval_time: 5m, alertname: %s, exp_alerts: [{exp_labels: {}}]}", alert))
	}
	dir := t.TempDir()
	list := func(items []string) string { return "[\n" + strings.Join(items, ",\n") + "]" }
	for name, content := range map[string]string{
		"rules.yml": "groups: [{name: dashboard, rules: " + list(rules) + "}]\n",
		"test.yml": "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests: [{interval: 1m, input_series: " + list(inputs) +
			", alert_rule_test: " + list(checks) + "}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "", "check", "rules", filepath.Join(dir, "rules.yml"))
	promtool(t, "", "test", "rules", filepath.Join(dir, "test.yml"))
}

// values returns the value of each series.
func values(t *testing.T, s audit.Snapshot) map[string]string {
	t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(gather(t, of(s, Options{}))) {
		if !strings.HasPrefix(line, "#") {
			i := strings.LastIndexByte(line, ' ')
			m[line[:i]] = strings.TrimSpace(line[i+1:])
		}
	}
	return m
}

// The folder holds the dashboard as JSON, and rule files as YAML, and nothing else but the page.
func TestFolder(t *testing.T) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch name := e.Name(); filepath.Ext(name) {
		case ".yml", ".yaml":
			var f ruleFile
			if read(t, name, yaml.UnmarshalStrict, &f); len(f.Groups) == 0 {
				t.Errorf("%s has no rules", name)
			}
		case ".json":
			var d dashboard
			if read(t, name, json.Unmarshal, &d); len(d.Panels) == 0 {
				t.Errorf("%s is no dashboard", name)
			}
		default:
			if name != "README.md" && name != "testdata" {
				t.Errorf("%s does not belong here", name)
			}
		}
	}
}
