package server

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/wsguard/wsguard/internal/wstest"
	"github.com/wsguard/wsguard/internal/wstest/browser"
)

// In each state of the page, at each size and in each colour scheme, every button can be
// reached and axe-core finds nothing serious.
func TestNightlyLook(t *testing.T) {
	wstest.Nightly(t)
	axe, err := os.ReadFile(filepath.Join("..", "testdata", "axe", "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal("there is no axe-core: run npm ci in examples/chat/testdata/axe, as .ci/run does")
	}
	s, app := serveApp(t)
	b := browser.Start(t)
	p, second, bob := b.Open("http://"+s.Addr), (*browser.Page)(nil), b.Open("http://"+s.Addr)
	login(bob, "bob")

	for _, state := range []struct {
		name  string
		enter func()
	}{
		{"logged out", func() { p.Wait("visible('#login-form')"); p.Eval("$('.key').open = true") }},
		{"logged in", func() {
			p.Eval(fmt.Sprintf("$('#key').value = %q", app.logins.key))
			login(p, "bob") // which is taken
			p.Wait("visible('#hint') && visible('#figures-open')")
			for i := range 4 {
				enter(p, fmt.Sprintf("room-%d-%s", i, "wwwwwwwwwwwww"))
			}
			say(p, "a message")
			p.Wait(shown + ".includes('a message')")
		}},
		{"after the buttons", func() {
			p.Eval("for (let i = 0; i < 16; i++) { $('#text').value = `fast ${i}`; $('#say-form').requestSubmit(); }")
			p.Wait("visible('.failed button') && text('#notice') !== ''")
			p.Eval("$('.foreign').open = true")
			for _, id := range []string{"invalid", "flood", "oversize", "binary", "ticket"} {
				p.Eval("$('#lab-" + id + " button').click()")
				p.Wait("text('#lab-" + id + " .result').startsWith('✓')")
			}
		}},
		{"figures", func() {
			p.Eval("$('#figures-open').click()")
			p.Wait("text('#figures-refusals').includes('schema')")
		}},
		{"banner", func() {
			p.Eval("$('#figures-close').click()")
			end(t, app, "bob-2", 1003, "message_type") // it stays
			p.Wait("visible('#retry')")
		}},
		{"another tab", func() {
			second = p.Tab("http://" + s.Addr)
			connected(second)
			second.Eval("$('#logout').click()")
			login(second, "carol")
			p.Wait("visible('#login-form') && text('#retry') === 'Continue as carol'")
		}},
	} {
		state.enter()
		for _, width := range []int{1440, 390} {
			for _, dark := range []bool{false, true} {
				p.View(width, map[int]int{1440: 900, 390: 844}[width], dark)
				for _, view := range []string{"chat", "lab"} {
					if view == "lab" && p.Eval("visible('.tabs')") != true {
						continue
					}
					where := fmt.Sprintf("%s, %d wide, dark %t, %s", state.name, width, dark, view)
					p.Eval(fmt.Sprintf("$('.tabs [data-view=%s]').click()", view))
					if got := p.Eval(unreachable); got != "" {
						t.Errorf("%s: out of reach: %s", where, got)
					}
					for _, f := range findings(t, p, string(axe)) {
						t.Errorf("%s: %s", where, f)
					}
				}
				p.Eval("$('.tabs [data-view=chat]').click()")
			}
		}
	}
	b.NoErrors()
}

// unreachable is a script that lists the controls on the page that nobody can press, and
// says whether the page is wider than the window.
const unreachable = `{
	const bad = [];
	const dialog = $('dialog[open]');
	for (const e of (dialog ?? document).querySelectorAll('button, input, summary, a[href]')) {
		if (!e.checkVisibility()) continue;
		e.scrollIntoView({ block: 'nearest' });
		const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;
		const top = document.elementFromPoint(x, y);
		const name = (e.id || e.ariaLabel || e.textContent) + ' at ' + [r.x, r.y, r.width, r.height].map(Math.round);
		if (!top || !e.contains(top)) bad.push(name + ' is under ' + (top?.outerHTML.slice(0, 60) ?? 'nothing'));
		else if (r.x < 0 || r.right > innerWidth || r.width < 24 || r.height < 20) bad.push(name);
		for (let box = e; box; box = box.parentElement) if (box.scrollLeft) bad.push(name + ' needs horizontal scrolling');
	}
	const all = document.scrollingElement;
	if (all.scrollWidth > innerWidth) bad.push('the page is ' + all.scrollWidth + ' wide');
	all.scrollTop = 0;
	bad.join('; ');
}`

// findings returns what axe-core finds serious or critical.
func findings(t *testing.T, p *browser.Page, axe string) []string {
	t.Helper()
	if p.Eval("typeof axe") != "object" {
		p.Eval(axe + "\n; ''")
	}
	p.Eval(`delete window.found;
		axe.run(document, { resultTypes: ['violations'] }).then((r) => {
			window.found = JSON.stringify(r.violations.filter((v) => ['serious', 'critical'].includes(v.impact))
				.map((v) => v.id + ': ' + v.nodes.slice(0, 4).map((n) => n.html.slice(0, 120) + ' ' + n.any.map((a) => a.message).join()).join(' | ')));
		}, (err) => { window.found = JSON.stringify(['axe: ' + err]); }); ''`)
	p.Wait("typeof window.found === 'string'")
	var found []string
	if err := json.Unmarshal([]byte(p.Eval("window.found").(string)), &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// Any 26 people in a room have colours that can be told apart and read.
func TestNightlyColours(t *testing.T) {
	wstest.Nightly(t)
	s := serve(t)
	b := browser.Start(t)
	p := b.Open("http://" + s.Addr)
	p.Wait("visible('#login-form')")
	p.Eval(`window.real = WebSocket.prototype.send; WebSocket.prototype.send = function (m) { window.socket = this; window.real.call(this, m); };`)
	login(p, "anna")
	p.Wait("Boolean(window.socket)") // it takes messages of the test, too
	var crowds [][]string
	crowd := func(name func(i int) string) {
		var names []string
		for i := range 26 {
			names = append(names, name(i))
		}
		crowds = append(crowds, names)
	}
	crowd(func(i int) string { return string(rune('a' + i)) })
	crowd(func(i int) string { return string(rune('A' + i)) })
	crowd(func(i int) string { return fmt.Sprintf("user-%d", i) })
	crowd(func(i int) string { return string(rune('α' + i)) })
	crowds = append(crowds, []string{"alice", "bob", "carol", "dave", "eve", "frank", "grace", "heidi", "ivan", "judy", "kim", "leo", "mallory",
		"nina", "oscar", "peggy", "quentin", "rupert", "sybil", "trent", "ursula", "victor", "walter", "xenia", "yves", "zoe"})
	for _, names := range crowds {
		list, err := json.Marshal(append([]string{"anna"}, names...))
		if err != nil {
			t.Fatal(err)
		}
		// They come one after the other, as in life, and each says something.
		p.Eval(fmt.Sprintf(`{
			const get = (m) => window.socket.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(m) }));
			get({ type: 'joined', room: 'lobby', people: ['anna'] });
			for (const name of %s) {
				get({ type: 'here', room: 'lobby', name });
				get({ type: 'said', room: 'lobby', name, text: 'hello', at: Date.now() });
			}
		}`, list))
		p.Wait(fmt.Sprintf("document.querySelectorAll('#people .who').length === %d", len(names)+1))
		for _, dark := range []bool{false, true} {
			p.View(1440, 900, dark)
			got := colours(t, p)
			if len(got) != len(names)+1 {
				t.Fatalf("%d colours", len(got))
			}
			for i, a := range got {
				if r := min(contrast(a.Text, a.Behind), contrast(a.Letter, a.Text)); r < 4.5 {
					t.Errorf("%s, dark %t: contrast %.2f", a.Name, dark, r)
				}
				for _, b := range got[:i] {
					if d := distance(a.Text, b.Text); d < 0.05 {
						t.Errorf("%s and %s, dark %t: distance %.3f", a.Name, b.Name, dark, d)
					}
				}
				if a.Text != a.Said {
					t.Errorf("%s has another colour in the messages", a.Name)
				}
			}
		}
	}
	b.NoErrors()
}

type rgb [3]float64 // from 0 to 255

type person struct {
	Name                       string
	Text, Behind, Letter, Said rgb
}

// colours returns the colours of the people that the page shows.
func colours(t *testing.T, p *browser.Page) []person {
	t.Helper()
	list := p.Eval(`{
		const parse = (c) => c.match(/[\d.]+/g).slice(0, 3).map(Number);
		const panel = parse(getComputedStyle($('.side')).backgroundColor);
		const said = new Map([...document.querySelectorAll('.message .who')].map((e) => [e.textContent, parse(getComputedStyle(e).color)]));
		JSON.stringify([...document.querySelectorAll('#people li')].map((li) => {
			const who = li.querySelector('.who');
			return { Name: who.textContent, Text: parse(getComputedStyle(who).color), Behind: panel,
				Letter: parse(getComputedStyle(li.querySelector('.avatar')).color), Said: said.get(who.textContent) };
		}));
	}`)
	var all []person
	if err := json.Unmarshal([]byte(list.(string)), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (c rgb) linear() rgb {
	for i, v := range c {
		if v /= 255; v <= 0.04045 {
			c[i] = v / 12.92
		} else {
			c[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	return c
}

// contrast is that of WCAG 2.2, from 1 to 21.
func contrast(a, b rgb) float64 {
	light := func(c rgb) float64 { l := c.linear(); return 0.2126*l[0] + 0.7152*l[1] + 0.0722*l[2] + 0.05 }
	x, y := light(a), light(b)
	return max(x, y) / min(x, y)
}

// distance is that of the colours in OKLab: 0.02 is just noticeable.
func distance(a, b rgb) float64 {
	lab := func(c rgb) rgb {
		c = c.linear()
		l := math.Cbrt(0.4122214708*c[0] + 0.5363325363*c[1] + 0.0514459929*c[2])
		m := math.Cbrt(0.2119034982*c[0] + 0.6806995451*c[1] + 0.1073969566*c[2])
		s := math.Cbrt(0.0883024619*c[0] + 0.2817188376*c[1] + 0.6299787005*c[2])
		return rgb{0.2104542553*l + 0.7936177850*m - 0.0040720468*s, 1.9779984951*l - 2.4285922050*m + 0.4505937099*s,
			0.0259040371*l + 0.7827717662*m - 0.8086757660*s}
	}
	x, y := lab(a), lab(b)
	return math.Sqrt(math.Pow(x[0]-y[0], 2) + math.Pow(x[1]-y[1], 2) + math.Pow(x[2]-y[2], 2))
}
