package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/internal/wstest"
)

// TestNightlyBrowser uses the pages as people do, in a real browser.
func TestNightlyBrowser(t *testing.T) {
	wstest.Nightly(t)
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("no chromium, chromium-browser or google-chrome on PATH: the pages are not tested")
	}
	s := serve(t)
	b := startBrowser(t, path)
	alice, bob := b.open("http://"+s.Addr), b.open("http://"+s.Addr)
	for name, p := range map[string]*page{"alice": alice, "bob": bob} {
		p.wait("visible('#login-form')")
		p.eval(fmt.Sprintf("$('#name').value = %q; $('#login-form').requestSubmit()", name))
		p.wait("text('#status-text') === 'connected' && visible('#app')")
	}
	alice.wait("text('#people').includes('bob')")

	// Somebody silent, meanwhile.
	bob.eval("$('#lab-silent button').click()")

	// What one says the other reads, as text.
	say := func(p *page, what string) {
		p.eval(fmt.Sprintf("$('#text').value = %q; $('#say-form').requestSubmit()", what))
	}
	const attack = "hello <img src=x onerror=document.title=1>"
	say(alice, attack)
	for _, p := range []*page{alice, bob} {
		p.wait(fmt.Sprintf("[...document.querySelectorAll('.message:not(.pending) .text')].some((e) => e.textContent === %q)", attack))
		p.wait("document.querySelectorAll('.messages img').length === 0 && document.title === 'wsguard chat'")
	}

	// Each button breaks a rule, and the page says what came of it.
	for _, tt := range []struct{ id, result, event string }{
		{"invalid", "✓ invalid_message: at /text, by ", "schema"},
		{"flood", "✓ rate limit exceeded, please wait", "rate_limited"},
		{"oversize", "✓ closed 1009 message_too_big", "1009 message_too_big"},
		{"binary", "✓ closed 1003 message_type", "1003 message_type"},
		{"ticket", "✓ the second was refused", "401 unauthenticated"},
	} {
		alice.eval(fmt.Sprintf("$('#lab-%s button').click()", tt.id))
		alice.wait(fmt.Sprintf("text('#lab-%s .result').startsWith(%q)", tt.id, tt.result))
		bob.wait(fmt.Sprintf("text('#events').includes(%q)", tt.event))
	}
	bob.wait("text('#lab-silent .result').startsWith('✓ closed 3008 idle')")

	// Too fast in the chat itself: the page says so, and what was not sent. All in
	// one script: four a second are not too fast.
	alice.eval("for (let i = 0; i < 20; i++) { $('#text').value = `fast ${i}`; $('#say-form').requestSubmit(); }")
	alice.wait("text('#notice').startsWith('Rate limit exceeded, please wait')")
	alice.wait("text('.message.failed .why').startsWith('not delivered: rate limit exceeded')")

	// The server sends it away: it counts down, and comes back to its room. With the
	// longest of the delays that chance may choose, nobody can miss the countdown.
	bob.eval("Math.random = () => 1; $('#lab-drill button').click()")
	bob.wait("text('#banner').includes('close code 1012 drill') && /Retrying in \\d+ s/.test(text('#banner-next'))")
	bob.eval("$('#retry').click()")
	bob.wait("text('#status-text') === 'connected' && !visible('#banner')")
	say(bob, "back")
	alice.wait("text('#messages').includes('back')")

	// What the page would do about the closes that nobody provokes here.
	bob.eval("import('/reconnect.js').then((m) => { window.verdict = m.verdict; })")
	bob.wait("typeof window.verdict === 'function'")
	for _, tt := range []struct{ close, act string }{
		{"1000", "ask"}, {"1001, 'lifetime'", "retry"}, {"1003, 'message_type'", "ask"}, {"1006", "retry"},
		{"1008, 'rate_limited'", "ask"}, {"1008, 'schema'", "ask"}, {"1008, 'queue_full'", "retry"}, {"1009", "ask"},
		{"1011", "retry"}, {"1012, 'draining'", "retry"}, {"1013", "retry"}, {"3000, 'expired'", "login"}, {"3003, 'kicked'", "ask"},
		{"3008, 'idle'", "ask"}, {"3008, 'pong_timeout'", "retry"}, {"4000", "ask"},
	} {
		if got := bob.eval("window.verdict(" + tt.close + ").act"); got != tt.act {
			t.Errorf("after %s: %v, want %s", tt.close, got, tt.act)
		}
	}
	if bob.eval("window.verdict(1013).min >= 5000") != true {
		t.Error("comes back to an overloaded server at once")
	}

	bob.eval("$('#logout').click()")
	bob.wait("visible('#login-form')")
	alice.wait("!text('#people').includes('bob')")
	b.noErrors()
}

// browser speaks the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	t   *testing.T
	ctx context.Context
	ws  *websocket.Conn

	mu      sync.Mutex
	id      int
	calls   map[int]chan cdp
	errors  []string
	gone    chan struct{}
	goneErr error
}

type cdp struct {
	ID        int             `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Params    any             `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// startBrowser starts a browser with a profile of its own; the end of the test
// takes both away. One that does not come as far as an empty page says nothing
// about ours.
func startBrowser(t *testing.T, path string) *browser {
	t.Helper()
	profile, err := os.MkdirTemp("", "wsguard-chat-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The browser's last children may still be writing.
		for range 50 {
			if err = os.RemoveAll(profile); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error(err)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path,
		"--headless", "--remote-debugging-port=0", "--user-data-dir="+profile,
		"--no-sandbox", // it opens nothing but our own pages
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--disable-sync", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-default-browser-check",
		"about:blank")
	cmd.WaitDelay = 5 * time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		cancel() // kills it, if it has not gone by itself
		select {
		case <-drained:
		case <-time.After(5 * time.Second): // a child that has survived it
		}
		cmd.Wait()
		<-drained
	})

	url := make(chan string, 1)
	var said strings.Builder
	go func() {
		defer close(drained)
		defer close(url)
		r := bufio.NewScanner(stderr)
		for r.Scan() {
			if u, ok := strings.CutPrefix(r.Text(), "DevTools listening on "); ok {
				url <- u
				io.Copy(io.Discard, stderr)
				return
			}
			fmt.Fprintln(&said, r.Text())
		}
	}()
	var u string
	select {
	case u = <-url:
		if u == "" {
			t.Skipf("%s does not start here: the pages are not tested\n%s", path, said.String())
		}
	case <-time.After(time.Minute):
		t.Skipf("%s does not start within a minute: the pages are not tested", path)
	}
	ws, _, err := websocket.Dial(ctx, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(16 << 20)
	b := &browser{t: t, ctx: ctx, ws: ws, calls: map[int]chan cdp{}, gone: make(chan struct{})}
	go b.read()
	t.Cleanup(func() {
		b.send(cdp{Method: "Browser.close"})
		select {
		case <-b.gone:
		case <-time.After(5 * time.Second):
		}
		ws.CloseNow()
		<-b.gone
	})
	return b
}

func (b *browser) read() {
	defer close(b.gone)
	for {
		_, data, err := b.ws.Read(b.ctx)
		if err != nil {
			b.goneErr = err
			return
		}
		var m cdp
		if err := json.Unmarshal(data, &m); err != nil {
			b.goneErr = err
			return
		}
		b.mu.Lock()
		if call := b.calls[m.ID]; m.ID != 0 && call != nil {
			delete(b.calls, m.ID)
			call <- m
		}
		// A script that failed, or something that the policy has refused.
		if m.Method == "Runtime.exceptionThrown" || m.Method == "Log.entryAdded" && strings.Contains(string(data), `"source":"security"`) {
			b.errors = append(b.errors, string(data))
		}
		b.mu.Unlock()
	}
}

func (b *browser) send(m cdp) chan cdp {
	call := make(chan cdp, 1)
	b.mu.Lock()
	b.id++
	m.ID = b.id
	b.calls[m.ID] = call
	b.mu.Unlock()
	data, err := json.Marshal(m)
	if err == nil {
		err = b.ws.Write(b.ctx, websocket.MessageText, data)
	}
	if err != nil {
		b.t.Log(m.Method, err)
	}
	return call
}

// call sends a command, and unmarshals its result.
func (b *browser) call(session, method string, params, result any) {
	b.t.Helper()
	select {
	case m := <-b.send(cdp{Method: method, SessionID: session, Params: params}):
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-b.gone:
		b.t.Fatalf("%s: the browser is gone: %v", method, b.goneErr)
	case <-b.ctx.Done():
		b.t.Fatalf("%s: %v", method, b.ctx.Err())
	}
}

func (b *browser) noErrors() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		b.t.Errorf("in the browser: %.600s", e)
	}
}

type page struct {
	b       *browser
	session string
}

type obj map[string]any

// open opens a page among cookies of its own, as if in another browser.
func (b *browser) open(url string) *page {
	b.t.Helper()
	var context struct{ BrowserContextID string }
	b.call("", "Target.createBrowserContext", obj{}, &context)
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", obj{"url": "about:blank", "browserContextId": context.BrowserContextID}, &target)
	var session struct{ SessionID string }
	b.call("", "Target.attachToTarget", obj{"targetId": target.TargetID, "flatten": true}, &session)
	p := &page{b, session.SessionID}
	b.call(p.session, "Runtime.enable", obj{}, nil)
	b.call(p.session, "Log.enable", obj{}, nil)
	b.call(p.session, "Page.navigate", obj{"url": url}, nil)
	return p
}

const helpers = `
	const $ = (s) => document.querySelector(s);
	const text = (s) => $(s)?.textContent ?? '';
	const visible = (s) => Boolean($(s)?.checkVisibility());
`

// eval runs a script in the page, and returns its value.
func (p *page) eval(script string) any {
	p.b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	p.b.call(p.session, "Runtime.evaluate", obj{"expression": "{" + helpers + script + "}", "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		p.b.t.Fatalf("%s: %s", script, r.ExceptionDetails.Exception.Description)
	}
	return r.Result.Value
}

// wait waits for a condition in the page.
func (p *page) wait(condition string) {
	p.b.t.Helper()
	by := time.Now().Add(time.Minute)
	for p.eval(condition) != true {
		if time.Now().After(by) {
			p.b.t.Fatalf("never true: %s\nthe page:\n%v", condition, p.eval("document.body.innerText"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
