package browser

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A Firefox is a browser process that speaks WebDriver BiDi: https://www.w3.org/TR/webdriver-bidi/
type Firefox struct {
	t   *testing.T
	ctx context.Context
	ws  *websocket.Conn
	id  int
	red []string // errors of scripts and of the console
}

// preferences keep the browser from asking anybody anything.
const preferences = `
user_pref("app.normandy.enabled", false);
user_pref("app.update.disabledForTesting", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.dns.disableIPv6", true);
user_pref("services.settings.server", "data:,#remote-settings-dummy/v1");
user_pref("toolkit.telemetry.enabled", false);
`

// StartFirefox starts a Firefox with a profile of its own, for the pages of one host at one port. The
// host is this machine, and cert is the only certificate that the browser accepts there without
// verifying it. The end of the test stops the process and removes the profile. StartFirefox returns nil
// if no Firefox is installed, and skips the test with -short.
func StartFirefox(t *testing.T, hostport string, cert *x509.Certificate) *Firefox {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the pages are not tested")
	}
	path, err := exec.LookPath("firefox-esr")
	if err != nil {
		if path, err = exec.LookPath("firefox"); err != nil {
			return nil
		}
	}
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		t.Fatal(err)
	}
	profile := Profile(t)
	sum := strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(cert.Raw)), " ", ":")
	for name, text := range map[string]string{
		"user.js":           preferences + fmt.Sprintf("user_pref(%q, %q);\n", "network.dns.localDomains", host),
		"cert_override.txt": hostport + ":\tOID.2.16.840.1.101.3.4.2.1\t" + sum + "\t\n",
	} {
		if err := os.WriteFile(filepath.Join(profile, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	f := &Firefox{t: t, ctx: ctx}
	url := f.launch(path, profile)
	if f.ws, _, err = websocket.Dial(ctx, url+"/session", nil); err != nil {
		t.Fatal(err)
	}
	f.ws.SetReadLimit(16 << 20)
	t.Cleanup(func() { f.ws.CloseNow() })
	f.call("session.new", obj{"capabilities": obj{}}, nil)
	f.call("session.subscribe", obj{"events": []string{"log.entryAdded"}}, nil)
	return f
}

// launch starts the process and returns its address.
func (f *Firefox) launch(path, profile string) string {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port=0", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+profile, "MOZ_CRASHREPORTER_DISABLE=1")
	cmd.WaitDelay = 5 * time.Second
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		w.Close()
		close(ended)
	}()
	f.t.Cleanup(func() { cancel(); <-ended })
	late := time.AfterFunc(time.Minute, cancel)
	defer late.Stop()
	var said strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if url, ok := strings.CutPrefix(lines.Text(), "WebDriver BiDi listening on "); ok {
			go io.Copy(io.Discard, r)
			return url
		}
		fmt.Fprintln(&said, lines.Text())
	}
	f.t.Fatalf("%s does not start:\n%s", path, said.String())
	return ""
}

// bidi is an answer or an event.
type bidi struct {
	ID             int
	Type, Method   string
	Error, Message string
	Result         json.RawMessage
	Params         struct{ Level, Text string }
}

// call sends a command, waits for the answer, and unmarshals its result. It must not be
// called by two goroutines.
func (f *Firefox) call(method string, params, result any) {
	f.t.Helper()
	if err := f.try(method, params, result); err != nil {
		f.t.Fatalf("%s: %v", method, err)
	}
}

func (f *Firefox) try(method string, params, result any) error {
	f.id++
	data, err := json.Marshal(obj{"id": f.id, "method": method, "params": params})
	if err != nil {
		return err
	}
	if err := f.ws.Write(f.ctx, websocket.MessageText, data); err != nil {
		return err
	}
	for {
		_, data, err := f.ws.Read(f.ctx)
		if err != nil {
			return err
		}
		var m bidi
		if err := json.Unmarshal(data, &m); err != nil {
			return err
		}
		switch {
		case m.Method == "log.entryAdded" && m.Params.Level == "error":
			f.red = append(f.red, m.Params.Text)
		case m.ID != f.id:
		case m.Type != "success":
			return errors.New(m.Error + ": " + m.Message)
		case result != nil:
			return json.Unmarshal(m.Result, result)
		default:
			return nil
		}
	}
}

// NoErrors fails the test if a script of any page has failed or has written an error to the
// console.
func (f *Firefox) NoErrors() {
	f.t.Helper()
	f.call("session.status", obj{}, nil) // reads the events until now
	for _, e := range f.red {
		f.t.Errorf("in Firefox: %.600s", e)
	}
}

// A FirefoxPage is a window of a Firefox.
type FirefoxPage struct {
	f       *Firefox
	context string
}

// Open opens url in a window that has cookies of its own, as if in another browser.
func (f *Firefox) Open(url string) *FirefoxPage {
	f.t.Helper()
	var user struct{ UserContext string }
	f.call("browser.createUserContext", obj{}, &user)
	var window struct{ Context string }
	f.call("browsingContext.create", obj{"type": "window", "userContext": user.UserContext}, &window)
	f.call("browsingContext.navigate", obj{"context": window.Context, "url": url, "wait": "complete"}, nil)
	return &FirefoxPage{f, window.Context}
}

// Eval is like [Page.Eval], for scripts whose value is a string, a number, a boolean or nothing.
func (p *FirefoxPage) Eval(script string) any {
	p.f.t.Helper()
	var r struct {
		Type             string
		Result           struct{ Value any }
		ExceptionDetails struct{ Text string }
	}
	p.f.call("script.evaluate", obj{"expression": "{" + helpers + script + "}", "target": obj{"context": p.context}, "awaitPromise": false}, &r)
	if r.Type != "success" {
		p.f.t.Fatalf("%s: %s", script, r.ExceptionDetails.Text)
	}
	return r.Result.Value
}

// Wait is like [Page.Wait].
func (p *FirefoxPage) Wait(condition string) {
	p.f.t.Helper()
	by := time.Now().Add(time.Minute)
	for p.Eval(condition) != true {
		if time.Now().After(by) {
			p.f.t.Fatalf("never true: %s\nthe page:\n%v", condition, p.Eval("document.body.innerText"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
