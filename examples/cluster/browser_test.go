package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// People use the pages of all instances as one chat.
func TestNightlyClusterBrowser(t *testing.T) {
	wstest.Nightly(t)
	browser.Find(t)
	p := start(t, "-addr", "127.0.0.1:0")
	var pages []string
	for i := range size {
		pages = append(pages, p.until(fmt.Sprintf(`^instance %d: (http://\S+) `, i+1))[1])
	}
	b := browser.Start(t)
	connected := func(p *browser.Page) {
		t.Helper()
		p.Wait("text('#status-text') === 'connected' && visible('#app') && !visible('#banner') && document.querySelectorAll('#people li').length > 0")
	}
	login := func(p *browser.Page, name string) {
		t.Helper()
		p.Wait("visible('#login-form')")
		p.Eval(fmt.Sprintf("$('#name').value = %q; $('#login-form').requestSubmit()", name))
		connected(p)
	}
	alice := b.Open(pages[0])
	login(alice, "alice")
	bob := b.Open(pages[1])
	login(bob, "bob")
	second := alice.Tab(pages[2])
	connected(second) // it has the cookie
	all := []*browser.Page{alice, bob, second}

	const texts = `[...document.querySelectorAll('.message:not(.failed):not(.pending) .text')].map((e) => e.textContent).join()`
	var want []string
	for i, p := range all {
		text := fmt.Sprintf("hello from instance %d", i+1)
		p.Eval(fmt.Sprintf("$('#text').value = %q; $('#say-form').requestSubmit()", text))
		want = append(want, text)
		for _, p := range all {
			p.Wait(fmt.Sprintf("%s === %q && text('#people').includes('alice') && text('#people').includes('bob')", texts, strings.Join(want, ",")))
		}
	}
	// A logout counts at all instances.
	alice.Eval("$('#logout').click()")
	second.Wait("visible('#login-form')")
	bob.Wait("!text('#people').includes('alice')")
	b.NoErrors()
}
