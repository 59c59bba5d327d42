package wsguard_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/reason"
)

// TestGraphQLPage compares the table of docs/close-codes.md about graphql-ws with
// reason.GraphQL. internal/wraptest tests what the client does.
func TestGraphQLPage(t *testing.T) {
	listed := map[*reason.Reason]bool{}
	tableRows(t, "docs/close-codes.md", func(heading string, cells []string) {
		if heading != "graphql-ws" || strings.Contains(cells[1], ",") {
			return
		}
		for _, m := range codeText.FindAllStringSubmatch(cells[2], -1) {
			for _, why := range reasons {
				if why.Token() != m[1] {
					continue
				}
				code, ok := reason.GraphQL()[why]
				if !ok {
					code = why.Code()
				}
				if cells[1] != strconv.Itoa(int(code)) {
					t.Errorf("%s is %d; the page says %s", m[1], code, cells[1])
				}
				listed[why] = true
			}
		}
	})
	for why := range reason.GraphQL() {
		if !listed[why] {
			t.Errorf("the page does not have %s", why.Token())
		}
	}
}
