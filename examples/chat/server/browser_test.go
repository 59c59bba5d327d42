package server

import (
	"fmt"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// TestNightlyFigures shows the figures to an operator, who ends a connection.
func TestNightlyFigures(t *testing.T) {
	wstest.Nightly(t)
	s, app := serveApp(t)
	b := browser.Start(t)
	alice, root := b.Open("http://"+s.Addr), b.Open("http://"+s.Addr)
	for name, p := range map[string]*browser.Page{"alice": alice, "root": root} {
		p.Wait("visible('#login-form')")
		if name == "root" {
			p.Eval(fmt.Sprintf("$('#key').value = %q", app.logins.key))
		}
		p.Eval(fmt.Sprintf("$('#name').value = %q; $('#login-form').requestSubmit()", name))
		p.Wait("text('#status-text') === 'connected' && visible('#app')")
	}
	alice.Wait("!visible('#figures-open') && !visible('#figures')")
	alice.Eval("$('#lab-invalid button').click()")
	alice.Wait("text('#lab-invalid .result').startsWith('✓')")
	root.Wait("visible('#figures-open')")
	root.Eval("$('#figures-open').click()")
	root.Wait("text('#figures-sessions').includes('alice') && text('#figures-refusals').includes('schema')")
	root.Wait("text('#figures-limits').includes('Caps.MaxConns') && text('#figures-offenders').includes('refusals')")
	root.Eval("$('[aria-label=\"Kick alice\"]').click()")
	alice.Wait("text('#banner').includes('3003 kicked')")
	root.Wait("!text('#figures-sessions').includes('alice')")
	root.Eval("$('#figures-close').click()")
	root.Wait("!visible('#figures')")
	b.NoErrors()
}

// TestNightlyBrowser uses the pages as people do, in a real browser.
func TestNightlyBrowser(t *testing.T) {
	wstest.Nightly(t)
	s := serve(t)
	b := browser.Start(t)
	alice, bob := b.Open("http://"+s.Addr), b.Open("http://"+s.Addr)
	for name, p := range map[string]*browser.Page{"alice": alice, "bob": bob} {
		p.Wait("visible('#login-form')")
		p.Eval(fmt.Sprintf("$('#name').value = %q; $('#login-form').requestSubmit()", name))
		p.Wait("text('#status-text') === 'connected' && visible('#app')")
	}
	alice.Wait("text('#people').includes('bob')")

	// Somebody silent, meanwhile.
	bob.Eval("$('#lab-silent button').click()")

	// What one says the other reads, as text.
	say := func(p *browser.Page, what string) {
		p.Eval(fmt.Sprintf("$('#text').value = %q; $('#say-form').requestSubmit()", what))
	}
	const attack = "hello <img src=x onerror=document.title=1>"
	say(alice, attack)
	for _, p := range []*browser.Page{alice, bob} {
		p.Wait(fmt.Sprintf("[...document.querySelectorAll('.message:not(.pending) .text')].some((e) => e.textContent === %q)", attack))
		p.Wait("document.querySelectorAll('.messages img').length === 0 && document.title === 'wsguard chat'")
	}

	// Each button breaks a rule, and the page says what came of it.
	for _, tt := range []struct{ id, result, event string }{
		{"invalid", "✓ invalid_message: at /text, by ", "schema"},
		{"flood", "✓ rate limit exceeded, please wait", "rate_limited"},
		{"oversize", "✓ closed 1009 message_too_big", "1009 message_too_big"},
		{"binary", "✓ closed 1003 message_type", "1003 message_type"},
		{"ticket", "✓ the second was refused", "401 unauthenticated"},
	} {
		alice.Eval(fmt.Sprintf("$('#lab-%s button').click()", tt.id))
		alice.Wait(fmt.Sprintf("text('#lab-%s .result').startsWith(%q)", tt.id, tt.result))
		bob.Wait(fmt.Sprintf("text('#events').includes(%q)", tt.event))
	}
	bob.Wait("text('#lab-silent .result').startsWith('✓ closed 3008 idle')")

	// Too fast in the chat itself: the page says so, and what was not sent. All in
	// one script: four a second are not too fast.
	alice.Eval("for (let i = 0; i < 20; i++) { $('#text').value = `fast ${i}`; $('#say-form').requestSubmit(); }")
	alice.Wait("text('#notice').startsWith('Rate limit exceeded, please wait')")
	alice.Wait("text('.message.failed .why').startsWith('not delivered: rate limit exceeded')")

	// The server sends it away: it counts down, and comes back to its room. With the
	// longest of the delays that chance may choose, nobody can miss the countdown.
	bob.Eval("Math.random = () => 1; $('#lab-drill button').click()")
	bob.Wait("text('#banner').includes('close code 1012 drill') && /Retrying in \\d+ s/.test(text('#banner-next'))")
	bob.Eval("$('#retry').click()")
	bob.Wait("text('#status-text') === 'connected' && !visible('#banner')")
	say(bob, "back")
	alice.Wait("text('#messages').includes('back')")

	// What the page would do about the closes that nobody provokes here.
	bob.Eval("import('/policy.js').then((m) => { window.verdict = m.verdict; })")
	bob.Wait("typeof window.verdict === 'function'")
	for _, tt := range []struct{ close, act string }{
		{"1000", "stop"}, {"1001, 'lifetime'", "retry"}, {"1003, 'message_type'", "stop"}, {"1006", "retry"},
		{"1008, 'rate_limited'", "stop"}, {"1008, 'schema'", "stop"}, {"1008, 'queue_full'", "retry"}, {"1009", "stop"},
		{"1011", "retry"}, {"1012, 'draining'", "retry"}, {"1013", "retry"}, {"3000, 'expired'", "login"}, {"3003, 'kicked'", "stop"},
		{"3008, 'idle'", "rest"}, {"3008, 'pong_timeout'", "retry"}, {"4000", "stop"},
	} {
		if got := bob.Eval("window.verdict(" + tt.close + ").act"); got != tt.act {
			t.Errorf("after %s: %v, want %s", tt.close, got, tt.act)
		}
	}
	if bob.Eval("window.verdict(1013).min >= 5000") != true {
		t.Error("comes back to an overloaded server at once")
	}

	bob.Eval("$('#logout').click()")
	bob.Wait("visible('#login-form')")
	alice.Wait("!text('#people').includes('bob')")
	b.NoErrors()
}
