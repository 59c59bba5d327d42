package wraptest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wraptest"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

var libraries = []*library{
	{name: "gorilla/websocket", dialect: plain, handler: gorillaEcho},
	{name: "coder/websocket", dialect: plain, handler: coderEcho},
	{
		name: "lxzan/gws", dialect: plain, handler: gwsEcho,
		deadly: map[string]string{"huge declared length": "it takes a length with the top bit for a negative one, and the process dies"},
	},
	{
		name: "gobwas/ws", dialect: plain, handler: gobwasEcho,
		deadly: map[string]string{"huge declared length": "it allocates what a header declares, and the process dies"},
	},
	{name: "olahol/melody", dialect: plain, handler: melodyEcho},
	{
		name: "x/net/websocket", dialect: withoutReason(plain), handler: xnetEcho, mute: true,
		repairs: map[string]string{"fragments, and a ping between": "it hands on each fragment as a message of its own"},
	},
	{name: "gqlgen", dialect: graphqlTransportWS, handler: gqlgenEcho},
	{name: "npm ws, proxied", dialect: plain, handler: node.proxy, start: node.start},
	{name: "python websockets, proxied", dialect: plain, handler: python.proxy, start: python.start},
	{name: "Guard.Handler", dialect: plain, own: ownEcho},
}

// withoutReason is for a library that cannot give a reason with a close code.
func withoutReason(d dialect) dialect {
	d.byeText = ""
	return d
}

// result is a row of the table.
type result struct {
	lib           *library
	skipped       string
	bare, wrapped score
}

type score struct {
	held, good int
}

// TestTable runs all attacks and all conversations against each library, bare
// and wrapped. A wrapped handler must hold every attack, and the client must
// see of every conversation what it sees of the bare handler.
func TestTable(t *testing.T) {
	wstest.CheckGoroutines(t)
	defer log.SetOutput(log.Writer())
	log.SetOutput(io.Discard) // gqlgen and gws log what attackers do

	results := make([]*result, len(libraries))
	t.Run("libraries", func(t *testing.T) {
		for i, lib := range libraries {
			results[i] = &result{lib: lib, skipped: "not run"}
			t.Run(lib.name, func(t *testing.T) {
				t.Parallel()
				if lib.start != nil {
					lib.start(t)
				}
				results[i].skipped = ""
				results[i].run(t)
			})
		}
	})
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "library\tattacks held, of %d\t\tconversations good, of %d\t\n", len(attacks), len(talks))
	fmt.Fprint(w, "\tbare\twrapped\tbare\twrapped\n")
	for _, r := range results {
		if r.skipped != "" {
			fmt.Fprintf(w, "%s\t%s\n", r.lib.name, r.skipped)
			continue
		}
		bare, wrapped := r.bare, r.wrapped
		if r.lib.own != nil {
			bare = score{-1, -1}
		} else if !wraptest.CanWrap() {
			wrapped = score{-1, -1}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.lib.name, number(bare.held), number(wrapped.held), number(bare.good), number(wrapped.good))
	}
	w.Flush()
	t.Logf("\n%s", &b)
	if !wraptest.CanWrap() {
		t.Skip("the Guard of this tree has no Wrap: bare handlers only")
	}
}

func number(n int) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func (r *result) run(t *testing.T) {
	if r.lib.own != nil {
		r.runWrapped(t, nil)
		return
	}
	seen := r.runBare(t)
	if wraptest.CanWrap() {
		r.runWrapped(t, seen)
	}
}

// runBare returns what the client sees of each conversation.
func (r *result) runBare(t *testing.T) [][]string {
	seen, errs := r.lib.converse(t, false)
	for i, talk := range talks {
		switch why := r.lib.repairs[talk.name]; {
		case errs[i] == nil:
			r.bare.good++
		case why != "":
			t.Logf("bare, %s: %s", talk.name, why)
		default:
			t.Errorf("bare, %s: %v", talk.name, errs[i])
		}
	}
	for i, err := range r.lib.attack(t, false) {
		if err == nil {
			r.bare.held++
		} else {
			t.Logf("bare, not held: %s: %v", attacks[i].name, err)
		}
	}
	return seen
}

// runWrapped compares conversations with those that were seen of the bare
// handler; nil: there is none.
func (r *result) runWrapped(t *testing.T, seen [][]string) {
	through, errs := r.lib.converse(t, true)
	for i, talk := range talks {
		err := errs[i]
		if err == nil && seen != nil && r.lib.repairs[talk.name] == "" && !r.lib.same(seen[i], through[i]) {
			err = fmt.Errorf("the client sees %.300q, bare %.300q", through[i], seen[i])
		}
		if err != nil {
			t.Errorf("wrapped, %s: %v", talk.name, err)
			continue
		}
		r.wrapped.good++
	}
	for i, err := range r.lib.attack(t, true) {
		if err != nil {
			t.Errorf("wrapped, not held: %s: %v", attacks[i].name, err)
			continue
		}
		r.wrapped.held++
	}
}

// same reports whether a client sees the same, except that a guard answers for
// a library that does not.
func (l *library) same(bare, wrapped []string) bool {
	return slices.EqualFunc(bare, wrapped, func(b, w string) bool {
		if code, ok := strings.CutPrefix(b, noAnswer); ok && l.mute {
			return strings.HasPrefix(w+" ", "close"+code+" ") // and any reason
		}
		return b == w
	})
}

// converse holds all conversations at once with one server. A guard has nothing
// to object to in them.
func (l *library) converse(t *testing.T, wrapped bool) (seen [][]string, errs []error) {
	s := l.serve(t, wrapped, func(cfg *wsguard.Config) {
		cfg.Messages.Binary = true
		cfg.OnEvent = func(e audit.Event) {
			switch {
			case e.Kind == audit.Refusal, e.Kind == audit.Violation, e.Kind == audit.Warning, errors.Is(e.Err, reason.Internal):
				t.Errorf("%s: event %s, %s: %s", l.name, e.Kind, e.Reason, e.Detail)
			}
		}
	})
	defer s.stop()
	seen, errs = make([][]string, len(talks)), make([]error, len(talks))
	var wg sync.WaitGroup
	for i, talk := range talks {
		wg.Go(func() { seen[i], errs[i] = talk.run(s) })
	}
	wg.Wait()
	if err := s.emptied(); err != nil {
		t.Error(err)
	}
	return seen, errs
}

// attack carries out all attacks at once, each on a server of its own.
func (l *library) attack(t *testing.T, wrapped bool) []error {
	errs := make([]error, len(attacks))
	var wg sync.WaitGroup
	for i, a := range attacks {
		if why := l.deadly[a.name]; why != "" && !wrapped {
			errs[i] = errors.New(why)
			continue
		}
		wg.Go(func() {
			s := l.serve(t, wrapped, a.guard)
			defer s.stop()
			errs[i] = a.run(s)
		})
	}
	wg.Wait()
	return errs
}
