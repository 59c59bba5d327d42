package wsguard

import (
	"slices"
	"strings"
)

// prefix is a key of Table.Prefixes with its rule.
type prefix struct {
	text  string
	rule  *rule
	outer int // the index of the longest other prefix that text begins with; -1: there is none
}

// addPrefix adds a prefix with its rule. linkPrefixes must follow before prefixed is called.
func (t *table) addPrefix(text string, r *rule) {
	t.prefixes = append(t.prefixes, prefix{text: text, rule: r})
}

// linkPrefixes sorts the prefixes and finds for each the longest other one that it begins with.
func (t *table) linkPrefixes() {
	slices.SortFunc(t.prefixes, func(a, b prefix) int { return strings.Compare(a.text, b.text) })
	for i := range t.prefixes {
		p := &t.prefixes[i]
		for p.outer = i - 1; p.outer >= 0 && !strings.HasPrefix(p.text, t.prefixes[p.outer].text); {
			p.outer = t.prefixes[p.outer].outer
		}
	}
}

// prefixed returns the rule of the longest prefix that kind begins with, or nil.
//
// That prefix, and everything that sorts between it and kind, begin alike. So the last prefix
// that does not sort after kind is the one, or begins with it. One comparison of the two says how
// long the common part is. What it costs depends little on how many prefixes there are.
func (t *table) prefixed(kind []byte) *rule {
	low, high := 0, len(t.prefixes)
	for low < high {
		if mid := (low + high) / 2; t.prefixes[mid].text <= string(kind) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return nil
	}
	p := &t.prefixes[low-1]
	common := 0
	for common < len(p.text) && common < len(kind) && p.text[common] == kind[common] {
		common++
	}
	for len(p.text) > common {
		if p.outer < 0 {
			return nil
		}
		p = &t.prefixes[p.outer]
	}
	return p.rule
}
