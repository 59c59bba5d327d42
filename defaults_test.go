package wsguard_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/jsonschema"
)

// quantity is a number, a duration or a rate, as a page of the documentation or a
// Config has it. Two of them are comparable.
type quantity struct {
	kind  string  // "number", "duration" or "rate"
	value float64 // bytes, nanoseconds, tokens per second
	burst float64 // of a rate
}

func (q quantity) String() string {
	switch q.kind {
	case "duration":
		return time.Duration(q.value).String()
	case "rate":
		return fmt.Sprintf("%v/s, burst %v", q.value, q.burst)
	}
	return fmt.Sprint(q.value)
}

// none reports whether q is no limit at all.
func (q quantity) none() bool {
	return q.value == 0 && q.burst == 0 || q.kind == "rate" && q.value == wsguard.Off
}

// leaves calls f for each number, duration and rate within v, with the name of
// its field, such as Auth.Tickets.TTL. Actions are not limits.
func leaves(prefix string, v reflect.Value, f func(string, quantity)) {
	switch x := v.Interface().(type) {
	case wsguard.Action, wsguard.Proxies:
	case wsguard.Rate:
		f(prefix, quantity{"rate", x.PerSecond, float64(x.Burst)})
	case time.Duration:
		f(prefix, quantity{"duration", float64(x), 0})
	case int, int64, float64:
		f(prefix, quantity{"number", v.Convert(reflect.TypeFor[float64]()).Float(), 0})
	default:
		if v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct && !v.IsNil() && strings.HasPrefix(v.Type().Elem().PkgPath(), modulePath) {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct || !strings.HasPrefix(v.Type().PkgPath(), modulePath) {
			return
		}
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				leaves(strings.TrimPrefix(prefix+"."+field.Name, "."), v.Field(i), f)
			}
		}
	}
}

// defaults are the values that a Guard gives to a Config whose limits are all zero.
func defaults(t *testing.T) map[string]quantity {
	t.Helper()
	g, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}}})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]quantity{}
	leaves("", reflect.ValueOf(g.Resolved()), func(name string, q quantity) { all[name] = q })
	if len(all) < 35 {
		t.Fatalf("only %d limits: %v", len(all), all)
	}
	json := jsonschema.DefaultLimits()
	leaves("JSON", reflect.ValueOf(json), func(name string, q quantity) { all[name] = q })
	return all
}

var (
	numberText = `(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)(?: (KiB|MiB|GiB)\b)?`

	// notQuantities are the numbers in a cell that are no values of a limit.
	notQuantities = regexp.MustCompile("±\\d+ %|\\d+ %|/\\d+|\\d+ bits|`[^`]*`")

	quantities = regexp.MustCompile(
		numberText + `(?:/s, burst |(?: \w+)? per second,? (?:with|and) a burst of )` + numberText +
			`|(\d+(?:\.\d+)?) (ms|s|min|h)\b` +
			`|` + numberText)
)

// parseQuantities returns what a text says in numbers, in its order.
func parseQuantities(text string) (all []quantity) {
	number := func(digits, unit string) float64 {
		n, err := strconv.ParseFloat(strings.ReplaceAll(digits, ",", ""), 64)
		if err != nil {
			return math.NaN()
		}
		return n * map[string]float64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
	}
	for _, m := range quantities.FindAllStringSubmatch(notQuantities.ReplaceAllString(text, " "), -1) {
		switch {
		case m[1] != "":
			all = append(all, quantity{"rate", number(m[1], m[2]), number(m[3], m[4])})
		case m[5] != "":
			unit := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour}[m[6]]
			all = append(all, quantity{"duration", number(m[5], "") * float64(unit), 0})
		default:
			all = append(all, quantity{"number", number(m[7], m[8]), 0})
		}
	}
	return all
}

func TestParseQuantities(t *testing.T) {
	for text, want := range map[string][]quantity{
		"256 KiB/s, burst 1 MiB; 20/s, burst 40":              {{"rate", 256 << 10, 1 << 20}, {"rate", 20, 40}},
		"20 messages per second with a burst of 40, and more": {{"rate", 20, 40}},
		"10,000; 64 per client; 1,024 per /48; 16 per":        {{"number", 10_000, 0}, {"number", 64, 0}, {"number", 1024, 0}, {"number", 16, 0}},
		"25 s ±10 %, 10 s":                                    {{"duration", 25e9, 0}, {"duration", 10e9, 0}},
		"256 messages, 1 MiB; 12 h, 50 ms, 5 min":             {{"number", 256, 0}, {"number", 1 << 20, 0}, {"duration", 12 * 3600e9, 0}, {"duration", 50e6, 0}, {"duration", 300e9, 0}},
		"128 bits, 30 s, once, at 80 % of `a 77 b`":           {{"duration", 30e9, 0}},
		"64, and one for each KiB of it: 96":                  {{"number", 64, 0}, {"number", 96, 0}},
		"0.1/s, burst 20":                                     {{"rate", 0.1, 20}},
		"none":                                                nil,
	} {
		if got := parseQuantities(text); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// compareDefaults checks that the values of fields occur in a cell, in their order.
// A cell may say more, such as the formula of a default.
func compareDefaults(t *testing.T, place, cell string, fields []string, want map[string]quantity) {
	t.Helper()
	says := parseQuantities(cell)
	for _, field := range fields {
		q, ok := want[field]
		switch {
		case !ok:
			t.Errorf("%s: there is no limit %s", place, field)
		case q.none():
			if !strings.Contains(cell, "none") {
				t.Errorf("%s: the default of %s is none; the page says %q", place, field, cell)
			}
		default:
			i := slices.Index(says, q)
			if i < 0 {
				t.Errorf("%s: the default of %s is %v; the page says %q", place, field, q, cell)
				continue
			}
			says = says[i+1:]
		}
	}
}

// tableRows returns the cells of the rows of each table in a page, with the
// heading above it. Heads and rules of tables are left out.
func tableRows(t *testing.T, name string, row func(heading string, cells []string)) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	heading := ""
	lines := strings.Split(string(b), "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "#"); ok {
			heading = strings.TrimSpace(strings.TrimLeft(rest, "#"))
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|-") || i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|-") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		row(heading, cells)
	}
}

var codeText = regexp.MustCompile("`([^`]+)`")

// TestLimitsPage compares the tables of docs/limits.md with what a Guard does. The
// first cell of a row names the limits. A name without a dot has the prefix of the
// one before it, or the one in the heading.
func TestLimitsPage(t *testing.T) {
	want := defaults(t)
	listed := map[string]bool{}
	tableRows(t, "docs/limits.md", func(heading string, cells []string) {
		if !strings.HasPrefix(cells[0], "`") {
			return // a table of something else
		}
		prefix := ""
		if m := codeText.FindStringSubmatch(heading); m != nil {
			prefix = m[1] + "."
		}
		var fields []string
		for _, m := range codeText.FindAllStringSubmatch(cells[0], -1) {
			name := m[1]
			if i := strings.LastIndex(name, "."); i >= 0 {
				prefix = name[:i+1]
			} else {
				name = prefix + name
			}
			if strings.HasPrefix(name, "Rule.") {
				continue // of a Table, which a Config need not have
			}
			fields = append(fields, name)
			if listed[name] {
				t.Errorf("docs/limits.md has %s twice", name)
			}
			listed[name] = true
		}
		// The default stands in the cell before the last.
		compareDefaults(t, "docs/limits.md", cells[len(cells)-2], fields, want)
	})
	for name := range want {
		if !listed[name] && !strings.HasPrefix(name, "JSON.") {
			t.Errorf("docs/limits.md has no row for %s", name)
		}
	}
}

// TestREADMEDefaults compares the README's table of defaults with what a Guard does.
func TestREADMEDefaults(t *testing.T) {
	want := defaults(t)
	for _, who := range []string{"Client", "Subject"} {
		messages := want["Rates."+who+"Messages"].value / want["Rates.Messages"].value
		bytes := want["Rates."+who+"Bytes"].value / want["Rates.Bytes"].value
		if messages != bytes {
			t.Errorf("%v times the messages and %v times the bytes per %s", messages, bytes, who)
		}
		want["times per "+who] = quantity{"number", messages, 0}
	}
	fields := map[string][]string{
		"message":                          {"Messages.MaxBytes"},
		"frames per message":               {"Messages.MaxFragments"},
		"control frames":                   {"Messages.ControlFrames"},
		"message deadline":                 {"Messages.Timeout"},
		"messages per connection":          {"Rates.Messages"},
		"bytes per connection":             {"Rates.Bytes"},
		"per client, per subject":          {"times per Client", "times per Subject"},
		"connections":                      {"Caps.MaxConns", "Caps.MaxConnsPerClient", "Caps.MaxConnsPerNetwork", "Caps.MaxConnsPerSubject"},
		"JSON":                             {"JSON.Depth", "JSON.Keys", "JSON.NumberBytes"},
		"ping, pong":                       {"Timeouts.PingInterval", "Timeouts.Pong"},
		"idle":                             {"Timeouts.Idle"},
		"lifetime":                         {"Timeouts.Lifetime"},
		"write timeout":                    {"Timeouts.Write"},
		"Send queue":                       {"Send.MaxMessages", "Send.MaxBytes", "Send.MaxTotalBytes"},
		"handshakes per client or subject": {"Rates.Handshakes"},
		"failed credentials":               {"Auth.Failures"},
		"ticket":                           {"Auth.Tickets.TTL"},
		"close grace, linger":              {"Timeouts.CloseGrace", "Timeouts.Linger"},
	}
	tableRows(t, "README.md", func(heading string, cells []string) {
		if heading != "Defaults" {
			return
		}
		for ; len(cells) >= 2; cells = cells[2:] {
			named, ok := fields[cells[0]]
			if !ok {
				t.Errorf("README.md: no limits are known for the row %q", cells[0])
			}
			delete(fields, cells[0])
			compareDefaults(t, "README.md, "+cells[0], cells[1], named, want)
		}
	})
	for label := range fields {
		t.Errorf("README.md has no row %q", label)
	}
}

// The bounds of JSON stand in docs/schemas.md, in a sentence.
func TestSchemasPageDefaults(t *testing.T) {
	b, err := os.ReadFile("docs/schemas.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, paragraph := range strings.Split(string(b), "\n\n") {
		if strings.Contains(paragraph, "a message is strict JSON") {
			compareDefaults(t, "docs/schemas.md", paragraph, []string{"JSON.Depth", "JSON.Keys", "JSON.KeyBytes", "JSON.NumberBytes", "JSON.Exponent"}, defaults(t))
			return
		}
	}
	t.Error("docs/schemas.md does not say what strict JSON is")
}

// TestDefaultsInComments compares the doc comments of the configuration's fields
// with what a Guard does, as far as they have a value of the same kind behind the
// word "default".
func TestDefaultsInComments(t *testing.T) {
	want := defaults(t)
	prefixes := map[string]string{} // of the fields of a type
	var visit func(prefix string, typ reflect.Type)
	visit = func(prefix string, typ reflect.Type) {
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ.PkgPath() != modulePath || prefixes[typ.Name()] != "" {
			return
		}
		prefixes[typ.Name()] = prefix
		for i := range typ.NumField() {
			visit(prefix+typ.Field(i).Name+".", typ.Field(i).Type)
		}
	}
	visit("", reflect.TypeFor[wsguard.Config]())
	prefixes["Config"] = ""

	compared := 0
	after := regexp.MustCompile(`(?is)\bdefault\b(.*)`)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			prefix, known := prefixes[spec.Name.Name]
			st, isStruct := spec.Type.(*ast.StructType)
			if !known || !isStruct {
				return true
			}
			for _, field := range st.Fields.List {
				m := after.FindStringSubmatch(field.Doc.Text() + " " + field.Comment.Text())
				if m == nil {
					continue
				}
				for _, id := range field.Names {
					q := want[prefix+id.Name]
					same := slices.DeleteFunc(parseQuantities(m[1]), func(o quantity) bool { return o.kind != q.kind })
					if len(same) == 0 || q.none() {
						continue
					}
					compared++
					if !slices.Contains(same, q) {
						t.Errorf("%s: the default of %s%s is %v; its comment says %q", name, prefix, id.Name, q, strings.TrimSpace(m[1]))
					}
				}
			}
			return true
		})
	}
	t.Logf("%d comments compared", compared)
	if compared < 20 {
		t.Errorf("only %d comments were compared", compared)
	}
}
