package wsguard_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/reason"
)

// kindCase is a message and what a Table makes of it.
type kindCase struct {
	msg  string
	kind string         // what Authorize is told; for a batch, of all calls, with commas
	why  *reason.Reason // nil: it passes
}

// asked records what Authorize is asked.
type asked struct {
	mu    sync.Mutex
	kinds []string
	msgs  []string
}

func (a *asked) authorize(_ context.Context, _ wsguard.Principal, kind string, msg []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kinds, a.msgs = append(a.kinds, kind), append(a.msgs, string(msg))
	return nil
}

// take returns what was recorded, and forgets it.
func (a *asked) take() (kinds, msgs []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kinds, msgs = a.kinds, a.msgs
	a.kinds, a.msgs = nil, nil
	return kinds, msgs
}

// checkKinds sends each message over a connection of its own, and compares what the Table, the
// peer and Authorize see.
func checkKinds(t *testing.T, table *wsguard.Table, cases []kindCase) {
	t.Helper()
	bubble(t, func(t *testing.T) {
		var a asked
		e := serveGuard(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages = wsguard.MessageConfig{Validator: table, Authorize: a.authorize}
		}))
		for _, tt := range cases {
			// A Validator's error is its own.
			if err := table.Validate([]byte(tt.msg)); (err == nil) != (tt.why == nil) || err != nil && tt.why != reason.Schema && !errors.Is(err, tt.why) {
				t.Errorf("Validate(%.100s): %v, want %v", tt.msg, err, tt.why)
			}
			c := e.open(header())
			c.WriteFrame(wstest.Text(tt.msg))
			if tt.why != nil {
				wantClose(t, c, int(tt.why.Code()), tt.why.Token())
				if kinds, _ := a.take(); len(kinds) > 0 {
					t.Errorf("%.100s: asked for %q", tt.msg, kinds)
				}
				continue
			}
			wantMessage(t, c, tt.msg)
			if kinds, _ := a.take(); strings.Join(kinds, ",") != tt.kind || len(kinds) == 0 {
				t.Errorf("%.100s: asked for %q, want %q", tt.msg, kinds, tt.kind)
			}
			bye(c)
		}
	})
}

func TestTableNumbers(t *testing.T) {
	checkKinds(t, &wsguard.Table{
		Pointer: "/op", Numbers: true,
		Types:   map[string]wsguard.Rule{"2": {}, "-1": {}, "10": {Validator: refuseWord("bad")}},
		Default: &wsguard.Rule{Validator: refuseWord("other")},
	}, []kindCase{
		{`{"op":2,"d":{}}`, "2", nil},
		{`{"d":{},"o\u0070": -1 }`, "-1", nil},
		{`{"op":10,"d":"bad"}`, "", reason.Schema},
		{`{"op":3}`, "*", nil},
		{`{"op":3,"d":"other"}`, "", reason.Schema},
		// A program may read these as 2 or 0, so Default does not apply.
		{`{"op":2.0}`, "", reason.UnknownType},
		{`{"op":20e-1}`, "", reason.UnknownType},
		{`{"op":2e0}`, "", reason.UnknownType},
		{`{"op":-0}`, "", reason.UnknownType},
		{`{"op":02}`, "", reason.InvalidJSON},
		{`{"op":+2}`, "", reason.InvalidJSON},
		{`{"op":"2"}`, "", reason.UnknownType},
		{`{"op":null}`, "", reason.UnknownType},
		{`{"op":9007199254740993}`, "", reason.UnknownType},
		{`{"op":2,"OP":3}`, "", reason.UnknownType},
		{`{"op":2,"op":2}`, "", reason.InvalidJSON},
		{`{"d":1}`, "", reason.UnknownType},
	})
}

func TestTableArrays(t *testing.T) {
	checkKinds(t, &wsguard.Table{Pointer: "/0", Types: map[string]wsguard.Rule{"join": {}, "say": {Validator: refuseWord("bad")}}}, []kindCase{
		{`["join","room"]`, "join", nil},
		{` [ "s\u0061y" , "bad" ] `, "", reason.Schema},
		{`{"0":"join"}`, "join", nil},
		{`[["join"]]`, "", reason.UnknownType},
		{`[]`, "", reason.UnknownType},
		{`["leave"]`, "", reason.UnknownType},
		{`["join"`, "", reason.InvalidJSON},
		{`["join"}`, "", reason.InvalidJSON},
		{`["join",]`, "", reason.InvalidJSON},
	})
	checkKinds(t, &wsguard.Table{Pointer: "/params/1/0", Types: map[string]wsguard.Rule{"x": {}}}, []kindCase{
		{`{"params":[0,["x"]]}`, "x", nil},
		{`{"params":{"1":{"0":"x"}}}`, "x", nil},
		{`{"params":[0,["x"]],"Params":0}`, "", reason.UnknownType},
		{`{"params":[["x"]]}`, "", reason.UnknownType},
	})
}

func TestTablePrefixes(t *testing.T) {
	checkKinds(t, &wsguard.Table{
		Types:    map[string]wsguard.Rule{"room:admin": {Validator: refuseWord("a")}, "ping": {}},
		Prefixes: map[string]wsguard.Rule{"room:": {Validator: refuseWord("b")}, "room:vip:": {Validator: refuseWord("c")}, "dm:": {}},
	}, []kindCase{
		{`{"type":"room:42"}`, "room:", nil},
		{`{"type":"room:"}`, "room:", nil},
		{`{"type":"room:42","text":"b"}`, "", reason.Schema},
		{`{"type":"room\u003a42","text":"b"}`, "", reason.Schema},
		{`{"type":"room:admin"}`, "", reason.Schema}, // the word a
		{`{"type":"room:vip:1","text":"d"}`, "room:vip:", nil},
		{`{"type":"room:vip:1","text":"c"}`, "", reason.Schema},
		{`{"type":"room:vip"}`, "room:", nil},
		{`{"type":"dm:x"}`, "dm:", nil},
		{`{"type":"ping"}`, "ping", nil},
		{`{"type":"pingpong"}`, "", reason.UnknownType},
		{`{"type":"room"}`, "", reason.UnknownType},
		{`{"type":"Room:1"}`, "", reason.UnknownType},
	})
}

func TestTableDefaultAndAbsent(t *testing.T) {
	checkKinds(t, &wsguard.Table{
		Types: map[string]wsguard.Rule{"say": {}}, Default: &wsguard.Rule{Validator: refuseWord("bad")}, Absent: &wsguard.Rule{Validator: refuseWord("ugly")},
	}, []kindCase{
		{`{"type":"say","text":"bad ugly"}`, "say", nil},
		{`{"type":"else","text":"ugly"}`, "*", nil},
		{`{"type":"*"}`, "*", nil},
		{`{"type":"else","text":"bad"}`, "", reason.Schema},
		{`{"text":"bad"}`, "", nil},
		{`{}`, "", nil},
		{`[]`, "", nil},
		{`7`, "", nil},
		{`"say"`, "", nil},
		{`{"text":"ugly"}`, "", reason.Schema},
		// There is something at the pointer, or a program could see something there.
		{`{"type":null}`, "", reason.UnknownType},
		{`{"type":7}`, "", reason.UnknownType},
		{`{"Type":"say"}`, "", reason.UnknownType},
		{`{"text":"x","TYPE":"say"}`, "", reason.UnknownType},
		{`{"type":"` + strings.Repeat("x", 1025) + `"}`, "", reason.UnknownType},
		{`{"type":"say","type":"else"}`, "", reason.InvalidJSON},
		{`{"text":"x"`, "", reason.InvalidJSON},
		{``, "", reason.InvalidJSON},
	})
}

// The log says why a Table has no rule for a message, and nothing of what the peer has written.
func TestTableUnknownTypeDetail(t *testing.T) {
	table := &wsguard.Table{Types: map[string]wsguard.Rule{"say": {}}}
	rpcTable := &wsguard.Table{JSONRPC: true, Types: map[string]wsguard.Rule{"say": {}}}
	for _, tt := range []struct {
		table     *wsguard.Table
		msg, want string
	}{
		{table, `{"type":"secret"}`, "the Table has no rule for its type"},
		{table, `{"kind":"say"}`, "it has no type, and the Table has no Absent"},
		{table, `{"Type":"say"}`, "its type is unclear"},
		{table, `{"type":null}`, "its type is unclear"},
		{rpcTable, `{"jsonrpc":"2.0","method":"secret"}`, "the Table has no rule for its type"},
		{rpcTable, `{"jsonrpc":"2.0","id":1,"result":1}`, "it has no type, and the Table has no Absent"},
		{rpcTable, `{"method":"say"}`, `not JSON-RPC 2.0: "jsonrpc" is not "2.0"`},
	} {
		err := tt.table.Validate([]byte(tt.msg))
		if !errors.Is(err, reason.UnknownType) || err.Error() != "wsguard: message of an unknown type: "+tt.want {
			t.Errorf("%s: %v, want %s", tt.msg, err, tt.want)
		}
	}
}

// An object of more than 256 members has a type like any other.
func TestTableManyMembers(t *testing.T) {
	members := map[string]any{}
	for i := range 250 {
		members[fmt.Sprintf("k%d", i)] = i
	}
	members["zz"], members["type"] = 1, "prices"
	msg := string(must(json.Marshal(members)))
	checkKinds(t, &wsguard.Table{Types: map[string]wsguard.Rule{"prices": {}}}, []kindCase{{msg, "prices", nil}})
}

func TestTableKindFunction(t *testing.T) {
	kind := func(msg []byte) (string, bool) {
		switch s := string(msg); {
		case strings.Contains(s, "panic"):
			panic(s)
		case strings.HasPrefix(s, "{"):
			return "object", true
		case strings.HasPrefix(s, "["):
			return strings.Repeat("long", 100), true
		case s == "":
			return "empty", true
		}
		return "", false
	}
	checkKinds(t, &wsguard.Table{Kind: kind, Types: map[string]wsguard.Rule{"object": {Validator: refuseWord("bad")}, "empty": {}}, Prefixes: map[string]wsguard.Rule{"longlong": {}}}, []kindCase{
		{`{"type":"x"}`, "object", nil},
		{`{"a":1,"a":2}`, "", reason.InvalidJSON},
		{`{"a":"bad"}`, "", reason.Schema},
		{`[1]`, "longlong", nil},
		{`7`, "", reason.UnknownType},
		{`x`, "", reason.InvalidJSON},
		{``, "", reason.InvalidJSON},
		{`panic`, "", reason.Internal},
	})
	checkKinds(t, &wsguard.Table{Kind: kind, NotJSON: true, Types: map[string]wsguard.Rule{"object": {Validator: refuseWord("bad")}, "empty": {}}, Absent: &wsguard.Rule{MaxBytes: 5}}, []kindCase{
		{`{not json`, "object", nil},
		{`{bad`, "", reason.Schema},
		{``, "empty", nil},
		{`12345`, "", nil},
		{`123456`, "", reason.MessageTooBig},
		{`[`, "", reason.UnknownType},
		{`panic`, "", reason.Internal},
	})
}

// Binary messages have kinds, scopes and a cost by their opcodes.
func TestTableOpcodes(t *testing.T) {
	table := &wsguard.Table{
		NotJSON: true,
		Kind: func(msg []byte) (string, bool) {
			if len(msg) == 0 {
				return "", false
			}
			return fmt.Sprintf("%#x", msg[0]), true
		},
		Types: map[string]wsguard.Rule{"0x1": {MaxBytes: 4, Cost: 5}, "0x2": {Scope: "write"}},
	}
	bubble(t, func(t *testing.T) {
		var a asked
		e := serveGuard(t, conf(noRates, loginConfig, func(cfg *wsguard.Config) {
			cfg.Rates.Messages = wsguard.Rate{PerSecond: 1, Burst: 11}
			cfg.Messages = wsguard.MessageConfig{Binary: true, Validator: table, Authorize: a.authorize}
		}))
		for _, tt := range []struct {
			msg    string
			code   int
			reason string
		}{
			{"\x01\xff\xfe", 0, ""},
			{"\x01\xff\xfe\xfd\xfc", 1009, "message_too_big"},
			{"\x02\x00", 3003, "forbidden"},
			{"\x03", 1008, "unknown_type"},
			{"", 1008, "unknown_type"},
		} {
			c := e.open(bearer("alice - 0s"))
			c.WriteFrame(wstest.Binary([]byte(tt.msg)))
			if tt.code != 0 {
				wantClose(t, c, tt.code, tt.reason)
				continue
			}
			if _, got, err := c.ReadMessage(); err != nil || string(got) != tt.msg {
				t.Errorf("%q %v", got, err)
			}
			if kinds, _ := a.take(); !slices.Equal(kinds, []string{"0x1"}) {
				t.Errorf("asked for %q", kinds)
			}
			c.WriteFrame(wstest.Binary([]byte(tt.msg)))
			c.ReadMessage()
			c.WriteFrame(wstest.Binary([]byte(tt.msg)))
			wantClose(t, c, 1008, "rate_limited")
		}
	})
}

// Conn.Kind is the key of the rule.
func TestConnKind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := newEnv(t, conf(noRates, func(cfg *wsguard.Config) {
			cfg.Messages.Validator = &wsguard.Table{
				Types: map[string]wsguard.Rule{"say": {}}, Prefixes: map[string]wsguard.Rule{"room:": {}},
				Default: &wsguard.Rule{}, Absent: &wsguard.Rule{},
			}
		}))
		e.serve(e.g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
			for {
				if _, _, err := c.Read(ctx); err != nil {
					return err
				}
				c.Write(ctx, wsguard.MessageText, []byte("kind "+c.Kind()))
			}
		}))
		c := e.open(header())
		for msg, kind := range map[string]string{`{"type":"say"}`: "say", `{"type":"room:42"}`: "room:", `{"type":"x"}`: "*", `{}`: ""} {
			c.WriteFrame(wstest.Text(msg))
			wantMessage(t, c, "kind "+kind)
		}
		bye(c)
	})
}

// ReportOnly delivers a message of an unclear type, but not past a scope of the Table.
func TestTableReportKeepsScopesOfDefault(t *testing.T) {
	tables := map[string]*wsguard.Table{
		"default":   {Types: map[string]wsguard.Rule{"ban": {Scope: "moderate"}}, Default: &wsguard.Rule{}, Absent: &wsguard.Rule{}},
		"numbers":   {Pointer: "/op", Numbers: true, Types: map[string]wsguard.Rule{"2": {Scope: "moderate"}}, Default: &wsguard.Rule{}, Absent: &wsguard.Rule{}},
		"json-rpc":  {JSONRPC: true, Types: map[string]wsguard.Rule{"ban": {Scope: "moderate"}}, Default: &wsguard.Rule{}, Absent: &wsguard.Rule{}},
		"no batch":  {JSONRPC: true, RefuseBatches: true, Types: map[string]wsguard.Rule{"ban": {Scope: "moderate"}}, Default: &wsguard.Rule{}},
		"few calls": {JSONRPC: true, MaxBatch: 1, Types: map[string]wsguard.Rule{"ban": {Scope: "moderate"}}, Default: &wsguard.Rule{}},
		"panic":     {Kind: func([]byte) (string, bool) { panic("kind") }, Types: map[string]wsguard.Rule{"ban": {Scope: "moderate"}}, Default: &wsguard.Rule{}},
	}
	call := func(method string) string { return `{"jsonrpc":"2.0","method":"` + method + `"}` }
	for name, msgs := range map[string][]string{
		"default":   {`{"type":"ban"}`, `{"type":"x","type":"ban"}`, `{"type":"x","Type":"ban"}`, `{"Type":"ban"}`, `{"x":1,/**/"type":"ban"}`, `{type:"ban"}`},
		"numbers":   {`{"op":2}`, `{"op":2.0}`, `{"op":2e0}`, `{"op":02}`, `{"OP":2}`, `{"op":1,"op":2}`},
		"json-rpc":  {call("ban"), "[" + call("x") + "," + call("ban") + "]", "[" + call("x") + ",[" + call("ban") + "]]", "[" + call("x") + " " + call("ban") + "]", `{"jsonrpc":"2.0","Method":"ban"}`, `{"jsonrpc":"2.0","id":1,"result":1,"method":"ban"}`},
		"no batch":  {"[" + call("ban") + "]"},
		"few calls": {"[" + call("x") + "," + call("ban") + "]"},
		"panic":     {`{"type":"x"}`},
	} {
		for _, msg := range msgs {
			bubble(t, func(t *testing.T) {
				e := serveGuard(t, conf(loginConfig, func(cfg *wsguard.Config) {
					cfg.Messages = wsguard.MessageConfig{Validator: tables[name], ReportOnly: true}
				}))
				c := e.open(bearer("alice - 0s"))
				c.WriteFrame(wstest.Text(msg))
				code, why := 3003, "forbidden"
				if name == "panic" {
					code, why = 1011, "internal_error"
				}
				wantClose(t, c, code, why)
				if ev := e.closed(); ev.MessagesIn != 0 {
					t.Errorf("%s, %s: %+v", name, msg, ev)
				}
			})
		}
	}
}

func TestTableKindConfig(t *testing.T) {
	some := map[string]wsguard.Rule{"a": {}}
	kind := func([]byte) (string, bool) { return "", false }
	var nilSchema *wsguard.Schema
	for name, tt := range map[string]struct {
		table  wsguardTable
		fields string
	}{
		"only a default":        {wsguardTable{Default: &wsguard.Rule{}}, ""},
		"only prefixes":         {wsguardTable{Prefixes: some}, ""},
		"only absent":           {wsguardTable{Absent: &wsguard.Rule{}}, "Types"},
		"kind":                  {wsguardTable{Kind: kind, NotJSON: true, Types: some}, ""},
		"json-rpc":              {wsguardTable{JSONRPC: true, MaxBatch: 7, Types: some}, ""},
		"no limit":              {wsguardTable{JSONRPC: true, MaxBatch: wsguard.Off, Types: some}, ""},
		"pointer and kind":      {wsguardTable{Kind: kind, Pointer: "/x", Types: some}, "Pointer"},
		"pointer and json-rpc":  {wsguardTable{JSONRPC: true, Pointer: "/x", Types: some}, "Pointer"},
		"kind and json-rpc":     {wsguardTable{JSONRPC: true, Kind: kind, Types: some}, "Kind"},
		"numbers and json-rpc":  {wsguardTable{JSONRPC: true, Numbers: true, Types: map[string]wsguard.Rule{"1": {}}}, "Numbers"},
		"numbers and kind":      {wsguardTable{Kind: kind, Numbers: true, Types: map[string]wsguard.Rule{"1": {}}}, "Numbers"},
		"not json":              {wsguardTable{NotJSON: true, Types: some}, "NotJSON"},
		"batch without":         {wsguardTable{MaxBatch: 2, Types: some}, "MaxBatch"},
		"no batches without":    {wsguardTable{RefuseBatches: true, Types: some}, "RefuseBatches"},
		"both about batches":    {wsguardTable{JSONRPC: true, RefuseBatches: true, MaxBatch: 2, Types: some}, "MaxBatch"},
		"negative batch":        {wsguardTable{JSONRPC: true, MaxBatch: -2, Types: some}, "MaxBatch"},
		"not a number":          {wsguardTable{Numbers: true, Types: map[string]wsguard.Rule{"2.0": {}}}, "Types"},
		"a padded number":       {wsguardTable{Numbers: true, Types: map[string]wsguard.Rule{"02": {}}}, "Types"},
		"number and prefix":     {wsguardTable{Numbers: true, Types: map[string]wsguard.Rule{"2": {}}, Prefixes: map[string]wsguard.Rule{"1": {}}}, "Prefixes"},
		"empty prefix":          {wsguardTable{Prefixes: map[string]wsguard.Rule{"": {}}}, "Prefixes"},
		"prefix and type":       {wsguardTable{Types: some, Prefixes: some}, "Prefixes"},
		"star and default":      {wsguardTable{Types: map[string]wsguard.Rule{"*": {}}, Default: &wsguard.Rule{}}, "Types"},
		"star":                  {wsguardTable{Types: map[string]wsguard.Rule{"*": {}}}, ""},
		"empty and absent":      {wsguardTable{Types: map[string]wsguard.Rule{"": {}}, Absent: &wsguard.Rule{}}, "Types"},
		"empty":                 {wsguardTable{Types: map[string]wsguard.Rule{"": {}}}, ""},
		"too long":              {wsguardTable{Types: map[string]wsguard.Rule{strings.Repeat("x", 1025): {}}}, "Types"},
		"default of a table":    {wsguardTable{Default: &wsguard.Rule{Validator: &wsguard.Table{}}}, "Default"},
		"absent of a nil":       {wsguardTable{Types: some, Absent: &wsguard.Rule{Validator: nilSchema}}, "Absent"},
		"prefix with a cost":    {wsguardTable{Prefixes: map[string]wsguard.Rule{"x": {Cost: -1}}}, "Prefixes"},
		"every fault at once":   {wsguardTable{Kind: kind, JSONRPC: true, Pointer: "x", MaxBatch: -2, Default: &wsguard.Rule{Cost: -1}}, "Default Kind MaxBatch Pointer Pointer Pointer"},
		"a pointer to an index": {wsguardTable{Pointer: "/params/0", Types: some}, ""},
	} {
		table := wsguard.Table(tt.table)
		_, err := wsguard.New(wsguard.Config{
			Origins: []string{appOrigin}, Auth: wsguard.AuthConfig{InsecureAnonymous: true}, Messages: wsguard.MessageConfig{Validator: &table},
		})
		var got []string
		if err != nil {
			for _, field := range faultsOf(t, err) {
				got = append(got, strings.TrimPrefix(field, "Messages.Validator."))
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.fields {
			t.Errorf("%s: %q, want %q: %v", name, got, tt.fields, err)
		}
	}
}

// wsguardTable keeps the lines of a table of tests short.
type wsguardTable = wsguard.Table

// A Table within another Validator is built at its first use, by whichever goroutine is first.
func TestTableWithin(t *testing.T) {
	table := chatTable()
	within := validatorFunc(func(msg []byte) error { return table.Validate(msg) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := within.Validate([]byte(`{"type":"say","text":"x"}`)); err != nil {
				t.Error(err)
			}
			if err := within.Validate([]byte(`{"type":"x"}`)); !errors.Is(err, reason.UnknownType) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	msg := []byte(`{"type":"say","text":"x"}`)
	if n := testing.AllocsPerRun(100, func() { within.Validate(msg) }); n > 0 && !raceDetector() {
		t.Errorf("%v allocations", n)
	}
}

// An event names the rule, and never a type that a peer has made up.
func TestTableKindInEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := serveGuard(t, conf(func(cfg *wsguard.Config) {
			cfg.Messages = wsguard.MessageConfig{OnInvalid: wsguard.ActionReply, Validator: &wsguard.Table{
				Types: map[string]wsguard.Rule{"say": {Validator: refuseWord("bad")}}, Prefixes: map[string]wsguard.Rule{"room:": {Validator: refuseWord("bad")}},
				Default: &wsguard.Rule{Validator: refuseWord("bad")}, Absent: &wsguard.Rule{Validator: refuseWord("bad")},
			}}
		}))
		c := e.open(header())
		for _, tt := range [][2]string{
			{`{"type":"say","x":"bad"}`, "say: the word"}, {`{"type":"room:evil","x":"bad"}`, "room:: the word"},
			{`{"type":"evil","x":"bad"}`, "*: the word"}, {`{"x":"bad"}`, "the word"},
		} {
			c.WriteFrame(wstest.Text(tt[0]))
			c.ReadMessage()
			synctest.Wait()
			vs := e.events.of(audit.Violation)
			if d := vs[len(vs)-1].Detail; d != tt[1] {
				t.Errorf("%s: %q, want %q", tt[0], d, tt[1])
			}
		}
		bye(c)
	})
}

// A connection whose subprotocol has lost its Validator sends messages of an unknown type. With
// ReportOnly they are delivered, unless somebody would have to be asked who may send them.
func TestTableOfRemovedSubprotocol(t *testing.T) {
	for name, authorize := range map[string]func(context.Context, wsguard.Principal, string, []byte) error{
		"no Authorize": nil,
		"Authorize":    func(context.Context, wsguard.Principal, string, []byte) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				some := &wsguard.Table{Types: map[string]wsguard.Rule{"say": {}}}
				e := newEnv(t, conf(noRates, func(cfg *wsguard.Config) {
					cfg.Subprotocols = []string{"a", "b"}
					cfg.Messages = wsguard.MessageConfig{Validators: map[string]wsguard.Validator{"a": some}, Authorize: authorize, ReportOnly: true}
				}))
				e.serve(e.g.Handler(echo))
				c := e.open(header("Sec-WebSocket-Protocol", "a"))
				roundTrip(t, c, `{"type":"say"}`)
				next := e.cfg
				next.Messages.Validators = map[string]wsguard.Validator{"b": some}
				e.reconfigure(next)
				if authorize == nil {
					roundTrip(t, c, `{"type":"say"}`)
					bye(c)
					return
				}
				c.WriteFrame(wstest.Text(`{"type":"say"}`))
				wantClose(t, c, 3003, "forbidden")
			})
		})
	}
}
