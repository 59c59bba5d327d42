package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"time"

	v5 "github.com/santhosh-tekuri/jsonschema/v5"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

//go:embed testdata/schema/[0-9]*.json
var schemaFiles embed.FS

// schemaCase is a schema with a message that it accepts and one that it refuses.
type schemaCase struct {
	Name   string          `json:"name"`
	Title  string          `json:"title"`
	Schema json.RawMessage `json:"schema"`
	Accept json.RawMessage `json:"accept"`
	Refuse json.RawMessage `json:"refuse"`
	Times  int             `json:"times"` // the messages are arrays: so many times accept, in the second the last is refuse

	guard *jsonschema.Schema
	plain *v5.Schema
}

// The ways to judge a message.
const (
	byEngine = "byte engine"
	byV5     = "Unmarshal + v5"
	byValid  = "json.Valid"
	byAjv    = "ajv"
)

// schemaRound is what a message cost in nanoseconds.
type schemaRound map[string]float64

type schemaResult struct {
	c              *schemaCase
	bytes          int
	accept, refuse []schemaRound
	allocs         [2]float64 // accept, refuse
}

// ratio is the median of the rounds' own ratios.
func schemaRatio(rounds []schemaRound, by string) (r ratio, ok bool) {
	var q []float64
	for _, m := range rounds {
		if m[by] > 0 {
			q = append(q, m[byEngine]/m[by])
		}
	}
	if len(q) == 0 {
		return r, false
	}
	return ratio{median(q), slices.Min(q), slices.Max(q)}, true
}

func schemaCases() ([]*schemaCase, error) {
	names, err := fs.Glob(schemaFiles, "testdata/schema/[0-9]*.json")
	if err != nil {
		return nil, err
	}
	var cases []*schemaCase
	for _, name := range names {
		b, err := schemaFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		c := &schemaCase{Name: strings.TrimSuffix(name[len("testdata/schema/"):], ".json")}
		if err := json.Unmarshal(b, c); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := c.prepare(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func (c *schemaCase) prepare() (err error) {
	compact := func(raw json.RawMessage) json.RawMessage {
		var b bytes.Buffer
		if e := json.Compact(&b, raw); e != nil {
			err = e
		}
		return b.Bytes()
	}
	c.Schema, c.Accept, c.Refuse = compact(c.Schema), compact(c.Accept), compact(c.Refuse)
	if err != nil {
		return err
	}
	if c.Times > 0 {
		var all []json.RawMessage
		for i := range c.Times {
			all = append(all, bytes.ReplaceAll(c.Accept, []byte("100000"), fmt.Appendf(nil, "%d", 100000+i)))
		}
		if c.Accept, err = json.Marshal(all); err != nil {
			return err
		}
		all[len(all)-1] = c.Refuse
		if c.Refuse, err = json.Marshal(all); err != nil {
			return err
		}
	}
	if c.guard, err = jsonschema.Compile(c.Schema, jsonschema.Options{}); err != nil {
		return err
	}
	k := v5.NewCompiler()
	k.AssertFormat = true
	if err := k.AddResource("bench:///schema", bytes.NewReader(c.Schema)); err != nil {
		return err
	}
	if c.plain, err = k.Compile("bench:///schema"); err != nil {
		return err
	}
	for _, m := range []struct {
		msg  []byte
		want bool
	}{{c.Accept, true}, {c.Refuse, false}} {
		if got := c.byEngine(m.msg); got != m.want {
			return fmt.Errorf("byte engine: %v, want %t: %.100s", c.guard.Validate(m.msg), m.want, m.msg)
		}
		if got := c.byV5(m.msg); got != m.want {
			return fmt.Errorf("v5: %t, want %t: %.100s", got, m.want, m.msg)
		}
	}
	return nil
}

func (c *schemaCase) byEngine(msg []byte) bool { return c.guard.Validate(msg) == nil }

func (c *schemaCase) byV5(msg []byte) bool {
	var v any
	return json.Unmarshal(msg, &v) == nil && c.plain.Validate(v) == nil
}

// slicesOfTime is into how many parts a measurement is cut. The best counts: what interrupts one of them is no part of the work.
const slicesOfTime = 5

// timed returns the nanoseconds of one call, measured over about that long.
func timed(about time.Duration, f func()) float64 {
	about /= slicesOfTime
	n, best := 1, 0.0
	for done := 0; done < slicesOfTime; {
		start := time.Now()
		for range n {
			f()
		}
		took := time.Since(start)
		if took < about/2 {
			n = max(n*2, int(float64(n)*float64(about)/float64(took+1)))
			continue
		}
		if ns := float64(took) / float64(n); done == 0 || ns < best {
			best = ns
		}
		done++
	}
	return best
}

// runSchema measures every case in turn, each way to judge it right after the others.
func runSchema(o options, log func(string, ...any)) ([]schemaResult, error) {
	cases, err := schemaCases()
	if err != nil {
		return nil, err
	}
	node, err := startAjv(cases)
	if err != nil {
		log("schema: no column for ajv: %v", err)
	} else {
		defer node.stop()
	}
	about := 20 * time.Millisecond
	if o.rounds == 1 {
		about = time.Millisecond
	}
	results := make([]schemaResult, len(cases))
	for i, c := range cases {
		results[i] = schemaResult{c: c, bytes: len(c.Accept)}
		for k, msg := range [][]byte{c.Accept, c.Refuse} {
			results[i].allocs[k] = allocations(func() { c.byEngine(msg) })
		}
	}
	for round := range o.rounds {
		log("schema: round %d of %d", round+1, o.rounds)
		for i, c := range cases {
			for _, refuse := range []bool{false, true} {
				msg := c.Accept
				if refuse {
					msg = c.Refuse
				}
				runtime.GC() // v5's garbage is its own affair
				m := schemaRound{
					byEngine: timed(about, func() { c.byEngine(msg) }),
					byValid:  timed(about, func() { json.Valid(msg) }),
					byV5:     timed(about, func() { c.byV5(msg) }),
				}
				if node != nil {
					if m[byAjv], err = node.measure(i, refuse, about); err != nil {
						return nil, err
					}
				}
				if refuse {
					results[i].refuse = append(results[i].refuse, m)
				} else {
					results[i].accept = append(results[i].accept, m)
				}
			}
		}
	}
	return results, nil
}

// allocations is exact, once the pools are filled.
func allocations(f func()) float64 {
	const runs = 1000
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64((after.Mallocs - before.Mallocs) / runs)
}
