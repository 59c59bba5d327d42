// Idnatest writes the tables of the formats idn-hostname and idn-email of internal/jsonschema to standard output. Its tests
// compare these formats with golang.org/x/net/idna. It is a module of its own, because the core may not depend on
// golang.org/x/net and golang.org/x/text.
//
//	go run . >../jsonschema/idna_table.go
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
	"slices"
	"unicode"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/bidi"
	"golang.org/x/text/unicode/norm"
)

func main() {
	src, err := generate()
	if err == nil {
		_, err = os.Stdout.Write(src)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A class is what the formats must know of a code point.
type class struct {
	rule, bidi, join string
	mark             bool
	ccc, tail        uint8
}

func (c class) String() string {
	if c.rule == disallowed {
		return "{}"
	}
	return fmt.Sprintf("{%s, %s, %s, %t, %d, %d}", c.rule, c.bidi, c.join, c.mark, c.ccc, c.tail)
}

const (
	disallowed = "idnaDisallowed"
	valid      = "idnaValid"
	joiner     = "idnaJoiner"
	context    = "idnaContext"
)

// exceptions is RFC 5892, section 2.6.
var exceptions = map[rune]string{
	0x00DF: valid, 0x03C2: valid, 0x06FD: valid, 0x06FE: valid, 0x0F0B: valid, 0x3007: valid,
	0x00B7: context, 0x0375: context, 0x05F3: context, 0x05F4: context, 0x30FB: context,
	0x0640: disallowed, 0x07FA: disallowed, 0x302E: disallowed, 0x302F: disallowed, 0x3031: disallowed, 0x3032: disallowed,
	0x3033: disallowed, 0x3034: disallowed, 0x3035: disallowed, 0x303B: disallowed,
}

var letterDigits = []*unicode.RangeTable{unicode.Ll, unicode.Lu, unicode.Lo, unicode.Nd, unicode.Lm, unicode.Mn, unicode.Mc}

// oldJamo has the conjoining jamo.
var oldJamo = &unicode.RangeTable{R16: []unicode.Range16{{Lo: 0x1100, Hi: 0x11FF, Stride: 1}, {Lo: 0xA960, Hi: 0xA97C, Stride: 1}, {Lo: 0xD7B0, Hi: 0xD7FB, Stride: 1}}}

// ignorable has the properties and blocks that RFC 5892 excludes, as far as they have letters, digits or marks.
var ignorable = []*unicode.RangeTable{unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector, unicode.White_Space,
	unicode.Noncharacter_Code_Point, {R16: []unicode.Range16{{Lo: 0x20D0, Hi: 0x20FF, Stride: 1}}},
	{R32: []unicode.Range32{{Lo: 0x1D100, Hi: 0x1D1FF, Stride: 1}, {Lo: 0x1D200, Hi: 0x1D24F, Stride: 1}}}}

// rule derives the property of RFC 5892, section 3.
func rule(r rune) string {
	if p, ok := exceptions[r]; ok {
		return p
	}
	switch {
	case r >= 0x0660 && r <= 0x0669 || r >= 0x06F0 && r <= 0x06F9:
		return context
	case r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
		return valid
	case unicode.Is(unicode.Join_Control, r):
		return joiner
	case unicode.Is(oldJamo, r), unstable(r), unicode.In(r, ignorable...), !unicode.In(r, letterDigits...):
		return disallowed
	}
	return valid
}

func unstable(r rune) bool {
	if r >= 0x13A0 && r <= 0x13F5 {
		return false // a Cherokee capital folds to itself, which package cases gets wrong
	}
	s := string(r)
	return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s))) != s
}

var bidiNames = map[bidi.Class]string{bidi.L: "bidiL", bidi.R: "bidiR", bidi.AL: "bidiAL", bidi.AN: "bidiAN", bidi.EN: "bidiEN", bidi.ES: "bidiES",
	bidi.CS: "bidiCS", bidi.ET: "bidiET", bidi.ON: "bidiON", bidi.BN: "bidiBN", bidi.NSM: "bidiNSM"}

// rightJoining has the code points of the joining type R in the Unicode Character Database, DerivedJoiningType.txt.
var rightJoining = [][2]rune{
	{0x622, 0x625}, {0x627, 0x627}, {0x629, 0x629}, {0x62F, 0x632}, {0x648, 0x648}, {0x671, 0x673}, {0x675, 0x677},
	{0x688, 0x699}, {0x6C0, 0x6C0}, {0x6C3, 0x6CB}, {0x6CD, 0x6CD}, {0x6CF, 0x6CF}, {0x6D2, 0x6D3}, {0x6D5, 0x6D5},
	{0x6EE, 0x6EF}, {0x710, 0x710}, {0x715, 0x719}, {0x71E, 0x71E}, {0x728, 0x728}, {0x72A, 0x72A}, {0x72C, 0x72C},
	{0x72F, 0x72F}, {0x74D, 0x74D}, {0x759, 0x75B}, {0x76B, 0x76C}, {0x771, 0x771}, {0x773, 0x774}, {0x778, 0x779},
	{0x840, 0x840}, {0x846, 0x847}, {0x849, 0x849}, {0x854, 0x854}, {0x856, 0x858}, {0x867, 0x867}, {0x869, 0x86A},
	{0x870, 0x882}, {0x88E, 0x88E}, {0x8AA, 0x8AC}, {0x8AE, 0x8AE}, {0x8B1, 0x8B2}, {0x8B9, 0x8B9}, {0x10AC5, 0x10AC5},
	{0x10AC7, 0x10AC7}, {0x10AC9, 0x10ACA}, {0x10ACE, 0x10AD2}, {0x10ADD, 0x10ADD}, {0x10AE1, 0x10AE1}, {0x10AE4,
		0x10AE4}, {0x10AEF, 0x10AEF}, {0x10B81, 0x10B81}, {0x10B83, 0x10B85}, {0x10B89, 0x10B89}, {0x10B8C, 0x10B8C},
	{0x10B8E, 0x10B8F}, {0x10B91, 0x10B91}, {0x10BA9, 0x10BAC}, {0x10D22, 0x10D22}, {0x10F33, 0x10F33}, {0x10F54,
		0x10F54}, {0x10F74, 0x10F75}, {0x10FB4, 0x10FB6}, {0x10FB9, 0x10FBA}, {0x10FBD, 0x10FBD}, {0x10FC2, 0x10FC3},
	{0x10FC9, 0x10FC9},
}

// leftJoining has those of the type L.
var leftJoining = []rune{0xA872, 0x10ACD, 0x10AD7, 0x10D00, 0x10FCB}

var joiners = idna.New(idna.CheckJoiners(true))

// joinsLeft reports whether r has the joining type L or D: package idna allows a zero width non-joiner after it.
func joinsLeft(r rune) bool {
	_, err := joiners.ToUnicode("a" + string(r) + "\u200C\u0628")
	return err == nil && norm.NFC.PropertiesString(string(r)).CCC() != 9
}

// join returns the joining type of r.
func join(r rune) string {
	switch {
	case unicode.Is(unicode.Mn, r), r == 0x1E94B:
		return "joinsThrough"
	case slices.Contains(leftJoining, r):
		return "joinsLeft"
	case joinsLeft(r):
		return "joinsBoth"
	case slices.ContainsFunc(rightJoining, func(s [2]rune) bool { return s[0] <= r && r <= s[1] }):
		return "joinsRight"
	}
	return "joinsNot"
}

func classOf(r rune) (class, error) {
	c := class{rule: rule(r)}
	if c.rule == disallowed {
		return c, nil
	}
	p, _ := bidi.LookupRune(r)
	n := norm.NFC.PropertiesString(string(r))
	var ok bool
	if c.bidi, ok = bidiNames[p.Class()]; !ok {
		return c, fmt.Errorf("%U has the bidi class %d", r, p.Class())
	}
	c.join, c.mark, c.ccc, c.tail = join(r), unicode.Is(unicode.M, r), n.CCC(), n.TrailCCC()
	return c, nil
}

// pairs returns the pairs of allowed code points that NFC composes, as first<<21 | second. It also returns the compositions
// that are allowed, as composition<<21 | first.
func pairs() (list, firsts []uint64) {
	for r := rune(0x80); r <= unicode.MaxRune; r++ {
		if d := []rune(norm.NFD.String(string(r))); len(d) > 1 && norm.NFC.String(string(d)) == string(r) {
			last := len(d) - 1
			first := []rune(norm.NFC.String(string(d[:last])))
			if len(first) == 1 && rule(first[0]) != disallowed && rule(d[last]) != disallowed {
				list = append(list, uint64(first[0])<<21|uint64(d[last]))
				if rule(r) != disallowed {
					firsts = append(firsts, uint64(r)<<21|uint64(first[0]))
				}
			}
		}
	}
	slices.Sort(list)
	return list, firsts
}

func generate() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Code generated by internal/idnatest from Unicode %s. DO NOT EDIT.\n\npackage jsonschema\n\n", norm.Version)
	var classes []class
	var ranges []uint32
	last := -1
	for r := rune(0); r <= unicode.MaxRune; r++ {
		c, err := classOf(r)
		if err != nil {
			return nil, err
		}
		i := slices.Index(classes, c)
		if i < 0 {
			i = len(classes)
			classes = append(classes, c)
		}
		if i != last {
			ranges = append(ranges, uint32(r)<<8|uint32(i))
			last = i
		}
	}
	if len(classes) > 256 {
		return nil, fmt.Errorf("%d classes", len(classes))
	}
	fmt.Fprintf(&b, "var idnaClasses = [...]idnaClass{\n")
	for _, c := range classes {
		fmt.Fprintf(&b, "\t%s,\n", c)
	}
	fmt.Fprintf(&b, "}\n\n// idnaRanges has the first code point of each range, and its class in the low 8 bits.\nvar idnaRanges = [...]uint32{")
	list(&b, ranges)
	fmt.Fprintf(&b, "}\n\n// idnaPairs has the pairs that NFC composes, as first<<21 | second.\nvar idnaPairs = [...]uint64{")
	composed, firsts := pairs()
	list(&b, composed)
	fmt.Fprintf(&b, "}\n\n// idnaFirsts has the compositions, as composition<<21 | first.\nvar idnaFirsts = [...]uint64{")
	list(&b, firsts)
	fmt.Fprintf(&b, "}\n")
	return format.Source(b.Bytes())
}

func list[T uint32 | uint64](b *bytes.Buffer, values []T) {
	for i, v := range values {
		if i%10 == 0 {
			b.WriteString("\n\t")
		} else {
			b.WriteByte(' ')
		}
		fmt.Fprintf(b, "%#x,", v)
	}
	b.WriteByte('\n')
}
