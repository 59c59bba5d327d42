package main

import (
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// TestNightlyBrowser uses the page as people do, in a real browser.
func TestNightlyBrowser(t *testing.T) {
	wstest.Nightly(t)
	p := start(t, 20*time.Second)
	b := browser.Start(t)
	page := b.Open(p.url)
	page.Wait("visible('#login-form')")
	page.Eval("$('#name').value = 'alice'; $('#password').value = 'wonderland'; $('#login-form').requestSubmit()")
	page.Wait("text('#status') === 'connected' && text('#messages').includes('connected as alice')")
	page.Eval("$('#text').value = 'hello <b>'; $('#say-form').requestSubmit()")
	page.Wait("text('#messages').includes('alice: hello <b>')")

	// It refreshes its token on the open connection. Without that the connection ends with the token, and
	// the page comes back with another.
	page.Wait("text('#messages').includes('token refreshed on the open connection')")
	page.Eval("$('#auto').click()")
	page.Wait("text('#messages').includes('closed 3000 expired')")
	page.Wait("text('#messages').split('connected as alice').length === 3 && text('#status') === 'connected'")
	if page.Eval("location.href + performance.getEntries().map((e) => e.name).join()") == "" ||
		page.Eval("(location.href + performance.getEntries().map((e) => e.name).join()).includes('bearer')") != false {
		t.Error("a token is in a URL")
	}

	// A logout elsewhere ends it here: the page asks for one new login.
	page.Eval("fetch('/logout', { method: 'POST' })")
	page.Wait("visible('#login-form') && text('#login-error') !== ''")
	b.NoErrors()
}
