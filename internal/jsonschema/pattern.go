package jsonschema

import (
	"regexp/syntax"
	"slices"
	"unicode"
)

// A textPattern is a regular expression. If it is simple, it can be matched without RE2's machine.
type textPattern struct {
	*pattern
	runs  *bytePattern
	table *automaton
}

func newTextPattern(p *pattern) *textPattern {
	t := &textPattern{pattern: p, runs: newBytePattern(p.re.String())}
	if t.runs == nil {
		t.table = newAutomaton(p.re.String())
	}
	return t
}

// cost returns the fuel that RE2 may spend on a text of n bytes. For each character, it may try all live instructions.
func (t *textPattern) cost(n int) int { return 1 + sixteenths(n, t.width) }

// match also returns the fuel that it has spent. If that would exceed most, match returns what it would have spent.
func (t *textPattern) match(text []byte, most int) (ok bool, spent int) {
	spent = 1 + len(text)/32
	if t.runs != nil {
		return t.runs.match(text), spent
	}
	if t.table != nil {
		if ok, known := t.table.match(text); known {
			return ok, spent
		}
	}
	if spent += t.cost(len(text)); spent > most {
		return false, spent
	}
	return t.re.Match(text), spent
}

// A bytePattern is an anchored sequence of repeated ASCII classes, such as ^[a-z][a-z0-9_]{0,31}$. A class that may repeat
// shares no character with the class that may follow. So there is never a choice.
type bytePattern struct {
	runs []classRun
	end  bool // the match must reach the end of the text
}

type classRun struct {
	class    [256]bool
	min, max int // how many times the class repeats; max -1: without a limit
}

func newBytePattern(expr string) *bytePattern {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	p := &bytePattern{}
	list := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		list = re.Sub
	}
	if len(list) == 0 || list[0].Op != syntax.OpBeginText {
		return nil
	}
	list = list[1:]
	if n := len(list); n > 0 && list[n-1].Op == syntax.OpEndText {
		p.end = true
		list = list[:n-1]
	}
	for _, sub := range list {
		if !p.add(sub, 1, 1) {
			return nil
		}
	}
	if len(p.runs) > 64 {
		return nil
	}
	for i := range p.runs {
		if p.runs[i].min == p.runs[i].max {
			continue
		}
		for j := i + 1; j < len(p.runs); j++ {
			if p.runs[i].overlaps(&p.runs[j]) {
				return nil
			}
			if p.runs[j].min > 0 {
				break
			}
		}
	}
	if !p.end {
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

func (p *bytePattern) add(re *syntax.Regexp, low, high int) bool {
	once := low == 1 && high == 1
	switch re.Op {
	case syntax.OpCapture:
		return p.add(re.Sub[0], low, high)
	case syntax.OpConcat:
		if !once {
			return false
		}
		for _, sub := range re.Sub {
			if !p.add(sub, 1, 1) {
				return false
			}
		}
		return true
	case syntax.OpStar:
		return once && p.add(re.Sub[0], 0, -1)
	case syntax.OpPlus:
		return once && p.add(re.Sub[0], 1, -1)
	case syntax.OpQuest:
		return once && p.add(re.Sub[0], 0, 1)
	case syntax.OpRepeat:
		return once && p.add(re.Sub[0], re.Min, re.Max)
	case syntax.OpEmptyMatch:
		return true
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 || !once && len(re.Rune) != 1 {
			return false
		}
		for _, r := range re.Rune {
			if !p.class([]rune{r, r}, low, high) {
				return false
			}
		}
		return true
	case syntax.OpCharClass:
		return p.class(re.Rune, low, high)
	}
	return false
}

func (p *bytePattern) class(ranges []rune, low, high int) bool {
	c := classRun{min: low, max: high}
	for i := 0; i+1 < len(ranges); i += 2 {
		if ranges[i+1] >= 0x80 {
			return false
		}
		for r := ranges[i]; r <= ranges[i+1]; r++ {
			c.class[r] = true
		}
	}
	p.runs = append(p.runs, c)
	return true
}

func (c *classRun) overlaps(o *classRun) bool {
	for i := range c.class {
		if c.class[i] && o.class[i] {
			return true
		}
	}
	return false
}

func (p *bytePattern) match(text []byte) bool {
	for k := range p.runs {
		r := &p.runs[k]
		n := 0
		for n < len(text) && n != r.max && r.class[text[n]] {
			n++
		}
		if n < r.min {
			return false
		}
		text = text[n:]
	}
	return !p.end || len(text) == 0
}

// An automaton is deterministic, has at most 256 states, and reads the bytes of UTF-8 text. A character outside ASCII is
// one step, at its first byte.
type automaton struct {
	next   [][256]uint8
	accept []bool // by state: the text matches if it ends here
	start  uint8
}

const (
	dead   = iota // no text that begins in this way matches
	sure          // every text that begins in this way matches
	unsure        // only RE2 knows whether the text matches
	first         // the states of the pattern itself
)

// newAutomaton returns nil if the pattern needs too many states, or looks at neighbouring characters.
func newAutomaton(expr string) *automaton {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil
	}
	for i := range prog.Inst {
		if in := &prog.Inst[i]; in.Op == syntax.InstEmptyWidth &&
			syntax.EmptyOp(in.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
			return nil
		}
	}
	a := &automaton{next: make([][256]uint8, first), accept: []bool{dead: false, sure: true, unsure: false}}
	for c := range 256 {
		a.next[sure][c], a.next[unsure][c] = sure, unsure
	}
	states := map[string]uint8{}
	var sets [][]uint32
	// follow adds the instructions that are live without reading another character. end says that the text has ended.
	follow := func(from []uint32, begin, end bool) (set []uint32, matched bool) {
		seen := make([]bool, len(prog.Inst))
		var visit func(pc uint32)
		visit = func(pc uint32) {
			if seen[pc] {
				return
			}
			seen[pc] = true
			switch in := &prog.Inst[pc]; in.Op {
			case syntax.InstAlt, syntax.InstAltMatch:
				visit(in.Out)
				visit(in.Arg)
			case syntax.InstCapture, syntax.InstNop:
				visit(in.Out)
			case syntax.InstEmptyWidth:
				need := syntax.EmptyOp(in.Arg)
				if (need&syntax.EmptyBeginText == 0 || begin) && (need&syntax.EmptyEndText == 0 || end) {
					visit(in.Out)
				} else if need&syntax.EmptyEndText != 0 && (need&syntax.EmptyBeginText == 0 || begin) {
					set = append(set, pc) // the text may end here
				}
			case syntax.InstMatch:
				matched = true
			case syntax.InstFail:
			default:
				set = append(set, pc)
			}
		}
		for _, pc := range from {
			visit(pc)
		}
		slices.Sort(set)
		return set, matched
	}
	add := func(from []uint32, begin bool) (uint8, bool) {
		set, matched := follow(from, begin, false)
		if matched {
			return sure, true
		}
		key := make([]byte, 0, 4*len(set)+1)
		for _, pc := range set {
			key = append(key, byte(pc), byte(pc>>8), byte(pc>>16))
		}
		if begin {
			key = append(key, '^') // an empty text ends where it begins
		}
		if id, ok := states[string(key)]; ok {
			return id, true
		}
		_, atEnd := follow(from, begin, true)
		if len(set) == 0 && !atEnd {
			states[string(key)] = dead
			return dead, true
		}
		if len(a.next) > 255 || len(prog.Inst) > 4096 {
			return 0, false
		}
		id := uint8(len(a.next))
		states[string(key)] = id
		a.next = append(a.next, [256]uint8{})
		a.accept = append(a.accept, atEnd)
		sets = append(sets, set)
		return id, true
	}
	// An unanchored pattern may begin at each character.
	search := prog.StartCond()&syntax.EmptyBeginText == 0
	ok := false
	if a.start, ok = add([]uint32{uint32(prog.Start)}, true); !ok {
		return nil
	}
	for id := first; id < len(a.next); id++ {
		set := sets[id-first]
		var row [256]uint8
		step := func(r rune) (uint8, bool) {
			var to []uint32
			for _, pc := range set {
				if in := &prog.Inst[pc]; in.Op != syntax.InstEmptyWidth && in.MatchRune(r) {
					to = append(to, in.Out)
				}
			}
			if search {
				to = append(to, uint32(prog.Start))
			}
			return add(to, false)
		}
		for c := range rune(0x80) {
			if row[c], ok = step(c); !ok {
				return nil
			}
		}
		lead := uint8(unsure)
		if uniform(prog, set) {
			if lead, ok = step(unicode.MaxRune); !ok {
				return nil
			}
		}
		for c := 0x80; c < 0x100; c++ {
			if row[c] = lead; c < 0xC0 {
				row[c] = uint8(id)
			}
		}
		a.next[id] = row
	}
	return a
}

// uniform reports whether each instruction of the set treats all characters outside ASCII alike.
func uniform(prog *syntax.Prog, set []uint32) bool {
	for _, pc := range set {
		in := &prog.Inst[pc]
		switch in.Op {
		case syntax.InstRuneAny, syntax.InstRuneAnyNotNL, syntax.InstEmptyWidth:
			continue
		}
		if len(in.Rune) == 1 {
			r := in.Rune[0]
			if r >= 0x80 {
				return false
			}
			if syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
				for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
					if f >= 0x80 {
						return false
					}
				}
			}
			continue
		}
		for i := 0; i+1 < len(in.Rune); i += 2 {
			if low, high := in.Rune[i], in.Rune[i+1]; high >= 0x80 && (low > 0x80 || high < unicode.MaxRune) {
				return false
			}
		}
	}
	return true
}

// match returns known == false if the text has a character about which only RE2 can decide.
func (a *automaton) match(text []byte) (ok, known bool) {
	next, s := a.next, a.start
	for _, c := range text {
		s = next[s][c]
	}
	return a.accept[s], s != unsure
}
