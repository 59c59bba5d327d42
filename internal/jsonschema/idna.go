package jsonschema

import (
	"slices"
	"unicode"
)

// An idnaRule is the derived property of a code point in RFC 5892.
type idnaRule uint8

const (
	idnaDisallowed idnaRule = iota
	idnaValid               // PVALID
	idnaJoiner              // CONTEXTJ
	idnaContext             // CONTEXTO
)

// A bidiSet is a set of bidirectional classes of Unicode.
type bidiSet uint16

const (
	bidiL bidiSet = 1 << iota
	bidiR
	bidiAL
	bidiAN
	bidiEN
	bidiES
	bidiCS
	bidiET
	bidiON
	bidiBN
	bidiNSM
)

// A joinSet says on which sides a code point joins its neighbours. A code point that is joined through is transparent.
type joinSet uint8

const (
	joinsNot  joinSet = 0
	joinsLeft joinSet = 1 << iota // to what follows in the text
	joinsRight
	joinsThrough
	joinsBoth = joinsLeft | joinsRight
)

// An idnaClass has the properties of a code point.
type idnaClass struct {
	rule idnaRule
	bidi bidiSet
	join joinSet
	mark bool  // a combining mark
	ccc  uint8 // its canonical combining class
	tail uint8 // that of the last code point of its canonical decomposition
}

const virama = 9 // a canonical combining class

func idnaClassOf(r rune) *idnaClass {
	low, high := 0, len(idnaRanges) // idnaRanges[low] starts at or before r, idnaRanges[high] after it
	for key := uint32(r)<<8 | 0xFF; high-low > 1; {
		if mid := int(uint(low+high) / 2); idnaRanges[mid] <= key {
			low = mid
		} else {
			high = mid
		}
	}
	return &idnaClasses[idnaRanges[low]&0xFF]
}

const (
	maxLabel = 63  // octets
	maxName  = 253 // octets, with the dots between labels
)

// An idnName judges the labels of an internationalized domain name, one after the other.
type idnName struct {
	loose  bool // a U-label need not be in NFC
	length int  // of the labels in ASCII, with a dot after each
	rtl    bool // a label has characters that are written from right to left
	badRTL bool // a label breaks the rule of RFC 5893

	label [maxLabel]rune // the current label
	n     int            // its length
	wide  bool           // it has other than ASCII characters
}

// ok reports whether the labels make up a name. The rule of RFC 5893 concerns all labels of a name if it concerns one.
func (d *idnName) ok() bool { return d.length <= maxName+1 && !(d.rtl && d.badRTL) }

// add appends a code point to the current label. It reports false if that makes the label too long.
func (d *idnName) add(r rune) bool {
	if d.n == len(d.label) {
		return false
	}
	d.label[d.n] = r
	d.n++
	d.wide = d.wide || r > unicode.MaxASCII
	return true
}

// end reports whether the current label is right, and starts the next.
func (d *idnName) end() bool {
	label := d.label[:d.n]
	size := len(label)
	if size == 0 {
		return false
	}
	if d.wide {
		if !d.unicodeLabel(label, d.loose) {
			return false
		}
		if size = len("xn--") + punycodeLen(label); size > maxLabel {
			return false
		}
	} else {
		if !asciiLabel(label) {
			return false
		}
		var buf [maxLabel]rune
		if isALabel(label) {
			decoded, ok := punycode(buf[:0], label[len("xn--"):])
			if !ok || !d.unicodeLabel(decoded, false) {
				return false
			}
		} else {
			// Letters go from left to right. The rule of RFC 5893 does not let a label start with a digit.
			d.badRTL = d.badRTL || isDigit(byte(label[0]))
		}
	}
	d.length += size + 1
	d.n, d.wide = 0, false
	return d.length <= maxName+1
}

// asciiLabel reports whether label has only letters, digits, and hyphens inside. It makes the letters small.
func asciiLabel(label []rune) bool {
	for i, r := range label {
		c := byte(r)
		switch {
		case isLetter(c):
			label[i] = r | 0x20
		case !isDigit(c) && c != '-':
			return false
		}
	}
	return label[0] != '-' && label[len(label)-1] != '-'
}

func isALabel(label []rune) bool {
	return len(label) > 4 && label[0] == 'x' && label[1] == 'n' && label[2] == '-' && label[3] == '-'
}

// unicodeLabel reports whether label is a U-label of RFC 5891, section 4.2. It does not look at the length of the A-label.
func (d *idnName) unicodeLabel(label []rune, loose bool) bool {
	n := len(label)
	if n == 0 || n > maxLabel || label[0] == '-' || label[n-1] == '-' || n >= 4 && label[2] == '-' && label[3] == '-' {
		return false
	}
	var buf [maxLabel]*idnaClass
	classes := buf[:n]
	contexts := false
	for i, r := range label {
		c := idnaClassOf(r)
		if c.rule == idnaDisallowed || i == 0 && c.mark {
			return false
		}
		contexts = contexts || c.rule != idnaValid
		classes[i] = c
	}
	if contexts && !contextsAllow(label, classes) || !loose && !isNFC(label, classes) {
		return false
	}
	d.bidi(classes)
	return true
}

// bidi notes which way the characters of a U-label are written.
func (d *idnName) bidi(classes []*idnaClass) {
	var all bidiSet
	for _, c := range classes {
		all |= c.bidi
	}
	last := len(classes) - 1
	for last > 0 && classes[last].bidi == bidiNSM {
		last--
	}
	const neutral = bidiES | bidiCS | bidiET | bidiON | bidiBN | bidiNSM
	ok := false
	switch end := classes[last].bidi; classes[0].bidi {
	case bidiR, bidiAL:
		ok = all&bidiL == 0 && end&(bidiR|bidiAL|bidiEN|bidiAN) != 0 && all&(bidiEN|bidiAN) != bidiEN|bidiAN
	case bidiL:
		ok = all&^(bidiL|bidiEN|neutral) == 0 && end&(bidiL|bidiEN) != 0
	}
	d.rtl = d.rtl || all&(bidiR|bidiAL|bidiAN) != 0
	d.badRTL = d.badRTL || !ok
}

// contextsAllow reports whether the rules of RFC 5892, appendix A, allow the code points of label that have one.
func contextsAllow(label []rune, classes []*idnaClass) bool {
	is := func(i int, script *unicode.RangeTable) bool {
		return i >= 0 && i < len(label) && unicode.Is(script, label[i])
	}
	japanese := func() bool {
		return slices.ContainsFunc(label, func(r rune) bool { return unicode.In(r, unicode.Hiragana, unicode.Katakana, unicode.Han) })
	}
	var middleDot, arabic, extended bool // the label has a Katakana middle dot, Arabic-Indic digits, extended ones
	for i, c := range classes {
		if c.rule == idnaValid {
			continue
		}
		ok := true
		switch r := label[i]; r {
		case 0x200C: // zero width non-joiner
			ok = i > 0 && (classes[i-1].ccc == virama || joinedAround(classes, i))
		case 0x200D: // zero width joiner
			ok = i > 0 && classes[i-1].ccc == virama
		case 0x00B7: // middle dot
			ok = i > 0 && i+1 < len(label) && label[i-1] == 'l' && label[i+1] == 'l'
		case 0x0375: // Greek keraia
			ok = is(i+1, unicode.Greek)
		case 0x05F3, 0x05F4: // Hebrew geresh and gershayim
			ok = is(i-1, unicode.Hebrew)
		case 0x30FB: // Katakana middle dot
			middleDot = true
		default:
			arabic = arabic || r <= 0x0669
			extended = extended || r >= 0x06F0
		}
		if !ok {
			return false
		}
	}
	return !(arabic && extended) && (!middleDot || japanese())
}

// joinedAround reports whether the code points before and after i would join.
func joinedAround(classes []*idnaClass, i int) bool {
	before, after := i-1, i+1
	for before >= 0 && classes[before].join == joinsThrough {
		before--
	}
	for after < len(classes) && classes[after].join == joinsThrough {
		after++
	}
	return before >= 0 && after < len(classes) && classes[before].join&joinsLeft != 0 && classes[after].join&joinsRight != 0
}

// isNFC reports whether label is in Unicode's normalization form C. No allowed code point is wrong by itself. So a label is
// wrong only if marks are out of order, or if a code point would be composed with the one that starts its sequence.
func isNFC(label []rune, classes []*idnaClass) bool {
	start, last := -1, uint8(0) // the start of the sequence, and the combining class before the code point
	for i, c := range classes {
		if c.ccc != 0 && last > c.ccc {
			return false
		}
		// A code point between them that has the same class, or none, keeps them apart.
		if start >= 0 && (start == i-1 || c.ccc != 0 && last != c.ccc) && composes(label[start], label[i], c.ccc) {
			return false
		}
		if c.ccc == 0 {
			start = i
		}
		last = c.ccc
	}
	return true
}

// composes reports whether mark, of the given class, is composed with start. If start ends in a mark of a higher class, then
// mark goes before that one.
func composes(start, mark rune, ccc uint8) bool {
	for ccc != 0 && idnaClassOf(start).tail > ccc {
		i, _ := slices.BinarySearch(idnaFirsts[:], uint64(start)<<21)
		if i == len(idnaFirsts) || rune(idnaFirsts[i]>>21) != start {
			return false
		}
		start = rune(idnaFirsts[i] & (1<<21 - 1))
	}
	_, found := slices.BinarySearch(idnaPairs[:], uint64(start)<<21|uint64(mark))
	return found
}

// The parameters of Punycode, RFC 3492, section 5.
const (
	punyBase  = 36
	punyMin   = 1
	punyMax   = 26
	punySkew  = 38
	punyDamp  = 700
	punyBias  = 72
	punyFirst = 128
)

// punyAdapt returns the bias after a delta, section 6.1.
func punyAdapt(delta int64, points int, first bool) int64 {
	if first {
		delta /= punyDamp
	} else {
		delta /= 2
	}
	delta += delta / int64(points)
	k := int64(0)
	for delta > (punyBase-punyMin)*punyMax/2 {
		delta /= punyBase - punyMin
		k += punyBase
	}
	return k + (punyBase-punyMin+1)*delta/(delta+punySkew)
}

// punycode appends to dst what s encodes. s is in small letters. An encoding that punycode accepts is the only one of the
// result.
func punycode(dst, s []rune) ([]rune, bool) {
	at := 0
	for i, r := range s {
		if r == '-' {
			at = i + 1
		}
	}
	if at == 1 || at == len(s) {
		return nil, false // a delimiter that delimits nothing
	}
	if at > 0 {
		dst = append(dst, s[:at-1]...)
	}
	n, i, bias := int64(punyFirst), int64(0), int64(punyBias)
	for at < len(s) {
		before := i
		for w, k := int64(1), int64(punyBase); ; k += punyBase {
			if at == len(s) {
				return nil, false
			}
			digit := int64(s[at] - 'a')
			if s[at] <= '9' {
				digit = int64(s[at]-'0') + 26
			}
			at++
			if i += digit * w; i > unicode.MaxRune*(maxLabel+1) {
				return nil, false
			}
			t := min(max(k-bias, punyMin), punyMax)
			if digit < t {
				break
			}
			w *= punyBase - t
		}
		points := len(dst) + 1
		bias = punyAdapt(i-before, points, before == 0)
		n += i / int64(points)
		i %= int64(points)
		if n > unicode.MaxRune {
			return nil, false
		}
		dst = slices.Insert(dst, int(i), rune(n))
		i++
	}
	return dst, true
}

// punycodeLen returns the length of the encoding of label. Above maxLabel it stops counting.
func punycodeLen(label []rune) int {
	done, next := 0, int64(unicode.MaxRune)
	for _, r := range label {
		if r < punyFirst {
			done++
		} else {
			next = min(next, int64(r))
		}
	}
	size := done
	if done > 0 {
		size++
	}
	n, delta, bias := int64(punyFirst), int64(0), int64(punyBias)
	for first := true; done < len(label) && size <= maxLabel; n++ {
		delta += (next - n) * int64(done+1)
		n, next = next, unicode.MaxRune
		for _, r := range label {
			switch c := int64(r); {
			case c < n:
				delta++
			case c > n:
				next = min(next, c)
			default:
				size += punyDigits(delta, bias)
				done++
				bias, first = punyAdapt(delta, done, first), false
				delta = 0
			}
		}
		delta++
	}
	return size
}

// punyDigits returns how many digits encode a delta.
func punyDigits(delta, bias int64) int {
	for k, n := int64(punyBase), 1; ; k, n = k+punyBase, n+1 {
		t := min(max(k-bias, punyMin), punyMax)
		if delta < t {
			return n
		}
		delta = (delta - t) / (punyBase - t)
	}
}
