package jsonschema

import (
	"slices"
	"unicode"
)

// A runeSet is a set of characters. It has the first and the last character of each of its ranges in turn. The ranges
// ascend and do not touch.
type runeSet []rune

const (
	firstSurrogate = 0xD800
	lastSurrogate  = 0xDFFF
)

var allRunes = runeSet{0, unicode.MaxRune}

// newRuneSet returns the set of the characters in some ranges, which may overlap and have any order.
func newRuneSet(ranges []rune) runeSet {
	type span struct{ low, high rune }
	spans := make([]span, 0, len(ranges)/2)
	for i := 0; i+1 < len(ranges); i += 2 {
		spans = append(spans, span{ranges[i], ranges[i+1]})
	}
	slices.SortFunc(spans, func(a, b span) int { return int(a.low - b.low) })
	var set runeSet
	for _, s := range spans {
		if n := len(set); n > 0 && s.low <= set[n-1]+1 {
			set[n-1] = max(set[n-1], s.high)
		} else {
			set = append(set, s.low, s.high)
		}
	}
	return set
}

// tableSet returns the union of tables of package unicode.
func tableSet(tables ...*unicode.RangeTable) runeSet {
	var ranges []rune
	add := func(low, high, stride rune) {
		if stride == 1 {
			ranges = append(ranges, low, high)
			return
		}
		for r := low; r <= high; r += stride {
			ranges = append(ranges, r, r)
		}
	}
	for _, t := range tables {
		for _, r := range t.R16 {
			add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
		for _, r := range t.R32 {
			add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
	}
	return newRuneSet(ranges)
}

func (s runeSet) union(o runeSet) runeSet { return newRuneSet(slices.Concat(s, o)) }

// negated returns the characters that are not in the set.
func (s runeSet) negated() runeSet {
	var out runeSet
	next := rune(0)
	for i := 0; i < len(s); i += 2 {
		if next < s[i] {
			out = append(out, next, s[i]-1)
		}
		next = s[i+1] + 1
	}
	if next <= unicode.MaxRune {
		out = append(out, next, unicode.MaxRune)
	}
	return out
}

func (s runeSet) minus(o runeSet) runeSet { return s.negated().union(o).negated() }

// inText returns the set as far as text matters. Text has no surrogates. So the set has all of them if it has both of
// their neighbours, and otherwise none. That gives the fewest ranges.
func (s runeSet) inText() runeSet {
	surrogates := runeSet{firstSurrogate, lastSurrogate}
	if s.has(firstSurrogate-1) && s.has(lastSurrogate+1) {
		return s.union(surrogates)
	}
	return s.minus(surrogates)
}

func (s runeSet) has(r rune) bool { return s.find(r) >= 0 }

// find returns the index of the range that has r, or -1.
func (s runeSet) find(r rune) int {
	low, high := 0, len(s)/2
	for low < high {
		mid := (low + high) / 2
		switch {
		case r < s[2*mid]:
			high = mid
		case r > s[2*mid+1]:
			low = mid + 1
		default:
			return 2 * mid
		}
	}
	return -1
}

// overlaps reports whether a character is in both sets.
func (s runeSet) overlaps(o runeSet) bool {
	for i, j := 0, 0; i < len(s) && j < len(o); {
		switch {
		case s[i+1] < o[j]:
			i += 2
		case o[j+1] < s[i]:
			j += 2
		default:
			return true
		}
	}
	return false
}
