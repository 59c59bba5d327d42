package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// start runs the program, and returns the URL and the header of its clients.
func start(t *testing.T) (url string, header http.Header) {
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
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fields[3], http.Header{"Authorization": {"Bearer " + strings.TrimSpace(string(token))}}
}

type client struct {
	t   *testing.T
	ctx context.Context
	ws  *websocket.Conn
}

func connect(t *testing.T) *client {
	t.Helper()
	url, header := start(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	return &client{t, ctx, ws}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if err := c.ws.Write(c.ctx, websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read() string {
	c.t.Helper()
	_, msg, err := c.ws.Read(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(msg)
}

// want expects a message that is equal to this one as JSON.
func (c *client) want(format string, args ...any) {
	c.t.Helper()
	got := c.read()
	if want := fmt.Sprintf(format, args...); !reflect.DeepEqual(decode(c.t, got), decode(c.t, want)) {
		c.t.Fatalf("got  %s\nwant %s", got, want)
	}
}

func decode(t *testing.T, msg string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(msg), &v); err != nil {
		t.Fatalf("%v in %s", err, msg)
	}
	return v
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
	if got := c.read(); !strings.Contains(got, `"name":"count_words"`) || !strings.Contains(got, `"name":"summarize"`) {
		t.Errorf("the tools are %s", got)
	}
	c.send(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"count_words","arguments":{"text":" one two\n"}}}`)
	c.want(result, `3`, toolResult("2", false))
	c.send(`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"summarize","arguments":{"text":"x"}}}`)
	c.want(result, `4`, toolResult("the client has no language model", true))
}
