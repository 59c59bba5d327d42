package wsguard

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/reason"
)

// picture is the order of the steps, as docs/architecture.md draws it. Each step has the
// tokens of the reasons that it can refuse with.
const picture = `
handshake
  draining                      draining
  form                          http_version body method not_upgrade version header_too_large handshake
  hijackable                    not_hijackable
  client address                client_address unavailable
  ban                           banned
  host                          host
  clear text                    insecure_transport
  origin                        origin fetch_metadata unavailable handshake_rate in_flight
  subprotocol                   subprotocol
  handshake rate                handshake_rate
  in flight                     in_flight
  connection slot               max_conns max_client_conns
  share of the unauthenticated  max_conns max_client_conns
  shared limits                 handshake_rate guessing max_conns max_client_conns unavailable
  credential                    guessing unauthenticated unavailable max_conns max_client_conns
  subject rate                  handshake_rate
  subject slot                  max_subject_conns
  shared limits of the subject  handshake_rate max_subject_conns unavailable
  register                      revoked banned
  Attach                        forbidden unavailable revoked draining banned
  replacement                   
first message
  in flight                     in_flight
  credential                    guessing unauthenticated unavailable max_conns max_client_conns
  subject rate                  handshake_rate
  subject slot                  max_subject_conns
  shared limits of the subject  handshake_rate max_subject_conns unavailable
  register                      revoked banned
  Attach                        forbidden unavailable revoked draining banned
  replacement                   
sale of a ticket
  draining                      draining
  method                        method
  client address                client_address unavailable
  ban                           banned
  host                          host
  clear text                    insecure_transport
  origin                        origin unavailable handshake_rate in_flight
  handshake rate                handshake_rate
  in flight                     in_flight
  shared limits                 handshake_rate guessing unavailable
  login                         guessing unauthenticated unavailable
  subject rate                  handshake_rate
  shared limits of the subject  handshake_rate max_subject_conns unavailable
  revoked                       revoked
  sale                          tickets unavailable
refresh
  in flight                     in_flight
  credential                    guessing unauthenticated unavailable max_conns max_client_conns
refresh of an anonymous connection
  in flight                     in_flight
  credential                    guessing unauthenticated unavailable max_conns max_client_conns
  subject rate                  handshake_rate
  subject slot                  max_subject_conns
  shared limits of the subject  handshake_rate max_subject_conns unavailable
  register                      revoked banned
  Attach                        forbidden unavailable revoked draining banned
  replacement                   
`

// The steps run in the order of the picture, and every reason to refuse a handshake has a
// row in docs/close-codes.md.
func TestSteps(t *testing.T) {
	var b strings.Builder
	page, err := os.ReadFile("docs/close-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	refused := map[*reason.Reason]bool{}
	for _, list := range []struct {
		name  string
		steps []step
	}{{"handshake", handshakeSteps}, {"first message", firstMessageSteps}, {"sale of a ticket", saleSteps}, {"refresh", refreshSteps}, {"refresh of an anonymous connection", becomeSteps}} {
		fmt.Fprintf(&b, "\n%s", list.name)
		for _, s := range list.steps {
			tokens := make([]string, len(s.reasons))
			for i, r := range s.reasons {
				tokens[i] = r.Token()
				refused[r] = true
			}
			fmt.Fprintf(&b, "\n  %-29s %s", s.name, strings.Join(tokens, " "))
		}
	}
	if got := b.String() + "\n"; got != picture {
		t.Errorf("the steps are\n%s\nand not\n%s", got, picture)
	}
	for r := range refused {
		if !strings.Contains(string(page), "`"+r.Token()+"`") {
			t.Errorf("docs/close-codes.md does not have %s", r.Token())
		}
	}
	arch, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(string(arch)), " ")
	for _, list := range [][]step{handshakeSteps, firstMessageSteps, saleSteps, refreshSteps, becomeSteps} {
		names := make([]string, len(list))
		for i, s := range list {
			names[i] = s.name
		}
		if row := strings.Join(names, " · "); !strings.Contains(words, row) {
			t.Errorf("docs/architecture.md does not have the row %s", row)
		}
	}
	if firstMessageSteps[credentialAt].name != stepCredential {
		t.Error("credentialAt is not where the credential stands")
	}
}

// What the steps have taken is given back once, the last first, whatever panics.
func TestUnwind(t *testing.T) {
	var order []string
	a := &admission{}
	for _, name := range []string{"first", "panics", "last"} {
		a.takes(func() {
			order = append(order, name)
			if name == "panics" {
				panic(name)
			}
		})
	}
	for range 2 {
		func() {
			defer func() { _ = recover() }()
			a.unwind()
		}()
	}
	if want := []string{"last", "panics", "first"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
}
