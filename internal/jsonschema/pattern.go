package jsonschema

import (
	"regexp"
	"unicode/utf8"
)

// A pattern is a regular expression of a schema. It means what ECMA-262 says, and it is found anywhere in a text.
type pattern struct {
	text  string         // as the schema has it
	runs  *classRuns     // matches a simple pattern; nil for the others
	re    *regexp.Regexp // matches the others; nil if runs is there
	table *automaton     // matches some of the others faster than re does; nil if there is none
	width int            // how many instructions re may try for each character
}

// newPattern returns an error that says why RE2 cannot match the pattern.
func newPattern(text string) (*pattern, error) {
	e, err := parseECMA(text)
	if err != nil {
		return nil, err
	}
	e = trimmed(e)
	p := &pattern{text: text, runs: newClassRuns(e)}
	if p.runs != nil {
		return p, nil
	}
	expr, err := e.re2()
	if err != nil {
		return nil, err
	}
	if p.re, err = regexp.Compile(expr); err != nil {
		return nil, err
	}
	prog, err := re2Program(expr)
	if err != nil {
		return nil, err
	}
	p.width, p.table = e.width(prog), newAutomaton(prog)
	return p, nil
}

// cost returns the fuel that a text of n bytes may take without the table. For each character, RE2 may try all live
// instructions.
func (p *pattern) cost(n int) int {
	if p.runs != nil {
		return p.runs.cost(n)
	}
	return 1 + sixteenths(n, p.width)
}

// matches is match without the table and without a bound.
func (p *pattern) matches(text string) bool {
	if p.runs != nil {
		return p.runs.match([]byte(text))
	}
	return p.re.MatchString(text)
}

// match also returns the fuel that it has spent. If that would exceed most, match returns what it would have spent.
func (p *pattern) match(text []byte, most int) (ok bool, spent int) {
	if p.runs != nil {
		return p.runs.match(text), p.runs.cost(len(text))
	}
	spent = 1 + len(text)/32
	if p.table != nil {
		if ok, known := p.table.match(text); known {
			return ok, spent
		}
	}
	if spent += p.cost(len(text)); spent > most {
		return false, spent
	}
	return p.re.Match(text), spent
}

// classRuns are a sequence of repeated classes, such as ^[a-z][a-z0-9_]{0,31}$. A class that may repeat shares no
// character with the class that may follow. So there is never a choice. The sequence begins where the text begins. If it
// is one class, it may also begin anywhere.
type classRuns struct {
	runs   []classRun
	end    bool // the match must reach the end of the text
	search bool // the match may begin anywhere; there is at most one run, and it has no max
	wide   bool // a class has characters outside of ASCII
	dear   bool // a class has many ranges of them
}

type classRun struct {
	ascii    [256]bool // by byte; that of a character outside of ASCII is never in it
	wide     runeSet   // the characters outside of ASCII
	min, max int       // how many times the class repeats; max -1: without a limit
}

// newClassRuns returns nil if the expression is not that simple.
func newClassRuns(e *expr) *classRuns {
	p := &classRuns{search: true}
	list := []*expr{e}
	if e.op == exprConcat {
		list = e.subs
	}
	if len(list) > 0 && list[0].op == exprBegin {
		p.search = false
		list = list[1:]
	}
	if n := len(list); n > 0 && list[n-1].op == exprEnd {
		p.end = true
		list = list[:n-1]
	}
	for _, sub := range list {
		if !p.add(sub) {
			return nil
		}
	}
	if p.search && len(p.runs) == 1 {
		p.runs[0].max = -1 // it is enough if a part of a run fits
	}
	if p.search && len(p.runs) > 1 || len(p.runs) > 64 || p.choice() {
		return nil
	}
	for i := range p.runs {
		p.wide = p.wide || len(p.runs[i].wide) > 0
		p.dear = p.dear || len(p.runs[i].wide) > 16
	}
	if !p.end && !p.search {
		// If the match need not reach the end, the last class takes no more characters than it must.
		for i := len(p.runs) - 1; i >= 0; i-- {
			p.runs[i].max = p.runs[i].min
			if p.runs[i].min > 0 {
				break
			}
		}
	}
	return p
}

// choice reports whether a character may belong to the repeat of one class or to a later class.
func (p *classRuns) choice() bool {
	for i := range p.runs {
		if p.runs[i].min == p.runs[i].max {
			continue
		}
		for j := i + 1; j < len(p.runs); j++ {
			if p.runs[i].overlaps(&p.runs[j]) {
				return true
			}
			if p.runs[j].min > 0 {
				break
			}
		}
	}
	return false
}

func (p *classRuns) add(e *expr) bool {
	switch {
	case e.op == exprConcat:
		for _, sub := range e.subs {
			if !p.add(sub) {
				return false
			}
		}
		return true
	case e.op == exprSet:
		p.class(e.set, 1, 1)
		return true
	case e.op == exprRepeat && e.subs[0].op == exprSet:
		p.class(e.subs[0].set, e.min, e.max)
		return true
	}
	return false
}

func (p *classRuns) class(set runeSet, low, high int) {
	c := classRun{min: low, max: high}
	for r := range rune(utf8.RuneSelf) {
		c.ascii[r] = set.has(r)
	}
	c.wide = set.minus(runeSet{0, utf8.RuneSelf - 1}).inText()
	p.runs = append(p.runs, c)
}

func (c *classRun) overlaps(o *classRun) bool {
	for i := range c.ascii {
		if c.ascii[i] && o.ascii[i] {
			return true
		}
	}
	return c.wide.overlaps(o.wide)
}

// cost returns the fuel that a text of n bytes takes.
func (p *classRuns) cost(n int) int {
	if p.dear {
		return 1 + n/8
	}
	return 1 + n/32
}

func (p *classRuns) match(text []byte) bool {
	switch {
	case p.search:
		return p.find(text)
	case p.wide:
		return p.matchWide(text)
	}
	for k := range p.runs {
		r := &p.runs[k]
		n := 0
		for n < len(text) && n != r.max && r.ascii[text[n]] {
			n++
		}
		if n < r.min {
			return false
		}
		text = text[n:]
	}
	return !p.end || len(text) == 0
}

func (p *classRuns) matchWide(text []byte) bool {
	for k := range p.runs {
		r := &p.runs[k]
		n, count := r.take(text)
		if count < r.min {
			return false
		}
		text = text[n:]
	}
	return !p.end || len(text) == 0
}

// find reports whether the only class has a run that is long enough, anywhere or at the end.
func (p *classRuns) find(text []byte) bool {
	if len(p.runs) == 0 {
		return true
	}
	r := &p.runs[0]
	for {
		n, count := r.take(text)
		if count >= r.min && (!p.end || n == len(text)) {
			return true
		}
		if text = text[n:]; len(text) == 0 {
			return false
		}
		_, size := utf8.DecodeRune(text)
		text = text[size:]
	}
}

// take returns how many bytes and characters at the begin of the text belong to the run.
func (r *classRun) take(text []byte) (n, count int) {
	low, high := rune(1), rune(0) // the range of the character before, in which the next one often is
	for ; n < len(text) && count != r.max; count++ {
		if text[n] < utf8.RuneSelf {
			if !r.ascii[text[n]] {
				break
			}
			n++
			continue
		}
		char, size := utf8.DecodeRune(text[n:])
		if char < low || char > high {
			i := r.wide.find(char)
			if i < 0 {
				break
			}
			low, high = r.wide[i], r.wide[i+1]
		}
		n += size
	}
	return n, count
}
