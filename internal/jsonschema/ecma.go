package jsonschema

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An expr is a parsed regular expression of ECMA-262. It says which texts match and nothing about what a group captures.
// So groups are gone, and a lazy repeat is like a greedy one.
type expr struct {
	op       exprOp
	set      runeSet // of exprSet
	subs     []*expr // of exprConcat, exprEither and exprRepeat, which has one
	min, max int     // of exprRepeat; max -1: without a limit
}

type exprOp uint8

const (
	exprSet    exprOp = iota // one character of a set
	exprConcat               // all of subs, in their order; none is the empty text
	exprEither               // one of subs
	exprRepeat               // subs[0] from min to max times
	exprBegin                // the begin of the text
	exprEnd                  // the end of the text
	exprEdge                 // a word begins or ends here
	exprNoEdge               // no word begins or ends here
)

// A patternError says why a pattern is refused.
type patternError struct {
	offset    int    // in bytes
	construct string // the part of the pattern that begins there
	reason    string
}

func (e *patternError) Error() string {
	return fmt.Sprintf("the pattern has no meaning in ECMA-262 that RE2 can match: %q at byte %d: %s", bound(e.construct), e.offset, e.reason)
}

const (
	// maxNesting is how deeply groups may nest. RE2 refuses trees of a height of 1,000, and a group adds up to four to it.
	maxNesting = 200
	// maxRepeat is where counts saturate. No text has as many characters.
	maxRepeat = 1<<30 + 1
)

const (
	reasonLook      = "RE2 has no lookaround, because it takes linear time"
	reasonBackref   = "RE2 has no backreferences, because it takes linear time"
	reasonOctal     = `ECMA-262 has no octal escapes in Unicode patterns; write \xHH`
	reasonNoRepeat  = "there is nothing to repeat; ECMA-262 has neither repeated repeats nor possessive ones"
	reasonLetter    = "ECMA-262 has no such escape; RE2 may read it in a way of its own"
	reasonUnclosed  = "the group has no end"
	reasonOpenClass = "the class has no end"
)

// An ecmaParser reads a pattern as ECMA-262 does with the flag u. If that is an error, it reads what annex B of ECMA-262
// allows without the flag, unless another dialect or another engine gives the same text a different meaning.
type ecmaParser struct {
	s     string
	i     int
	depth int
	names map[string]bool // of the groups
	// ambiguous is the offset of [] or [^] that another dialect would read as the begin of a class, or -1.
	ambiguous int
}

// parseECMA returns an error that is a *patternError.
func parseECMA(pattern string) (e *expr, err error) { return (&ecmaParser{s: pattern}).parse() }

func (p *ecmaParser) parse() (e *expr, err error) {
	p.ambiguous = -1
	defer func() {
		if r := recover(); r != nil {
			fault, ok := r.(*patternError)
			if !ok {
				panic(r)
			}
			err = fault
		}
	}()
	if at := invalidAt(p.s); at >= 0 {
		p.fail(at, at+1, "this is not UTF-8")
	}
	e = p.either()
	if p.i < len(p.s) {
		p.fail(p.i, p.i+1, "no group begins before")
	}
	return e, nil
}

func invalidAt(s string) int {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return i
		}
	}
	return -1
}

// fail ends parse with an error about the part of the pattern between two offsets.
func (p *ecmaParser) fail(from, to int, reason string) {
	to = min(to, len(p.s))
	for to < len(p.s) && !utf8.RuneStart(p.s[to]) {
		to++
	}
	panic(&patternError{from, p.s[from:to], reason})
}

func (p *ecmaParser) has(prefix string) bool { return strings.HasPrefix(p.s[p.i:], prefix) }

// next reads one character.
func (p *ecmaParser) next() rune {
	r, size := utf8.DecodeRuneInString(p.s[p.i:])
	p.i += size
	return r
}

// either reads alternatives up to a closing parenthesis or the end.
func (p *ecmaParser) either() *expr {
	var subs []*expr
	for {
		subs = append(subs, p.concat())
		if !p.has("|") {
			return either(subs)
		}
		p.i++
	}
}

// either returns one class if each alternative is one character.
func either(subs []*expr) *expr {
	if len(subs) == 1 {
		return subs[0]
	}
	var ranges []rune
	for _, e := range subs {
		if e.op != exprSet {
			return &expr{op: exprEither, subs: subs}
		}
		ranges = append(ranges, e.set...)
	}
	return &expr{op: exprSet, set: newRuneSet(ranges).inText()}
}

func (p *ecmaParser) concat() *expr {
	var subs []*expr
	for p.i < len(p.s) && p.s[p.i] != '|' && p.s[p.i] != ')' {
		e := p.repeated()
		if e.op == exprConcat {
			subs = append(subs, e.subs...)
		} else {
			subs = append(subs, e)
		}
	}
	return concat(subs)
}

func concat(subs []*expr) *expr {
	if len(subs) == 1 {
		return subs[0]
	}
	return &expr{op: exprConcat, subs: subs}
}

// repeated reads one term and its quantifier.
func (p *ecmaParser) repeated() *expr {
	e, assertion := p.term()
	from := p.i
	low, high, ok := p.quantifier()
	if !ok {
		return e
	}
	if assertion {
		p.fail(from, p.i, "ECMA-262 repeats no assertion")
	}
	if p.has("?") {
		p.i++
	}
	return repeat(e, low, high)
}

// repeat returns a repeat of e. A repeat of a repeat becomes one if it allows each count between its least and its most.
func repeat(e *expr, low, high int) *expr {
	if high != 0 && e != nil && e.op == exprRepeat && (e.min <= 1 || e.min == e.max && low == high) {
		times := func(a, b int) int {
			if a < 0 || b < 0 {
				return -1
			}
			return int(min(int64(a)*int64(b), maxRepeat))
		}
		low, high, e = times(e.min, low), times(e.max, high), e.subs[0]
	}
	switch {
	case high == 0:
		return &expr{op: exprConcat}
	case low == 1 && high == 1:
		return e
	}
	return &expr{op: exprRepeat, subs: []*expr{e}, min: low, max: high}
}

// quantifier reads a quantifier, if one stands here.
func (p *ecmaParser) quantifier() (low, high int, ok bool) {
	if p.i == len(p.s) {
		return 0, 0, false
	}
	switch p.s[p.i] {
	case '*':
		low, high = 0, -1
	case '+':
		low, high = 1, -1
	case '?':
		low, high = 0, 1
	case '{':
		return p.braces()
	default:
		return 0, 0, false
	}
	p.i++
	return low, high, true
}

// braces reads {n}, {n,} or {n,m}. Annex B takes a brace that begins none of them for itself.
func (p *ecmaParser) braces() (low, high int, ok bool) {
	from, i := p.i, p.i+1
	number := func() (n int, ok bool) {
		for ; i < len(p.s) && '0' <= p.s[i] && p.s[i] <= '9'; i++ {
			n, ok = min(10*n+int(p.s[i]-'0'), maxRepeat), true
		}
		return n, ok
	}
	if low, ok = number(); !ok {
		return 0, 0, false
	}
	high = low
	if i < len(p.s) && p.s[i] == ',' {
		i++
		if high, ok = number(); !ok {
			high = -1
		}
	}
	if i == len(p.s) || p.s[i] != '}' {
		return 0, 0, false
	}
	if p.i = i + 1; high >= 0 && high < low {
		p.fail(from, p.i, "the counts of the repeat are out of order")
	}
	if high == maxRepeat {
		high = -1
	}
	return low, high, true
}

// term reads what a quantifier may follow, and reports whether it is an assertion, which none may follow.
func (p *ecmaParser) term() (e *expr, assertion bool) {
	from := p.i
	switch r := p.next(); r {
	case '^':
		return &expr{op: exprBegin}, true
	case '$':
		return &expr{op: exprEnd}, true
	case '(':
		return p.group(from), false
	case '[':
		return p.class(from), false
	case '.':
		return p.one(anyButLineEnds), false
	case '\\':
		return p.escape(from)
	case '*', '+', '?':
		p.fail(from, p.i, reasonNoRepeat)
	case '{':
		p.i = from
		if _, _, ok := p.braces(); ok {
			p.fail(from, p.i, reasonNoRepeat)
		}
		p.i = from + 1
		return p.literal('{'), false
	case ']':
		if p.ambiguous >= 0 {
			p.fail(p.ambiguous, p.i, `ECMA-262 ends the class at the first ], other dialects at the second; write \] for the character`)
		}
		return p.literal(']'), false
	default:
		return p.literal(r), false
	}
	return nil, false
}

func (p *ecmaParser) one(set runeSet) *expr {
	return &expr{op: exprSet, set: set.inText()}
}

func (p *ecmaParser) literal(r rune) *expr {
	return p.one(runeSet{r, r})
}

// group reads a group. Its parenthesis, at from, has been read.
func (p *ecmaParser) group(from int) *expr {
	if p.depth++; p.depth > maxNesting {
		p.fail(from, p.i, fmt.Sprintf("groups nest deeper than %d, and RE2 has a limit as well", maxNesting))
	}
	switch {
	case !p.has("?"):
	case p.has("?:"):
		p.i += 2
	case p.has("?=") || p.has("?!"):
		p.fail(from, p.i+2, reasonLook)
	case p.has("?<=") || p.has("?<!"):
		p.fail(from, p.i+3, reasonLook)
	case p.has("?<"):
		p.i += 2
		p.groupName(from)
	case p.has("?P"):
		p.fail(from, p.i+3, "this is syntax of RE2; ECMA-262 names a group as in (?<name>x)")
	default:
		p.fail(from, p.i+2, "ECMA-262 has no such group; it has neither flags that RE2 has here, nor atomic groups, nor comments")
	}
	e := p.either()
	if !p.has(")") {
		p.fail(from, from+1, reasonUnclosed)
	}
	p.i++
	p.depth--
	return e
}

func (p *ecmaParser) groupName(from int) {
	var name []rune
	for {
		if p.i == len(p.s) {
			p.fail(from, p.i, "the name of the group has no end")
		}
		at := p.i
		r := p.next()
		if r == '>' && len(name) > 0 {
			break
		}
		if r == '\\' {
			if !p.has("u") {
				p.fail(at, p.i, "the name of a group is an identifier")
			}
			p.i++
			r = p.unicodeEscape(at)
		}
		start := r == '$' || r == '_' || unicode.In(r, unicode.L, unicode.Nl, unicode.Other_ID_Start)
		part := unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc, unicode.Other_ID_Continue) || r == 0x200C || r == 0x200D
		if unicode.In(r, unicode.Pattern_Syntax, unicode.Pattern_White_Space) && r != '$' || !start && !(part && len(name) > 0) {
			p.fail(at, p.i, "the name of a group is an identifier")
		}
		name = append(name, r)
	}
	if p.names[string(name)] {
		p.fail(from, p.i, "two groups have this name")
	}
	if p.names == nil {
		p.names = map[string]bool{}
	}
	p.names[string(name)] = true
}

// escape reads an escape outside of a class. Its backslash, at from, has been read.
func (p *ecmaParser) escape(from int) (e *expr, assertion bool) {
	if p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == 'b':
			p.i++
			return &expr{op: exprEdge}, true
		case c == 'B':
			p.i++
			return &expr{op: exprNoEdge}, true
		case '1' <= c && c <= '9':
			for p.i < len(p.s) && '0' <= p.s[p.i] && p.s[p.i] <= '9' {
				p.i++
			}
			p.fail(from, p.i, reasonBackref)
		case c == 'k':
			p.i++
			end := strings.IndexByte(p.s[p.i:], '>')
			if !p.has("<") || end < 0 {
				p.fail(from, p.i, reasonLetter)
			}
			p.i += end + 1
			p.fail(from, p.i, reasonBackref)
		}
	}
	r, set, isSet := p.character(from)
	if isSet {
		return p.one(set), false
	}
	return p.literal(r), false
}
