package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
	"github.com/wsguard/wsguard/reason"
)

// login logs in and waits for the chat.
func login(p *browser.Page, name string) {
	p.Wait("visible('#login-form')")
	p.Eval(fmt.Sprintf("$('#name').value = %q; $('#login-form').requestSubmit()", name))
	connected(p)
}

func connected(p *browser.Page) {
	p.Wait("text('#status-text') === 'connected' && visible('#app') && !visible('#banner') && document.querySelectorAll('#people li').length > 0")
}

func say(p *browser.Page, text string) {
	p.Eval(fmt.Sprintf("$('#text').value = %q; $('#say-form').requestSubmit()", text))
}

func enter(p *browser.Page, room string) {
	p.Eval(fmt.Sprintf("$('#join-room').value = %q; $('#join-form').requestSubmit()", room))
	p.Wait(fmt.Sprintf("text('#room-title') === '# %s'", room))
}

// end closes the connections of a user to the chat.
func end(t *testing.T, a *app, name string, code wsguard.StatusCode, text string) {
	t.Helper()
	ended := 0
	for s := range a.chat.Admin().Sessions() {
		if s.Subject == name && a.chat.Admin().Kick(s.ID, code, text) {
			ended++
		}
	}
	if ended == 0 {
		t.Fatalf("%s has no connection", name)
	}
}

// shown is a script for the texts in the room that is shown.
const shown = `[...document.querySelectorAll('.message:not(.failed):not(.pending) .text')].map((e) => e.textContent)`

// A message that was not delivered stays with its room until it is sent again, which the
// room sees once.
func TestNightlyUndelivered(t *testing.T) {
	wstest.Nightly(t)
	s, app := serveApp(t)
	b := browser.Start(t)
	alice, bob := b.Open("http://"+s.Addr), b.Open("http://"+s.Addr)
	login(alice, "alice")
	login(bob, "bob")
	enter(bob, "den")
	enter(alice, "den")

	// The browser loses what it sends, and then the connection.
	alice.Eval(`window.real = WebSocket.prototype.send;
		WebSocket.prototype.send = function (m) { if (!m.includes('"say"')) window.real.call(this, m); };`)
	say(alice, "lost one")
	say(alice, "lost two")
	say(alice, "given up")
	enter(alice, "attic")
	say(alice, "lost elsewhere")
	end(t, app, "alice", 1012, "test")
	alice.Wait("text('.message.failed .why').startsWith('not delivered: the connection was lost')")
	alice.Eval("WebSocket.prototype.send = window.real; $('#retry').click()")
	connected(alice)
	failed := func(room, want string) {
		t.Helper()
		alice.Eval(fmt.Sprintf("[...document.querySelectorAll('#rooms button')].find((e) => e.dataset.key === %q).click()", room))
		alice.Wait(fmt.Sprintf("text('#room-title') === '# %s' && [...document.querySelectorAll('.failed .text')].map((e) => e.textContent).join() === %q", room, want))
	}
	failed("attic", "lost elsewhere")
	failed("den", "lost one,lost two,given up")
	failed("lobby", "")
	failed("den", "lost one,lost two,given up")
	alice.Eval("location.reload()")
	alice.Wait("text('#room-title') === '# den' && document.querySelectorAll('.failed').length === 3")
	connected(alice)
	failed("attic", "lost elsewhere")
	failed("den", "lost one,lost two,given up")

	press := func(text, button string) {
		t.Helper()
		alice.Eval(fmt.Sprintf(`{
			const li = [...document.querySelectorAll('.failed')].find((e) => e.querySelector('.text').textContent === %q);
			const b = [...li.querySelectorAll('button')].find((e) => e.textContent === %q);
			b.click(); b.click();
		}`, text, button))
	}
	press("given up", "Discard")
	press("lost one", "Send again")
	failed("den", "lost two")
	press("lost two", "Send again")
	failed("den", "")
	failed("attic", "lost elsewhere")
	press("lost elsewhere", "Send again")
	failed("attic", "")

	// Delivered, but the answer is lost: the page finds it in the history of the room.
	failed("den", "")
	alice.Eval(`Math.random = () => 1; window.real = WebSocket.prototype.send;
		WebSocket.prototype.send = function (m) { window.real.call(this, m); if (m.includes('"say"')) this.close(); };`)
	say(alice, "delivered")
	bob.Wait(shown + ".includes('delivered')")
	alice.Wait("visible('#retry') && document.querySelectorAll('.failed').length === 1")
	alice.Eval("WebSocket.prototype.send = window.real; $('#retry').click()")
	connected(alice)
	failed("den", "")
	const all = "lost one,lost two,delivered"
	for name, p := range map[string]*browser.Page{"alice": alice, "bob": bob} {
		if got := p.Eval(shown + ".join()"); got != all {
			t.Errorf("%s reads %v, want %s", name, got, all)
		}
	}
	failed("attic", "")
	if got := alice.Eval(shown + ".join()"); got != "lost elsewhere" {
		t.Errorf("the attic has %v", got)
	}
	b.NoErrors()
}

// What the server refuses and what it does not answer can be sent again as well, also
// while the rate is exceeded.
func TestNightlyRefusedAgain(t *testing.T) {
	wstest.Nightly(t)
	s := serve(t)
	b := browser.Start(t)
	alice, bob := b.Open("http://"+s.Addr), b.Open("http://"+s.Addr)
	login(alice, "alice")
	login(bob, "bob")
	alice.Eval("for (let i = 0; i < 16; i++) { $('#text').value = `fast ${i}`; $('#say-form').requestSubmit(); }")
	alice.Wait("text('#notice').startsWith('Rate limit exceeded, please wait')")
	alice.Wait("document.querySelectorAll('.failed').length > 0 && document.querySelectorAll('.pending').length === 0")
	alice.Wait("{ if (!$('.pending')) $('.failed button')?.click(); !$('.pending, .failed') }")
	for name, p := range map[string]*browser.Page{"alice": alice, "bob": bob} {
		p.Wait(shown + ".length >= 16")
		if n := p.Eval("new Set(" + shown + ").size"); n != 16.0 || p.Eval(shown+".length") != n {
			t.Errorf("%s reads %v", name, p.Eval(shown+".join()"))
		}
	}
	b.NoErrors()
}

// The focus is where a person writes.
func TestNightlyFocus(t *testing.T) {
	wstest.Nightly(t)
	s, app := serveApp(t)
	b := browser.Start(t)
	p := b.Open("http://" + s.Addr)
	const writing = "document.activeElement === $('#text')"
	p.Wait("visible('#login-form') && document.activeElement === $('#name')")
	p.Key("alice")
	p.Key("Enter")
	p.Wait(writing)
	connected(p)
	p.Key("hello")
	p.Key("Enter")
	p.Wait(shown + ".includes('hello')")
	p.Eval("$('#join-room').focus()")
	p.Key("den")
	p.Key("Enter")
	p.Wait("text('#room-title') === '# den' && " + writing)
	p.Eval("{ const b = $('#rooms [data-key=lobby]'); b.focus(); b.click(); }")
	p.Wait("text('#room-title') === '# lobby' && " + writing)
	p.Eval("$('#leave').focus(); $('#leave').click()")
	p.Wait("text('#room-title') === '# den' && " + writing)

	comeBack := func(focus, want string) {
		t.Helper()
		p.Eval(fmt.Sprintf("$(%q).focus(); Math.random = () => 1", focus))
		end(t, app, "alice", 1012, "test")
		p.Wait("visible('#retry')")
		p.Eval("{ const had = document.activeElement; $('#retry').focus(); $('#retry').click(); if (had !== $('#text')) had.focus(); }")
		connected(p)
		p.Wait(fmt.Sprintf("document.activeElement === $(%q)", want))
	}
	comeBack("#text", "#text")
	comeBack("#lab-flood button", "#lab-flood button")
	comeBack("#rooms button", "#rooms button")
	p.Eval("$('#text').focus(); location.reload()")
	p.Wait("document.readyState === 'complete' && text('#room-title') === '# den' && " + writing)
	b.NoErrors()
}

// A first visit leaves nothing red in the console, and neither does a login.
func TestNightlyFirstVisit(t *testing.T) {
	wstest.Nightly(t)
	s := serve(t)
	b := browser.Start(t)
	p := b.Open("http://" + s.Addr)
	login(p, "alice")
	say(p, "hello")
	p.Wait(shown + ".includes('hello')")
	p.Eval("$('#logout').click()")
	login(p, "alice")
	p.Eval("location.reload()")
	p.Wait("document.readyState === 'complete'")
	connected(p)
	b.NoRed()
}

// A name that is taken and a login in another tab are told.
func TestNightlyTabs(t *testing.T) {
	wstest.Nightly(t)
	s := serve(t)
	b := browser.Start(t)
	home := "http://" + s.Addr
	other, first := b.Open(home), b.Open(home)
	login(other, "Alice")
	login(first, "alice")
	first.Wait("visible('#hint') && text('#hint-text') === 'alice is taken, so you are alice-2.' && text('#my-name') === 'alice-2'")
	first.Eval("$('#hint-close').click()")
	first.Wait("!visible('#hint')")

	second := first.Tab(home)
	connected(second) // it has the cookie
	second.Wait("text('#my-name') === 'alice-2'")
	third := first.Tab(home)
	connected(third)
	third.Eval(`fetch('/login', {method: 'POST', body: JSON.stringify({name: 'bob'})})`) // without a word to the others
	first.Wait("text('#banner-title') === 'This browser is bob now.' && text('#banner-text').includes('This tab was alice-2')")
	first.Wait("text('#retry') === 'Continue as bob' && visible('#retry') && !visible('#logout')")
	say(first, "who am I?")
	first.Wait("text('#notice').startsWith('Not connected') && $('#text').value === 'who am I?'")
	second.Wait("text('#retry') === 'Continue as bob'")
	second.Eval("$('#retry').click()")
	connected(second)
	second.Wait("text('#my-name') === 'bob' && !text('#people').includes('alice-2')")
	if n := first.Eval("text('#retry')"); n != "Continue as bob" {
		t.Errorf("the first tab says %v", n)
	}

	// A logout is told as well, and a tab at the login learns of a login.
	second.Eval("$('#logout').click()")
	first.Wait("visible('#login-form') && text('#login-error') === 'You have logged out in another tab of this browser.'")
	login(second, "carol")
	first.Wait("text('#banner-title') === 'This browser is carol now.' && visible('#login-form')")
	first.Eval("$('#retry').click()")
	connected(first)
	first.Wait("text('#my-name') === 'carol'")
	// The same name in another tab is no news.
	login2 := `{ $('#logout').click(); }`
	second.Eval(login2)
	first.Wait("visible('#login-form')")
	second.Wait("visible('#login-form')")
	b.NoErrors()
}

// Whatever the server refuses, the page says so in words.
func TestNightlyWords(t *testing.T) {
	wstest.Nightly(t)
	s, app := serveApp(t)
	b := browser.Start(t)
	p := b.Open("http://" + s.Addr)
	login(p, "alice")

	p.Eval("import('/words.js').then((m) => { window.words = m.words; })")
	p.Wait("typeof window.words === 'function'")
	for _, r := range reason.All() {
		if r.Token() == "" {
			continue
		}
		got, _ := p.Eval(fmt.Sprintf("window.words(%q)", r.Token())).(string)
		if !strings.HasSuffix(got, ".") || strings.Contains(got, "_") {
			t.Errorf("%s: %q", r.Token(), got)
		}
	}

	// Each way in which the server can end the connection.
	p.Eval("Math.random = () => 1")
	for _, tt := range []struct {
		code         wsguard.StatusCode
		reason, want string
	}{
		{1003, "message_type", "accepts only text"}, {1003, "", "does not accept a message of that type"},
		{1007, "invalid_json", "not JSON"}, {1008, "schema", "did not have the form"}, {1008, "rate_limited", "Too many messages"},
		{1008, "something", "refused what was sent"}, {1009, "message_too_big", "longer than the server accepts"},
		{1011, "", "Something went wrong"}, {1012, "draining", "restarting"}, {1013, "max_conns", "full"}, {1013, "", "busy"},
		{3003, "kicked", "operator"}, {3003, "forbidden", "may not"}, {3008, "pong_timeout", "no longer answered"}, {4000, "", "closed"},
	} {
		end(t, app, "alice", tt.code, tt.reason)
		p.Wait(fmt.Sprintf("text('#banner-text').includes(%q) && text('#banner-detail') === %q && visible('#retry')",
			tt.want, strings.TrimRight(fmt.Sprintf("(close code %d %s", tt.code, tt.reason), " ")+")"))
		p.Eval("$('#retry').click()")
		connected(p)
	}

	// And each way in which it can refuse a ticket.
	for _, tt := range []struct {
		status int
		want   string
	}{{400, "no ticket"}, {403, "no ticket"}, {429, "Too many connections"}, {503, "busy or restarting"}, {500, "busy or restarting"}} {
		p.Eval(fmt.Sprintf("window.realFetch ??= window.fetch; window.fetch = async () => new Response('', {status: %d})", tt.status))
		end(t, app, "alice", 1012, "test")
		p.Wait("visible('#retry')")
		p.Eval("$('#retry').click()")
		p.Wait(fmt.Sprintf("text('#banner-text').includes(%q)", tt.want))
		p.Eval("$('#lab-binary button').click()")
		p.Wait("text('#lab-binary .result').startsWith('✗ ')")
		p.Eval("window.fetch = window.realFetch; $('#retry').click()")
		connected(p)
	}
	end(t, app, "alice", 3000, "expired")
	p.Wait("text('#banner-text').includes('The login has expired') && visible('#retry')")
	p.Eval("$('#retry').click()")
	connected(p) // with a fresh ticket
	app.chat.Admin().Revoke("alice")
	p.Wait("/Retry|Please log in again/.test(text('#retry') + text('#login-error'))")
	p.Eval("if (visible('#retry')) fetch('/logout', {method: 'POST'}).then(() => $('#retry').click())")
	p.Wait("visible('#login-form') && text('#login-error').endsWith('Please log in again.')")
	b.NoErrors()
}
