package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/wsguardtest"
)

// start runs the program, and returns the URL and the token of its clients.
func start(t *testing.T) (url, token string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	ctx, stop := context.WithCancel(context.Background())
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", file, stdout)
		stdout.Close()
		done <- err
	}()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Error("run:", err)
			}
		case <-time.After(15 * time.Second):
			t.Error("the server does not end")
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(<-done)
	}
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[3], "ws://") {
		t.Fatalf("the server prints %q", line)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fields[3], strings.TrimSpace(string(b))
}

// client is a client of JSON-RPC.
type client struct {
	*wsguardtest.Client
	t *testing.T
}

// connect runs the program, and connects a client to it.
func connect(t *testing.T) *client {
	t.Helper()
	url, token := start(t)
	s := wsguardtest.ServerAt(t, url, wsguardtest.Origin(""), wsguardtest.Header("Authorization", "Bearer "+token))
	return &client{s.Dial(), t}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	c.WriteText(fmt.Sprintf(format, args...))
}

// want expects a message that is equal to this one as JSON.
func (c *client) want(format string, args ...any) {
	c.t.Helper()
	c.WantJSON(fmt.Sprintf(format, args...))
}

// initialize says that the client has these capabilities.
func (c *client) initialize(capabilities string) {
	c.t.Helper()
	c.send(`{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":%s,"clientInfo":{"name":"test","version":"1"}}}`, capabilities)
	c.want(`{"jsonrpc":"2.0","id":"init","result":{"protocolVersion":"2025-03-26","capabilities":{"tools":{}},"serverInfo":{"name":"wsguard-example","version":"1"}}}`)
	c.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
}

const result = `{"jsonrpc":"2.0","id":%s,"result":%s}`

// toolResult is the result of a tool that returns text.
func toolResult(text string, isError bool) string {
	return fmt.Sprintf(`{"content":[{"type":"text","text":%q}],"isError":%t}`, text, isError)
}

func TestCalls(t *testing.T) {
	c := connect(t)
	c.initialize(`{}`)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
	c.want(result, `1`, `{}`)
	c.send(`{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}`)
	if got := c.ReadText(); !strings.Contains(got, `"name":"count_words"`) || !strings.Contains(got, `"name":"summarize"`) {
		t.Errorf("the tools are %s", got)
	}
	c.send(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"count_words","arguments":{"text":" one two\n"}}}`)
	c.want(result, `3`, toolResult("2", false))
	c.send(`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"summarize","arguments":{"text":"x"}}}`)
	c.want(result, `4`, toolResult("the client has no language model", true))
}

// Each method that the guard lets pass has an answer, or is a notification.
func TestMethods(t *testing.T) {
	cfg, err := messages()
	if err != nil {
		t.Fatal(err)
	}
	m := &methods{}
	for method := range cfg.Validator.(*wsguard.Table).Types {
		call := message{Method: method, Params: json.RawMessage(`{"name":"count_words"}`)}
		if _, err := m.handle(context.Background(), &peer{}, call); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

// An id comes back as the client has written it, from the server and from the guard.
func TestIDs(t *testing.T) {
	c := connect(t)
	for _, id := range []string{
		`0`, `-1`, `7`, `9007199254740993`, `123456789012345678901234567890`,
		`""`, `"7"`, `"\u0041\/\""`, `"<a> & b"`, "\"\u2028\"", `"\ud83d\ude00"`, `"` + strings.Repeat("x", 126) + `"`,
	} {
		c.send(`{"jsonrpc":"2.0","id":%s,"method":"ping"}`, id)
		if got := c.ReadText(); !strings.Contains(got, `"id":`+id+`,`) {
			t.Errorf("%s: the server answers %s", id, got)
		}
		c.send(`{"jsonrpc": "2.0", "id" : %s , "method":"nothing"}`, id)
		if got := c.ReadText(); !strings.Contains(got, `"id":`+id+`,`) || !strings.Contains(got, `-32601`) {
			t.Errorf("%s: the guard answers %s", id, got)
		}
		if id == `"7"` { // the rates allow no more
			c = connect(t)
		}
	}
	// The guard repeats no longer id, and the server does.
	long := `"` + strings.Repeat("x", 127) + `"`
	c = connect(t)
	c.send(`{"jsonrpc":"2.0","id":%s,"method":"ping"}`, long)
	c.want(result, long, `{}`)
	c.send(`{"jsonrpc":"2.0","id":%s,"method":"nothing"}`, long)
	c.wantError(`null`, -32601, "")
}

// wantError expects an error with a code, and with a pointer in its data if that is not empty.
func (c *client) wantError(id string, code int, pointer string) {
	c.t.Helper()
	msg := c.ReadText()
	var m struct {
		ID    json.RawMessage
		Error struct {
			Code int
			Data struct{ Pointer string }
		}
	}
	if err := json.Unmarshal([]byte(msg), &m); err != nil || string(m.ID) != id || m.Error.Code != code || m.Error.Data.Pointer != pointer {
		c.t.Fatalf("got %s, want %s %d %s", msg, id, code, pointer)
	}
}

// What the guard refuses is answered in the words of JSON-RPC, and only a request is.
func TestRefused(t *testing.T) {
	c := connect(t)
	for _, tt := range []struct {
		msg     string
		id      string
		code    int
		pointer string
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"resources/list"}`, `1`, -32601, ""},
		{`{"jsonrpc":"2.0","id":2,"method":"Ping"}`, `2`, -32601, ""},
		{`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"count_words","arguments":{"text":5}}}`, `3`, -32602, "/params/arguments/text"},
		{`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"rm","arguments":{"text":""}}}`, `4`, -32602, "/params/name"},
		{`{"jsonrpc":"2.0","id":5,"method":"ping","params":[1]}`, `5`, -32602, "/params"},
		{`{"jsonrpc":"2.0","id":6,"method":"ping","params":1}`, `6`, -32600, ""},
		{`{"jsonrpc":"1.0","id":7,"method":"ping"}`, `7`, -32600, ""},
		{`{"id":8,"method":"ping"}`, `8`, -32600, ""},
		{`{"jsonrpc":"2.0","id":9,"id":10,"method":"ping"}`, `null`, -32600, ""},
		{`{"jsonrpc":"2.0","id":11,"method":"ping","Method":"tools/list"}`, `null`, -32600, ""},
		{`{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, `null`, -32600, ""},
		{`ping`, `null`, -32700, ""},
	} {
		c.send("%s", tt.msg)
		c.wantError(tt.id, tt.code, tt.pointer)
	}
	c = connect(t)
	for _, silent := range []string{
		`{"jsonrpc":"2.0","method":"nothing"}`,
		`{"jsonrpc":"2.0","method":"ping"}`, // a request without an id
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}`,
		`{"jsonrpc":"2.0","id":1,"result":5}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"result":{}}`, // to no call
	} {
		c.send("%s", silent)
	}
	c.send(`{"jsonrpc":"2.0","id":"last","method":"ping"}`)
	c.want(result, `"last"`, `{}`)
}

func TestBatch(t *testing.T) {
	c := connect(t)
	c.send(` [{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"},` +
		`{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"count_words","arguments":{"text":"one"}}}]`)
	c.want(`[`+result+`,`+result+`]`, `1`, `{}`, `"b"`, toolResult("1", false))

	// One bad call refuses the batch, and there is one answer.
	c.send(`[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"count_words","arguments":{"text":1}}}]`)
	c.wantError(`null`, -32600, "/1/params/arguments/text")
	c.send(`[]`)
	c.wantError(`null`, -32600, "")
	// Notifications and responses have no answer, in a batch either.
	c.send(`[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":1,"result":{}}]`)
	c.send(`[{"jsonrpc":"2.0","id":3,"method":"ping"}]`)
	c.want(`[`+result+`]`, `3`, `{}`)
}

// sampling reads the server's call of the client's model, and returns its id.
func (c *client) sampling(text string) (id string) {
	c.t.Helper()
	msg := c.ReadText()
	var call struct {
		JSONRPC string
		ID      json.RawMessage
		Method  string
		Params  struct {
			Messages []struct {
				Content struct{ Text string }
			}
		}
	}
	if err := json.Unmarshal([]byte(msg), &call); err != nil || call.JSONRPC != "2.0" || call.Method != "sampling/createMessage" ||
		len(call.Params.Messages) != 1 || call.Params.Messages[0].Content.Text != "Summarize: "+text {
		c.t.Fatalf("got %s", msg)
	}
	return string(call.ID)
}

const (
	summarize = `{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":"summarize","arguments":{"text":%q}}}`
	sampled   = `{"role":"assistant","content":{"type":"text","text":%q},"model":"test"}`
)

// While the server answers a call, it calls the client, and it checks the client's response.
func TestBothDirections(t *testing.T) {
	c := connect(t)
	c.initialize(`{"sampling":{}}`)
	c.send(summarize, `"one"`, "first")
	first := c.sampling("first")
	c.send(summarize, `"two"`, "second")
	second := c.sampling("second")
	if first == second {
		t.Fatal("two calls have the same id")
	}
	// The responses come in the other order, one of them in a batch with a request. Neither
	// responses that belong to no call, nor those that the guard refuses, get in the way.
	c.send(result, `99`, `{}`)
	c.send(`{"jsonrpc":"2.0","id":%s,"result":{},"error":{"code":1,"message":"both"}}`, first)
	c.wantError(`null`, -32600, "")
	c.send(`[`+result+`,{"jsonrpc":"2.0","id":"ping","method":"ping"}]`, second, fmt.Sprintf(sampled, "2nd"))
	for range 2 { // in any order
		if got := c.ReadText(); strings.HasPrefix(got, "[") {
			if !strings.Contains(got, `"id":"ping"`) {
				t.Errorf("got %s", got)
			}
		} else if !strings.Contains(got, `"id":"two"`) || !strings.Contains(got, `"2nd"`) {
			t.Errorf("got %s", got)
		}
	}
	c.send(result, first, fmt.Sprintf(sampled, "1st"))
	c.want(result, `"one"`, toolResult("1st", false))
	c.send(result, first, fmt.Sprintf(sampled, "again")) // has been answered

	for answer, want := range map[string]string{
		fmt.Sprintf(result, "%s", `{"role":"user","content":{"type":"text","text":"x"},"model":"m"}`): "does not fit its schema",
		`{"jsonrpc":"2.0","id":%s,"error":{"code":-1,"message":"the user said no"}}`:                  "the user said no",
	} {
		c.send(summarize, `3`, "x")
		c.send(answer, c.sampling("x"))
		if got := c.ReadText(); !strings.Contains(got, want) || !strings.Contains(got, `"isError":true`) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// The server answers only so many messages of a connection at the same time, and refuses others
// at once. It ends although answers are under way.
func TestBusy(t *testing.T) {
	started := make(chan struct{}, maxAnswers)
	wait := func(ctx context.Context, _ *peer, _ message) (any, error) {
		started <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	cfg := wsguard.Config{Rates: wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: wsguard.Off}}}
	s := wsguardtest.NewServer(t, func(ctx context.Context, c *wsguard.Conn) error { return serve(ctx, c, wait) }, wsguardtest.Config(cfg))
	c := &client{s.Dial(), t}
	for range maxAnswers {
		c.send(`{"jsonrpc":"2.0","id":1,"method":"wait"}`)
	}
	for range maxAnswers {
		<-started
	}
	c.send(`[{"jsonrpc":"2.0","method":"notification"},{"jsonrpc":"2.0","id":"more","method":"wait"}]`)
	c.want(`[{"jsonrpc":"2.0","id":"more","error":{"code":-32000,"message":"the server is busy"}}]`)
}

// Each request above the rate gets an error with its id, and with the time to wait.
func TestRate(t *testing.T) {
	c := connect(t)
	const n = 30
	for i := range n {
		c.send(`{"jsonrpc":"2.0","id":%d,"method":"ping"}`, i)
	}
	answered, limited := map[int]bool{}, 0
	for range n {
		var m struct {
			ID    int
			Error *struct {
				Code int
				Data struct {
					Reason     string
					RetryAfter float64 `json:"retry_after"`
				}
			}
		}
		msg := c.ReadText()
		if err := json.Unmarshal([]byte(msg), &m); err != nil || answered[m.ID] {
			t.Fatalf("got %s, %v", msg, err)
		}
		answered[m.ID] = true
		if m.Error != nil {
			limited++
			if d := m.Error.Data; m.Error.Code != -32029 || d.Reason != "rate_limited" || d.RetryAfter <= 0 || d.RetryAfter > 0.2 {
				t.Errorf("got %s", msg)
			}
		}
	}
	if limited == 0 {
		t.Error("no request is above the rate")
	}
}

func TestFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for _, args := range [][2]string{{"0.0.0.0:0", file}, {":0", file}, {"127.0.0.1:0", ""}, {"127.0.0.1:0", t.TempDir()}} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := run(ctx, args[0], args[1], io.Discard); err == nil || ctx.Err() != nil {
			t.Errorf("%q: %v", args, err)
		}
		cancel()
	}
}

// The messages of README.md get the answers that it describes.
func TestReadme(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "{") {
			lines = append(lines, line)
		}
	}
	c := connect(t)
	c.send("%s", lines[0])
	if got := c.ReadText(); !strings.Contains(got, `"serverInfo"`) {
		t.Errorf("got %s", got)
	}
	c.send("%s", lines[1])
	c.want(result, `2`, toolResult("2", false))
	c.send("%s", lines[2])
	if id := c.sampling("a long text"); id != "1" {
		t.Errorf("the id is %s", id)
	}
	c.send("%s", lines[3])
	c.want(result, `3`, toolResult("short", false))
}
