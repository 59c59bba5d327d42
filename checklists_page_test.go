package wsguard_test

import (
	"go/ast"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
)

const (
	checklistsPage = "docs/security-checklists.md"
	comparisonPage = "docs/comparison.md"
)

// TestChecklistsPageRows checks the form of the tables: a row says in one of four
// words whether the guard does it, names tests that exist unless the word is no,
// and says what is left to do unless the word is yes.
func TestChecklistsPageRows(t *testing.T) {
	t.Parallel()
	tests := testNames(t)
	words := map[string]int{}
	for _, row := range checklistRows(t) {
		word, does, shown, yours := row.cells[0], row.cells[1], row.cells[2], row.cells[3]
		words[word]++
		named := codeText.FindAllStringSubmatch(shown, -1)
		for _, m := range named {
			if !tests[m[1]] {
				t.Errorf("%s: there is no test %s", row.name, m[1])
			}
		}
		switch word {
		case "yes", "if set", "part":
			if len(named) == 0 || does == "-" {
				t.Errorf("%s: the row says %q and not what shows it", row.name, word)
			}
			if word == "part" && yours == "-" {
				t.Errorf("%s: the row says part and not what is missing", row.name)
			}
		case "no":
			if yours == "-" {
				t.Errorf("%s: the row says no and not what to do", row.name)
			}
		default:
			t.Errorf("%s: %q is none of the four words", row.name, word)
		}
	}
	for _, word := range []string{"yes", "if set", "part", "no"} {
		if words[word] < 10 {
			t.Errorf("only %d rows say %q", words[word], word)
		}
	}
}

// TestChecklistsPageNumbers compares the numbers and the levels of ASVS with those
// that were published. The page has them in their order, and all of section 4.4.
func TestChecklistsPageNumbers(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/asvs-5.0.0.txt")
	if err != nil {
		t.Fatal(err)
	}
	levels, place, section := map[string]string{}, map[string]int{}, map[string]bool{}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		if number, level, ok := strings.Cut(line, " "); ok && number != "#" {
			levels[number], place[number] = level, i
			if strings.HasPrefix(number, "4.4.") {
				section[number] = true
			}
		}
	}
	if len(levels) != 345 || len(section) != 4 {
		t.Fatalf("the list has %d requirements, and section 4.4 has %d", len(levels), len(section))
	}
	last := -1
	for _, row := range checklistRows(t) {
		if row.level == "" {
			continue
		}
		if levels[row.name] != row.level {
			t.Errorf("ASVS %s has the level %q, and the page says %s", row.name, levels[row.name], row.level)
		}
		if place[row.name] <= last {
			t.Errorf("ASVS %s is in the wrong place", row.name)
		}
		last = place[row.name]
		delete(section, row.name)
	}
	for number := range section {
		t.Errorf("the page does not have ASVS %s", number)
	}
}

// TestChecklistsPageWeaknesses checks that each threat has a weakness of the CWE.
// TestCitations checks that the threats exist.
func TestChecklistsPageWeaknesses(t *testing.T) {
	t.Parallel()
	mapped := map[string]bool{}
	number := regexp.MustCompile(`^\[(\d+)\]\(https://cwe\.mitre\.org/data/definitions/(\d+)\.html\)$`)
	tableRows(t, checklistsPage, func(heading string, cells []string) {
		if heading != "CWE" {
			return
		}
		if m := number.FindStringSubmatch(cells[0]); m == nil || m[1] != m[2] || len(cells) != 3 {
			t.Errorf("the row is %q", cells)
			return
		}
		for _, id := range strings.Split(cells[2], ", ") {
			mapped[id] = true
		}
	})
	tableRows(t, "docs/threats.md", func(_ string, cells []string) {
		if !mapped[cells[0]] {
			t.Errorf("%s has no weakness", cells[0])
		}
	})
}

// TestChecklistsPageNames checks that what both pages name by its Go name exists: a
// field of Config, or something that a package for users exports.
func TestChecklistsPageNames(t *testing.T) {
	t.Parallel()
	known := exportedNames(t)
	goName := regexp.MustCompile(`^[A-Z]\w*(\.[A-Z]\w*)*$`)
	others := []string{
		"NextReader", "Reader", "ReadClientData", "Authorize", // of libraries
		"ClientAuth", "ErrorLog", // of net/http
	}
	checked := 0
	for _, name := range []string{checklistsPage, comparisonPage} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range codeText.FindAllStringSubmatch(string(b), -1) {
			if !goName.MatchString(m[1]) || strings.HasPrefix(m[1], "Test") || strings.HasPrefix(m[1], "Fuzz") || slices.Contains(others, m[1]) {
				continue
			}
			checked++
			if !known[m[1]] {
				t.Errorf("%s names %s, which does not exist", name, m[1])
			}
		}
	}
	if checked < 60 {
		t.Errorf("only %d names", checked)
	}
}

// TestComparisonPageSources checks that each project that the page compares has a
// row in its table of sources, with a version or a date and a document.
func TestComparisonPageSources(t *testing.T) {
	t.Parallel()
	sources, compared := map[string]bool{}, map[string]bool{}
	tableRows(t, comparisonPage, func(heading string, cells []string) {
		switch heading {
		case "Sources":
			if len(cells) != 3 || !regexp.MustCompile(`\d`).MatchString(cells[1]) || !strings.Contains(cells[2], "](https://") {
				t.Errorf("the row is %q", cells)
			}
			sources[cells[0]] = true
		case "A proxy or a firewall in front", "A messaging server":
			name, _, _ := strings.Cut(cells[0], ",")
			compared[name] = true
		}
	})
	if len(compared) < 10 {
		t.Errorf("the page compares %d projects", len(compared))
	}
	for name := range compared {
		if !sources[name] {
			t.Errorf("%s has no source", name)
		}
	}
}

// checklistRow is a row of one of the two lists.
type checklistRow struct {
	name  string   // the number of ASVS, or the recommendation of the cheat sheet
	level string   // of ASVS
	cells []string // the word, what the guard does, the tests, what stays
}

func checklistRows(t *testing.T) (rows []checklistRow) {
	t.Helper()
	number := regexp.MustCompile(`^\d+\.\d+\.\d+$`)
	tableRows(t, checklistsPage, func(_ string, cells []string) {
		if slices.Contains(cells, "") {
			t.Errorf("the row has an empty cell: %q", cells)
			return
		}
		switch {
		case len(cells) == 7 && number.MatchString(cells[0]):
			rows = append(rows, checklistRow{cells[0], cells[1], cells[3:]})
		case len(cells) == 5:
			rows = append(rows, checklistRow{cells[0], "", cells[1:]})
		case len(cells) > 3:
			t.Errorf("the row has %d cells: %q", len(cells), cells)
		}
	})
	if len(rows) < 100 {
		t.Errorf("the lists have only %d rows", len(rows))
	}
	return rows
}

// exportedNames returns the fields of Config by their paths, and what the packages
// for users export, as T, T.Method and T.Field. Names of the root have no prefix.
func exportedNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	var fields func(prefix string, typ reflect.Type)
	fields = func(prefix string, typ reflect.Type) {
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || typ.PkgPath() != modulePath {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			names[prefix+f.Name] = true
			fields(prefix+f.Name+".", f.Type)
		}
	}
	fields("", reflect.TypeFor[wsguard.Config]())
	for _, dir := range []string{".", "operator", "contrib/wsguardjwt"} {
		for _, file := range parsePackage(t, dir) {
			declared(file, dir == ".", names)
		}
	}
	return names
}

// declared adds what a file exports to names. Of a package that is not the root it
// adds the fields of Config only.
func declared(file *ast.File, root bool, names map[string]bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if !root {
				return false
			}
			prefix := ""
			if n.Recv != nil {
				typ := n.Recv.List[0].Type
				if star, ok := typ.(*ast.StarExpr); ok {
					typ = star.X
				}
				if id, ok := typ.(*ast.Ident); ok {
					prefix = id.Name + "."
				}
			}
			names[prefix+n.Name.Name] = true
			return false
		case *ast.TypeSpec:
			st, ok := n.Type.(*ast.StructType)
			if root {
				names[n.Name.Name] = true
			}
			if !ok || !root && n.Name.Name != "Config" {
				return false
			}
			prefix := ""
			if root {
				prefix = n.Name.Name + "."
			}
			for _, f := range st.Fields.List {
				for _, id := range f.Names {
					names[prefix+id.Name] = true
				}
			}
			return false
		}
		return true
	})
}
