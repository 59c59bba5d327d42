package jsonschema

import (
	"regexp/syntax"
	"slices"
	"unicode"
	"unicode/utf8"
)

// An automaton is deterministic, has at most 256 states, and reads the bytes of UTF-8 text. The first byte of a character
// outside ASCII leads to the state after the character, if it decides that. The other bytes then change nothing. Otherwise
// there are states within the character.
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

const maxStates = 256

// newAutomaton returns nil if the pattern needs too many states, or looks at neighbouring characters.
func newAutomaton(prog *syntax.Prog) *automaton {
	if len(prog.Inst) > 4096 {
		return nil
	}
	for i := range prog.Inst {
		if in := &prog.Inst[i]; in.Op == syntax.InstEmptyWidth &&
			syntax.EmptyOp(in.Arg)&^(syntax.EmptyBeginText|syntax.EmptyEndText) != 0 {
			return nil
		}
	}
	for _, wide := range []bool{true, false} {
		b := automatonBuilder{prog: prog, wide: wide, states: map[string]uint8{}, inner: map[string]uint8{}}
		if b.build() {
			return &b.a
		}
	}
	return nil
}

// match returns known == false if the text has a character about which only RE2 can decide.
func (a *automaton) match(text []byte) (ok, known bool) {
	next, s := a.next, a.start
	for _, c := range text {
		s = next[s][c]
	}
	return a.accept[s], s != unsure
}

type automatonBuilder struct {
	a    automaton
	prog *syntax.Prog
	// wide says that characters outside ASCII lead to states of their own. Otherwise only RE2 can decide about them, unless
	// all of them are alike.
	wide   bool
	search bool             // the pattern may begin at each character
	states map[string]uint8 // the states by their instructions
	sets   [][]uint32       // the instructions of the states from first on
	spans  [][]span         // what the characters outside ASCII lead to, by state from first on
	inner  map[string]uint8 // the states within a character, by what the next byte leads to
}

// A span has neighbouring characters that lead to the same state.
type span struct {
	low, high rune
	to        uint8
}

// build returns false if there are too many states.
func (b *automatonBuilder) build() (ok bool) {
	b.a.next, b.a.accept = make([][256]uint8, first), []bool{dead: false, sure: true, unsure: false}
	for c := range 256 {
		b.a.next[sure][c], b.a.next[unsure][c] = sure, unsure
	}
	b.search = b.prog.StartCond()&syntax.EmptyBeginText == 0
	if b.a.start, ok = b.state([]uint32{uint32(b.prog.Start)}, true); !ok {
		return false
	}
	for id := first; id < len(b.a.next); id++ {
		set := b.sets[id-first]
		for c := range rune(utf8.RuneSelf) {
			to, ok := b.step(set, c)
			if !ok {
				return false
			}
			b.a.next[id][c] = to
		}
		spans, ok := b.spansOf(set)
		if !ok {
			return false
		}
		b.spans = append(b.spans, spans)
	}
	// The states within characters get the room that is left.
	for i, spans := range b.spans {
		b.leads(uint8(first+i), spans)
	}
	return true
}

// follow adds the instructions that are live without reading another character. end says that the text has ended.
func (b *automatonBuilder) follow(from []uint32, begin, end bool) (set []uint32, matched bool) {
	seen := make([]bool, len(b.prog.Inst))
	var visit func(pc uint32)
	visit = func(pc uint32) {
		if seen[pc] {
			return
		}
		seen[pc] = true
		switch in := &b.prog.Inst[pc]; in.Op {
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

// state returns the state of the instructions that are live after from, and false if there is no room for it.
func (b *automatonBuilder) state(from []uint32, begin bool) (uint8, bool) {
	set, matched := b.follow(from, begin, false)
	if matched {
		return sure, true
	}
	key := keyOf(set)
	if begin {
		key += "^" // an empty text ends where it begins
	}
	if id, ok := b.states[key]; ok {
		return id, true
	}
	_, atEnd := b.follow(from, begin, true)
	if len(set) == 0 && !atEnd {
		b.states[key] = dead
		return dead, true
	}
	id, ok := b.add(atEnd)
	if ok {
		b.states[key] = id
		b.sets = append(b.sets, set)
	}
	return id, ok
}

func (b *automatonBuilder) add(accept bool) (uint8, bool) {
	if len(b.a.next) == maxStates {
		return 0, false
	}
	b.a.next = append(b.a.next, [256]uint8{})
	b.a.accept = append(b.a.accept, accept)
	return uint8(len(b.a.next) - 1), true
}

func keyOf(set []uint32) string {
	key := make([]byte, 0, 3*len(set)+1)
	for _, pc := range set {
		key = append(key, byte(pc), byte(pc>>8), byte(pc>>16))
	}
	return string(key)
}

// after returns the instructions that follow those of the set that take r.
func (b *automatonBuilder) after(set []uint32, r rune) (to []uint32) {
	for _, pc := range set {
		if in := &b.prog.Inst[pc]; in.Op != syntax.InstEmptyWidth && in.MatchRune(r) {
			to = append(to, in.Out)
		}
	}
	if b.search {
		to = append(to, uint32(b.prog.Start))
	}
	return to
}

func (b *automatonBuilder) step(set []uint32, r rune) (uint8, bool) {
	return b.state(b.after(set, r), false)
}

// spansOf returns the spans of all characters outside ASCII, and false if there is no room for a state.
func (b *automatonBuilder) spansOf(set []uint32) (spans []span, ok bool) {
	cuts := b.cuts(set)
	if len(cuts) > 1 && !b.wide {
		return []span{{utf8.RuneSelf, unicode.MaxRune, unsure}}, true
	}
	known := map[string]uint8{}
	for i, low := range cuts {
		high := unicode.MaxRune
		if i+1 < len(cuts) {
			high = cuts[i+1] - 1
		}
		list := b.after(set, low)
		to, seen := known[keyOf(list)]
		if !seen {
			if to, ok = b.state(list, false); !ok {
				return nil, false
			}
			known[keyOf(list)] = to
		}
		if n := len(spans); n > 0 && spans[n-1].to == to {
			spans[n-1].high = high
		} else {
			spans = append(spans, span{low, high, to})
		}
	}
	return spans, true
}

// cuts returns the characters outside ASCII from which on an instruction of the set may decide otherwise than before.
func (b *automatonBuilder) cuts(set []uint32) []rune {
	cuts := []rune{utf8.RuneSelf}
	for _, pc := range set {
		in := &b.prog.Inst[pc]
		switch in.Op {
		case syntax.InstRune1:
			cuts = append(cuts, in.Rune[0], in.Rune[0]+1)
		case syntax.InstRune:
			if len(in.Rune) == 1 {
				cuts = append(cuts, in.Rune[0], in.Rune[0]+1)
				continue
			}
			for i := 0; i+1 < len(in.Rune); i += 2 {
				cuts = append(cuts, in.Rune[i], in.Rune[i+1]+1)
			}
		}
	}
	cuts = slices.DeleteFunc(cuts, func(r rune) bool { return r < utf8.RuneSelf || r > unicode.MaxRune })
	slices.Sort(cuts)
	return slices.Compact(cuts)
}

// leads sets what the bytes of characters outside ASCII lead to from a state.
func (b *automatonBuilder) leads(id uint8, spans []span) {
	for c := 0x80; c < 0x100; c++ {
		to := uint8(unsure) // no character begins with the byte
		switch {
		case c < 0xC0:
			to = id
		case c < 0xE0:
			to = b.block(spans, rune(c&31)<<6, 1<<6, utf8.RuneSelf, 0x7FF)
		case c == 0xED:
			to = b.block(spans, 0xD000, 1<<12, 0xD000, firstSurrogate-1)
		case c < 0xF0:
			to = b.block(spans, rune(c&15)<<12, 1<<12, 0x800, 0xFFFF)
		case c < 0xF8:
			to = b.block(spans, rune(c&7)<<18, 1<<18, 0x10000, unicode.MaxRune)
		}
		b.a.next[id][c] = to
	}
}

// block returns the state after the bytes that the characters from base to base+size-1 have in common. They are characters
// only as far as they are between least and most.
func (b *automatonBuilder) block(spans []span, base, size, least, most rune) uint8 {
	low, high := max(base, least), min(base+size-1, most)
	if low > high {
		return unsure
	}
	i, _ := slices.BinarySearchFunc(spans, low, func(s span, r rune) int { return int(s.high - r) })
	if spans[i].high >= high {
		return spans[i].to
	}
	var row [256]uint8
	for c := range row {
		row[c] = unsure
	}
	for c := range rune(64) {
		row[0x80+c] = b.block(spans, base+c*size/64, size/64, least, most)
	}
	key := string(row[0x80:0xC0])
	id, ok := b.inner[key]
	if !ok {
		if id, ok = b.add(false); !ok {
			return unsure
		}
		b.a.next[id] = row
		b.inner[key] = id
	}
	return id
}
