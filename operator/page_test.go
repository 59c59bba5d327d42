package operator_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/operator"
)

// rows returns the cells of the tables of a page whose heading is given, without the first row.
func rows(t *testing.T, heading string) (all [][]string) {
	t.Helper()
	b, err := os.ReadFile("../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(b), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/operators.md has no %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "| `") && !regexp.MustCompile(`^\| \d`).MatchString(line) {
			continue
		}
		var cells []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		all = append(all, cells)
	}
	return all
}

var code = regexp.MustCompile("`([^`]+)`")

// The tables of docs/operators.md have each path, its parameters and its body.
func TestOperatorsPagePaths(t *testing.T) {
	e := newEnv(t, nil, operator.Config{})
	var seen []string
	for _, cells := range rows(t, "Reading") {
		path := strings.Trim(cells[0], "`")
		seen = append(seen, path)
		var known []string
		for _, m := range code.FindAllStringSubmatch(cells[1], -1) {
			known = append(known, m[1])
		}
		for _, name := range []string{"limit", "cursor", "subject", "client", "reason"} {
			want := 400
			if slices.Contains(known, name) {
				want = 200
			}
			value := map[string]string{"limit": "5", "client": "192.0.2.1", "cursor": ""}[name]
			if res := e.do("GET", path+"?"+name+"="+value, ""); res.StatusCode != want {
				t.Errorf("%s with %s: %d, want %d", path, name, res.StatusCode, want)
			}
		}
		answer := e.get(path)
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			if _, found := answer[m[1]]; !found && m[1] != "next" && !strings.Contains(m[1], ".") {
				t.Errorf("%s: no %s in %v", path, m[1], answer)
			}
		}
	}
	for _, cells := range rows(t, "Acting") {
		path := strings.Trim(cells[0], "`")
		seen = append(seen, path)
		res := e.do("POST", path, strings.NewReplacer("`", "", "…", "x").Replace(cells[1]))
		if res.StatusCode != 200 && res.StatusCode != 404 {
			e.want(res, 200, "")
		}
	}
	all := slices.Clone(reads)
	for path := range acts {
		all = append(all, path)
	}
	slices.Sort(all)
	slices.Sort(seen)
	if !slices.Equal(seen, all) {
		t.Errorf("the page has %v, and the handler %v", seen, all)
	}
}

// The table of errors has each error that the code can answer with.
func TestOperatorsPageErrors(t *testing.T) {
	inCode, onPage := map[string]bool{}, map[string]bool{}
	files, _ := filepath.Glob("*.go")
	status := map[string]int{
		"BadRequest": 400, "Unauthorized": 401, "Forbidden": 403, "NotFound": 404, "MethodNotAllowed": 405, "RequestEntityTooLarge": 413,
		"UnsupportedMediaType": 415, "ServiceUnavailable": 503,
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:fail\(|failure\{)http\.Status(\w+), "(\w+)"`).FindAllStringSubmatch(string(b), -1) {
			if !strings.HasSuffix(name, "_test.go") {
				inCode[fmt.Sprint(status[m[1]], " ", m[2])] = true
			}
		}
	}
	for _, cells := range rows(t, "Errors") {
		onPage[cells[0]+" "+strings.Trim(cells[1], "`")] = true
	}
	if fmt.Sprint(inCode) != fmt.Sprint(onPage) {
		t.Errorf("the code has %v, and the page %v", inCode, onPage)
	}
}
