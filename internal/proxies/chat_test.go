package proxies

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// chat is examples/chat behind nginx, and a browser in front of it.
type chat struct {
	t       *testing.T
	b       *browser.Browser
	cert    certificate
	logs    string // the directory of nginx's logs
	origin  string
	program string
	args    []string
	proc    *process
}

func startChat(t *testing.T) *chat {
	t.Helper()
	browser.Find(t)
	dir := t.TempDir()
	c := &chat{t: t, logs: t.TempDir(), program: filepath.Join(dir, "chat")}
	build := exec.Command("go", "build", "-o", c.program, "./examples/chat")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := "127.0.0.1:" + freePort(t)
	block := withLogs(t, blocks(t, "nginx"), c.logs)
	r := allProxies[0].start(t, block, "127.0.0.1:8080", addr, host, "localhost")
	c.cert, c.origin = r.cert, "https://localhost:"+r.https
	c.args = []string{"-addr", addr, "-proxy", c.origin, "-data", filepath.Join(dir, "data")}
	c.start()
	c.b = browser.Start(t, r.cert.flags(t)...)
	return c
}

func (c *chat) start() {
	c.t.Helper()
	c.proc = startProcess(c.t, "open "+c.origin, nil, c.program, c.args...)
}

// login opens the chat in another browser and logs in.
func (c *chat) login(name string) *browser.Page {
	c.t.Helper()
	p := c.b.Open(c.origin)
	p.Wait("visible('#login-form')")
	p.Eval(fmt.Sprintf("$('#name').value = %q; $('#login-form').requestSubmit()", name))
	p.Wait("text('#status-text') === 'connected' && text('#people').includes('" + name + "')")
	return p
}

// say says something in the page of one user, and waits until the others read it.
func (c *chat) say(text string, from string, by *browser.Page, to ...*browser.Page) {
	c.t.Helper()
	by.Eval(fmt.Sprintf("$('#text').value = %q; $('#say-form').requestSubmit()", text))
	for _, p := range append(to, by) {
		p.Wait(fmt.Sprintf("[...document.querySelectorAll('.message:not(.pending):not(.failed)')].filter((m) => m.textContent.includes(%q) && m.textContent.includes(%q)).length === 1", text, from))
	}
}

// noSecrets fails the test if a ticket or the session's cookie stands where a person or a script can
// find it.
func (c *chat) noSecrets(p *browser.Page) {
	c.t.Helper()
	for _, url := range append(p.History(), p.Eval("location.href").(string)) {
		if url != "about:blank" && url != c.origin+"/" {
			c.t.Errorf("the tab has been at %s", url)
		}
	}
	for _, what := range []string{
		"performance.getEntries().map((e) => e.name).join()", "JSON.stringify(history.state)", "document.referrer", "document.cookie",
		"JSON.stringify([{ ...localStorage }, { ...sessionStorage }])", "document.documentElement.outerHTML",
	} {
		if got := fmt.Sprint(p.Eval(what)); strings.Contains(got, "ticket=") || strings.Contains(got, "wsguard_chat") {
			c.t.Errorf("%s: %s", what, got)
		}
	}
}

// People use the chat through nginx, with TLS. What they said, and who they are, lasts over a restart
// and over a kill of the program.
func TestNightlyChatBehindNginx(t *testing.T) {
	wstest.Nightly(t)
	c := startChat(t)
	alice, bob := c.login("alice"), c.login("bob")
	second := alice.Tab(c.origin) // of the same login
	second.Wait("text('#status-text') === 'connected'")
	c.say("hello from alice", "alice", alice, second, bob)
	c.say("hello from bob", "bob", bob, alice, second)
	c.say("hello from the second tab", "alice", second, alice, bob)

	// Each refusal is shown.
	bob.Eval("$('#lab-silent button').click()")
	alice.Front()
	for _, id := range []string{"invalid", "flood", "oversize", "binary", "ticket"} {
		alice.Eval("$('#lab-" + id + " button').click()")
		alice.Wait("text('#lab-" + id + " .result.good').length > 0")
	}
	bob.Wait("text('#lab-silent .result.good').length > 0")

	// What people see comes back by itself. A hidden tab waits longer, until it is seen.
	back := func(p *browser.Page) {
		t.Helper()
		p.Wait("text('#status-text') === 'connected' && !visible('#banner') && text('#messages').includes('hello from bob')")
	}
	shown, hidden := alice, second
	for i, stop := range []func(){
		func() { c.proc.drain(t) },
		func() { c.proc.kill() },
	} {
		stop()
		for _, p := range []*browser.Page{alice, second, bob} {
			p.Wait("visible('#banner') && text('#banner-next').length > 0")
		}
		c.start()
		back(shown)
		back(bob)
		hidden.Front()
		back(hidden)
		shown, hidden = hidden, shown
		c.say(fmt.Sprint("back again ", i), "alice", alice, second, bob)
	}
	for _, p := range []*browser.Page{alice, second, bob} {
		c.noSecrets(p)
	}
	noTickets(t, c.logs, `"GET /ws" 101`, `"GET /lab" 401`, `"POST /ticket" 200`)
	c.b.NoErrors()
}

// foreign serves an empty page over TLS, with the certificate of the proxy, and returns its port.
func (c *chat) foreign() string {
	c.t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.cert.dir, "fullchain.pem"), filepath.Join(c.cert.dir, "privkey.pem"))
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		c.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<!doctype html><link rel="icon" href="data:,">a foreign page`)
	}), ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(l)
	c.t.Cleanup(func() { srv.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// attack is what a foreign page does in the browser of a user. It knows a good ticket of the user,
// which no page can, and the request that logs in.
const attack = `
	window.got = [];
	const socket = (name, url) => new Promise((done) => {
		const ws = new WebSocket(url);
		ws.onopen = () => { got.push(name + ' open'); done(); };
		ws.onclose = ({ code }) => { got.push(name + ' ' + code); done(); };
	});
	const post = (name, url, mode, body) => fetch(url, { method: 'POST', credentials: 'include', mode, body })
		.then(async (r) => got.push(name + ' ' + r.type + ' ' + (await r.text()).length), () => got.push(name + ' failed'));
	(async () => {
		await socket('no ticket', '%[1]s/ws');
		await socket('ticket', '%[1]s/ws?ticket=%[3]s');
		await post('read a ticket', '%[2]s/ticket', 'cors');
		await post('buy a ticket', '%[2]s/ticket', 'no-cors');
		await post('log in', '%[2]s/login', 'no-cors', '{"name":"mallory"}');
		await post('log out', '%[2]s/logout', 'no-cors');
		got.push('done');
	})();
`

// A page of another origin gets nowhere in the browser of a user who is logged in. The origin
// is another port of the same host, to which the browser sends the cookie, or another site.
func TestNightlyForeignPage(t *testing.T) {
	wstest.Nightly(t)
	c := startChat(t)
	alice := c.login("alice")
	port := c.foreign()
	for _, origin := range []string{"https://localhost:" + port, "https://evil.test:" + port} {
		alice.Front()
		alice.Eval("window.bought = ''; fetch('/ticket', { method: 'POST' }).then((r) => r.json()).then((r) => { window.bought = r.ticket; })")
		alice.Wait("window.bought.length > 0")
		page := alice.Tab(origin)
		page.Wait("document.body?.textContent.includes('a foreign page')")
		page.Eval(fmt.Sprintf(attack, strings.Replace(c.origin, "https", "wss", 1), c.origin, alice.Eval("window.bought")))
		page.Wait("window.got?.at(-1) === 'done'")
		// The requests reach the server, which refuses them. So the access log has them.
		const want = "no ticket 1006,ticket 1006,read a ticket failed,buy a ticket failed,log in failed,log out failed,done"
		if got := page.Eval("window.got.join()"); got != want {
			t.Errorf("%s: %s", origin, got)
		}
		// Alice is still alice, and her page is still connected.
		c.say("still here, "+origin, "alice", alice)
	}
	tab := alice.Tab(c.origin)
	tab.Wait("text('#status-text') === 'connected' && text('#my-name') === 'alice'")
	noTickets(t, c.logs, `"GET /ws" 403`, `"POST /ticket" 403`, `"POST /login" 403`, `"POST /logout" 403`)
	if text := c.proc.out.String(); strings.Contains(text, "mallory") {
		t.Errorf("somebody is mallory:\n%s", text)
	}
}
