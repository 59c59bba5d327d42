// Package browser drives a Chromium without a window, for tests of pages. It speaks
// the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/
package browser

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
)

// A Browser is a browser process.
type Browser struct {
	t   *testing.T
	ctx context.Context
	ws  *websocket.Conn

	mu      sync.Mutex
	id      int
	calls   map[int]chan cdp
	errors  []string
	red     []string // what the console of a developer would show in red
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

// Find returns the program of the browser. It skips the test with -short, and when no
// browser is installed.
func Find(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the pages are not tested")
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no chromium, chromium-browser or google-chrome on PATH: the pages are not tested")
	return ""
}

// Profile returns the directory of a new profile. The end of the test removes it, so
// the browser must be stopped by a cleanup that is registered later.
func Profile(t *testing.T) string {
	t.Helper()
	profile, err := os.MkdirTemp("", "wsguard-browser-*")
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
	return profile
}

// Start starts a browser with a profile of its own. The end of the test stops the
// process and removes the profile. Further flags, such as those for a certificate of the
// test, go to the browser as they are. Start skips the test with -short, and when no
// browser is installed or the browser does not get as far as an empty page.
func Start(t *testing.T, flags ...string) *Browser {
	t.Helper()
	path := Find(t)
	profile := Profile(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, append(flags,
		"--headless", "--remote-debugging-port=0", "--user-data-dir="+profile,
		"--no-sandbox", // it opens nothing but our own pages
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--disable-sync", "--disable-extensions",
		"--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-default-browser-check",
		"about:blank")...)
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
	b := &Browser{t: t, ctx: ctx, ws: ws, calls: map[int]chan cdp{}, gone: make(chan struct{})}
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

func (b *Browser) read() {
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
		if red(m) {
			b.red = append(b.red, string(data))
		}
		b.mu.Unlock()
	}
}

func (b *Browser) send(m cdp) chan cdp {
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
func (b *Browser) call(session, method string, params, result any) {
	b.t.Helper()
	select {
	case m := <-b.send(cdp{Method: method, SessionID: session, Params: params}):
		if m.Error != nil && method == "Runtime.evaluate" && strings.Contains(m.Error.Message, "navigated") {
			return // the page was loaded again, and the script has no value
		}
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

// NoErrors fails the test if a script of any page has failed, or if the browser has
// refused something for its security policy.
func (b *Browser) NoErrors() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		b.t.Errorf("in the browser: %.600s", e)
	}
}

// A Page is a tab of a browser.
type Page struct {
	b       *Browser
	session string
	context string
}

type obj map[string]any

// Open opens url in a page that has cookies of its own, as if in another browser.
func (b *Browser) Open(url string) *Page {
	b.t.Helper()
	var context struct{ BrowserContextID string }
	b.call("", "Target.createBrowserContext", obj{}, &context)
	return b.open(context.BrowserContextID, url)
}

func (b *Browser) open(context, url string) *Page {
	b.t.Helper()
	var target struct{ TargetID string }
	b.call("", "Target.createTarget", obj{"url": "about:blank", "browserContextId": context}, &target)
	var session struct{ SessionID string }
	b.call("", "Target.attachToTarget", obj{"targetId": target.TargetID, "flatten": true}, &session)
	p := &Page{b, session.SessionID, context}
	b.call(p.session, "Runtime.enable", obj{}, nil)
	b.call(p.session, "Log.enable", obj{}, nil)
	b.call(p.session, "Network.enable", obj{}, nil)
	// Each page behaves as if it had the focus of the window.
	b.call(p.session, "Emulation.setFocusEmulationEnabled", obj{"enabled": true}, nil)
	b.call(p.session, "Page.navigate", obj{"url": url}, nil)
	return p
}

// helpers are functions that scripts of tests may use.
const helpers = `
	const $ = (s) => document.querySelector(s);
	const text = (s) => $(s)?.textContent ?? '';
	const visible = (s) => Boolean($(s)?.checkVisibility());
`

// Eval runs a script in the page and returns its value. The script may use $,
// text and visible, which take a CSS selector.
func (p *Page) Eval(script string) any {
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

// Wait waits until the script, which Eval runs, has the value true. It fails the test
// after a minute.
func (p *Page) Wait(condition string) {
	p.b.t.Helper()
	by := time.Now().Add(time.Minute)
	for p.Eval(condition) != true {
		if time.Now().After(by) {
			p.b.t.Fatalf("never true: %s\nthe page:\n%v", condition, p.Eval("document.body.innerText"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
