package wsguard_test

import (
	"go/ast"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// reasons has every reason by the name of its sentinel.
var reasons = map[string]*reason.Reason{
	"Draining": reason.Draining, "HTTPVersion": reason.HTTPVersion, "NotHijackable": reason.NotHijackable,
	"Body": reason.Body, "Method": reason.Method, "NotUpgrade": reason.NotUpgrade, "Version": reason.Version,
	"Handshake": reason.Handshake, "HeaderTooLarge": reason.HeaderTooLarge, "Subprotocol": reason.Subprotocol,
	"ClientAddress": reason.ClientAddress, "Banned": reason.Banned, "Host": reason.Host,
	"InsecureTransport": reason.InsecureTransport, "Origin": reason.Origin, "FetchMetadata": reason.FetchMetadata,
	"HandshakeRate": reason.HandshakeRate, "InFlight": reason.InFlight, "MaxConns": reason.MaxConns,
	"MaxClientConns": reason.MaxClientConns, "MaxSubjectConns": reason.MaxSubjectConns, "Guessing": reason.Guessing,
	"Unauthenticated": reason.Unauthenticated, "Revoked": reason.Revoked, "Unavailable": reason.Unavailable,
	"Tickets": reason.Tickets, "Forbidden": reason.Forbidden, "Handler": reason.Handler,

	"HandlerDone": reason.HandlerDone, "Closed": reason.Closed, "PeerClosed": reason.PeerClosed,
	"ConnectionLost": reason.ConnectionLost, "Lifetime": reason.Lifetime, "Protocol": reason.Protocol,
	"MessageType": reason.MessageType, "InvalidUTF8": reason.InvalidUTF8, "InvalidJSON": reason.InvalidJSON,
	"MessageTooBig": reason.MessageTooBig, "Schema": reason.Schema, "UnknownType": reason.UnknownType,
	"JSONLimit": reason.JSONLimit, "RateLimited": reason.RateLimited, "ControlFlood": reason.ControlFlood,
	"Fragments": reason.Fragments, "MessageTimeout": reason.MessageTimeout, "WriteTimeout": reason.WriteTimeout,
	"QueueFull": reason.QueueFull, "Refresh": reason.Refresh, "Unexpected": reason.Unexpected, "Idle": reason.Idle,
	"PongTimeout": reason.PongTimeout, "AuthTimeout": reason.AuthTimeout, "Expired": reason.Expired,
	"Kicked": reason.Kicked, "Replaced": reason.Replaced, "RequestDone": reason.RequestDone, "Internal": reason.Internal,
}

// otherStatuses are what a reason has in some cases in place of its Status.
var otherStatuses = map[*reason.Reason]int{
	reason.HTTPVersion: 426, // HTTP/1.0
	reason.InFlight:    429, // of one client
	reason.Tickets:     503, // of all subjects
}

// TestCloseCodesPage compares docs/close-codes.md with package reason: each reason
// stands there once for its status and once for its close code, with its token and
// the name of its sentinel.
func TestCloseCodesPage(t *testing.T) {
	declared := map[string]bool{}
	for _, file := range parsePackage(t, "reason") {
		for _, decl := range file.Decls {
			if vars, ok := decl.(*ast.GenDecl); ok && vars.Tok == token.VAR {
				for _, spec := range vars.Specs {
					for _, id := range spec.(*ast.ValueSpec).Names {
						if id.IsExported() {
							declared[id.Name] = true
						}
					}
				}
			}
		}
	}
	for name := range declared {
		if reasons[name] == nil {
			t.Errorf("reason.%s is not in the table of this test", name)
		}
	}

	const before, after, own, graphql = "Before the upgrade", "After it", "Reasons of your own", "graphql-ws"
	type entry struct {
		sentinel string
		number   int
	}
	listed := map[entry]int{}
	tableRows(t, "docs/close-codes.md", func(heading string, cells []string) {
		if heading == own || heading == graphql {
			return // they list hooks, and the codes of TestGraphQLPage
		}
		number := 0 // the reasons that no close frame has
		if !strings.HasPrefix(cells[0], "`") {
			n, err := strconv.Atoi(cells[0][:min(len(cells[0]), strings.IndexByte(cells[0]+" ", ' '))])
			if err != nil || len(cells) < 3 {
				t.Errorf("a row without a number: %q", cells)
				return
			}
			number, cells = n, cells[1:]
		}
		tokens := codeText.FindAllStringSubmatch(cells[0], -1)
		if strings.HasPrefix(cells[0], "(none)") {
			tokens = slices.Insert(tokens, 0, []string{"", ""})
		}
		sentinels := codeText.FindAllStringSubmatch(cells[1], -1)
		if len(tokens) != len(sentinels) || len(tokens) == 0 {
			t.Errorf("%d: %d reasons and %d sentinels", number, len(tokens), len(sentinels))
			return
		}
		for i, s := range sentinels {
			r := reasons[s[1]]
			if r == nil {
				t.Errorf("%d: there is no reason.%s", number, s[1])
				continue
			}
			if r.Token() != tokens[i][1] {
				t.Errorf("%d: the token of reason.%s is %q; the page says %q", number, s[1], r.Token(), tokens[i][1])
			}
			if is := r.Status(); heading == before && number != is && number != otherStatuses[r] {
				t.Errorf("the status of reason.%s is %d; the page says %d", s[1], is, number)
			}
			if is := int(r.Code()); heading == after && number != is && number != 0 {
				t.Errorf("the close code of reason.%s is %d; the page says %d", s[1], is, number)
			}
			listed[entry{s[1], number}]++
		}
	})
	for name, r := range reasons {
		want := []int{r.Status(), int(r.Code()), otherStatuses[r]}
		if r == reason.Closed || r == reason.PeerClosed || r == reason.ConnectionLost {
			want = []int{0}
			if listed[entry{name, 0}] != 1 {
				t.Errorf("the page has reason.%s %d times", name, listed[entry{name, 0}])
			}
		}
		for _, n := range want {
			if n != 0 && listed[entry{name, n}] != 1 {
				t.Errorf("the page has reason.%s %d times for %d", name, listed[entry{name, n}], n)
			}
		}
	}
}

// TestReasonsInPages checks each place in which a page has a status or a close
// code with the token of a reason, as in "429 `banned`".
func TestReasonsInPages(t *testing.T) {
	numbers := map[string][]int{}
	for _, r := range reasons {
		numbers[r.Token()] = []int{r.Status(), int(r.Code()), otherStatuses[r]}
		if r.Status() == 429 || otherStatuses[r] == 429 {
			numbers[r.Token()] = append(numbers[r.Token()], 1013) // by MaxExplained
		}
	}
	seen := 0
	coded := regexp.MustCompile("\\b([1-5]\\d{2,3}) `([a-z][a-z_0-9]*)`")
	for name, text := range texts(t) {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range coded.FindAllStringSubmatch(text, -1) {
			seen++
			is, known := numbers[m[2]]
			n, err := strconv.Atoi(m[1])
			if err != nil || !known || !slices.Contains(is, n) {
				t.Errorf("%s: %s; the numbers of this reason are %v", name, m[0], is)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d places", seen)
	}
}

// RFC6455 replaces every code that RFC 6455 does not define, for clients that refuse the
// others, and New takes it.
func TestCodesOfRFC6455(t *testing.T) {
	codes := reason.RFC6455()
	for name, r := range reasons {
		code := int(r.Code())
		if c, ok := codes[r]; ok {
			code = int(c)
		}
		if code >= 1012 && code <= 2999 {
			t.Errorf("reason.%s has the code %d", name, code)
		}
	}
	if _, err := wsguard.New(wsguard.Config{Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, CloseCodes: codes}); err != nil {
		t.Error(err)
	}
}

// docs/authentication.md names every suffix that a wildcard is warned about.
func TestSharedOriginsPage(t *testing.T) {
	page, err := os.ReadFile("docs/authentication.md")
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("internal/origin/host.go")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(src), "var strangers = []string{")
	list, _, _ = strings.Cut(list, "}")
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune("\", \n\t", r) }) {
		if !strings.Contains(string(page), "`"+s+"`") {
			t.Errorf("docs/authentication.md does not name %s", s)
		}
	}
}
