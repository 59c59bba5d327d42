package jsonschema

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
)

const (
	// maxRE2Count is the largest count of a repeat in RE2, and the largest product of the counts of nested repeats.
	maxRE2Count = 1000
	// maxInstructions bounds the program of a pattern that RE2 matches. RE2 unrolls repeats, and needs some 40 bytes for an
	// instruction and 40 more for each goroutine that matches it.
	maxInstructions = 1 << 16
)

// trimmed returns an expression that is found in the same texts and asks for less. If the match may begin anywhere, a
// repeat that it begins with need not take more than it must. The same holds for its end.
func trimmed(e *expr) *expr {
	list := []*expr{e}
	switch e.op {
	case exprConcat:
		list = e.subs
	case exprEither:
		each := make([]*expr, len(e.subs))
		for i, s := range e.subs {
			each[i] = trimmed(s)
		}
		return either(each)
	}
	least := func(e *expr) []*expr {
		if e = repeat(e.subs[0], e.min, e.min); e.op == exprConcat {
			return e.subs
		}
		return []*expr{e}
	}
	for len(list) > 0 && list[0].op == exprRepeat && list[0].max != list[0].min {
		list = slices.Concat(least(list[0]), list[1:])
	}
	for n := len(list); n > 0 && list[n-1].op == exprRepeat && list[n-1].max != list[n-1].min; n = len(list) {
		list = slices.Concat(list[:n-1], least(list[n-1]))
	}
	return concat(list)
}

// instructions returns about how many instructions RE2 needs. It saturates.
func (e *expr) instructions() int {
	n := int64(1)
	switch e.op {
	case exprConcat, exprEither:
		n = 0
		if e.op == exprEither || len(e.subs) == 0 {
			n = int64(max(1, len(e.subs)))
		}
		for _, s := range e.subs {
			n = min(n+int64(s.instructions()), maxRepeat)
		}
	case exprRepeat:
		must, may := int64(e.min), int64(1)
		if e.max >= 0 {
			may = int64(e.max) - must
		}
		if may > int64(maxRE2Count/e.subs[0].product()) {
			may *= 2 // see optional
		}
		sub := int64(e.subs[0].instructions())
		n = must*sub + may*(sub+1)
	}
	return int(min(n, maxRepeat))
}

// product returns the largest product of the counts of nested repeats in what writeRE2 writes.
func (e *expr) product() int {
	most := 1
	for _, s := range e.subs {
		most = max(most, s.product())
	}
	if e.op != exprRepeat {
		return most
	}
	return most * max(1, min(max(e.min, e.max), maxRE2Count/most))
}

// re2 returns the expression in the syntax of RE2.
func (e *expr) re2() (string, error) {
	if n := e.instructions(); n > maxInstructions {
		return "", fmt.Errorf("RE2 unrolls the repeats of the pattern to about %d instructions, and %d are allowed", n, maxInstructions)
	}
	var b strings.Builder
	e.write(&b)
	return b.String(), nil
}

func (e *expr) write(b *strings.Builder) {
	switch e.op {
	case exprSet:
		e.set.write(b)
	case exprConcat:
		for _, s := range e.subs {
			if s.op == exprEither {
				s.group(b)
			} else {
				s.write(b)
			}
		}
	case exprEither:
		for i, s := range e.subs {
			if i > 0 {
				b.WriteByte('|')
			}
			s.write(b)
		}
	case exprRepeat:
		e.unroll(b)
	case exprBegin:
		b.WriteString(`\A`)
	case exprEnd:
		b.WriteString(`\z`)
	case exprEdge:
		b.WriteString(`\b`)
	case exprNoEdge:
		b.WriteString(`\B`)
	}
}

func (e *expr) group(b *strings.Builder) {
	b.WriteString("(?:")
	e.write(b)
	b.WriteByte(')')
}

// unroll writes a repeat with counts that RE2 accepts.
func (e *expr) unroll(b *strings.Builder) {
	sub := e.subs[0]
	chunk := maxRE2Count / sub.product()
	times := func(n int) {
		for ; n > chunk; n -= chunk {
			sub.quantified(b, chunk, chunk)
		}
		if n > 0 {
			sub.quantified(b, n, n)
		}
	}
	switch {
	case e.max >= 0 && e.max <= chunk, e.max < 0 && e.min <= chunk:
		sub.quantified(b, e.min, e.max)
	case e.max < 0:
		times(e.min)
		sub.quantified(b, 0, -1)
	default:
		times(e.min)
		sub.optional(b, e.max-e.min, chunk)
	}
}

// optional writes from 0 to n times e, for an n that RE2 does not accept. It chooses between chunk times e and what is
// left, and less than chunk times e. So RE2 has to follow two ways at a time, and not one for each chunk.
func (e *expr) optional(b *strings.Builder, n, chunk int) {
	depth := 0
	for ; n > chunk; n -= chunk {
		b.WriteString("(?:")
		e.quantified(b, 0, chunk-1)
		b.WriteByte('|')
		e.quantified(b, chunk, chunk)
		depth++
	}
	e.quantified(b, 0, n)
	b.WriteString(strings.Repeat(")", depth))
}

func (e *expr) quantified(b *strings.Builder, low, high int) {
	if high == 0 {
		return
	}
	if e.op == exprSet {
		e.write(b)
	} else {
		e.group(b)
	}
	switch {
	case low == 1 && high == 1:
	case low == 0 && high < 0:
		b.WriteByte('*')
	case low == 1 && high < 0:
		b.WriteByte('+')
	case low == 0 && high == 1:
		b.WriteByte('?')
	case high < 0:
		fmt.Fprintf(b, "{%d,}", low)
	case low == high:
		fmt.Fprintf(b, "{%d}", low)
	default:
		fmt.Fprintf(b, "{%d,%d}", low, high)
	}
}

func (s runeSet) write(b *strings.Builder) {
	one := func(r rune) {
		if r < 0x80 && (letter(byte(r)) || digitSet.has(r)) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(b, `\x{%X}`, r)
		}
	}
	switch {
	case len(s) == 0:
		b.WriteString(`[^\x00-\x{10FFFF}]`)
	case len(s) == 2 && s[0] == s[1]:
		one(s[0])
	default:
		b.WriteByte('[')
		for i := 0; i < len(s); i += 2 {
			if one(s[i]); s[i] < s[i+1] {
				b.WriteByte('-')
				one(s[i+1])
			}
		}
		b.WriteByte(']')
	}
}

// shrunk returns the expression with smaller counts. What may follow a character is the same. So the answer of
// deterministic is the same, too.
func (e *expr) shrunk() *expr {
	s := *e
	s.subs = nil
	for _, sub := range e.subs {
		s.subs = append(s.subs, sub.shrunk())
	}
	if e.op == exprRepeat {
		if s.min = min(e.min, 2); e.max >= 0 {
			s.max = s.min + min(e.max-e.min, 2)
		}
	}
	return &s
}

// unrolled reports whether a repeat is written as a choice; see optional.
func (e *expr) unrolled() bool {
	for _, s := range e.subs {
		if s.unrolled() {
			return true
		}
	}
	return e.op == exprRepeat && e.max > e.min && e.max > maxRE2Count/e.subs[0].product()
}

// plainWidth is the width of a pattern in which the next character always decides which instruction follows.
const plainWidth = 8

// width returns how many instructions RE2 may have to try for each character. prog is the program of the expression.
func (e *expr) width(prog *syntax.Prog) int {
	n := len(prog.Inst)
	if n <= plainWidth {
		return n
	}
	if !e.unrolled() {
		if deterministic(prog) {
			return plainWidth
		}
		return n
	}
	text, err := e.shrunk().re2()
	if err != nil {
		return n
	}
	if small, err := re2Program(text); err == nil && deterministic(small) {
		return 2 * plainWidth
	}
	return n
}

func re2Program(text string) (*syntax.Prog, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	return syntax.Compile(tree.Simplify())
}

// deterministic reports whether an anchored program always has at most one live instruction that takes a character. Most
// patterns of identifiers and dates are like that. Counted repeats make them long, so their length does not say what
// they cost.
func deterministic(prog *syntax.Prog) bool {
	if prog.StartCond()&syntax.EmptyBeginText == 0 {
		return false
	}
	seen := make([]int, len(prog.Inst))
	var live []*syntax.Inst
	var follow func(pc uint32, mark int) bool
	follow = func(pc uint32, mark int) bool {
		if seen[pc] == mark {
			return true
		}
		seen[pc] = mark
		in := &prog.Inst[pc]
		switch in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			return follow(in.Out, mark) && follow(in.Arg, mark)
		case syntax.InstCapture, syntax.InstNop, syntax.InstEmptyWidth:
			return follow(in.Out, mark)
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			for _, o := range live {
				if overlap(in, o) {
					return false
				}
			}
			live = append(live, in)
			return len(live) <= 32
		}
		return true
	}
	if !follow(uint32(prog.Start), 1) {
		return false
	}
	for i := range prog.Inst {
		switch in := &prog.Inst[i]; in.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			live = live[:0]
			if !follow(in.Out, i+2) {
				return false
			}
		}
	}
	return true
}

// overlap reports whether some character fits both instructions. It may return true even if none does.
func overlap(a, b *syntax.Inst) bool {
	ra, rb := ranges(a), ranges(b)
	if ra == nil || rb == nil {
		return true
	}
	for i := 0; i+1 < len(ra); i += 2 {
		for j := 0; j+1 < len(rb); j += 2 {
			if ra[i] <= rb[j+1] && rb[j] <= ra[i+1] {
				return true
			}
		}
	}
	return false
}

func ranges(in *syntax.Inst) []rune {
	switch {
	case in.Op == syntax.InstRuneAny || in.Op == syntax.InstRuneAnyNotNL || len(in.Rune) > 64:
		return nil
	case len(in.Rune) == 1: // the flag in Arg says whether the letter case is folded
		if syntax.Flags(in.Arg)&syntax.FoldCase != 0 {
			return nil
		}
		return []rune{in.Rune[0], in.Rune[0]}
	}
	return in.Rune
}
