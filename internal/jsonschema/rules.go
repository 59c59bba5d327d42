package jsonschema

import "math/bits"

// A stringRule has the rules of a schema for strings.
type stringRule struct {
	only    *literal // the only string that passes, if there is no other rule; nil otherwise
	vals    []valueRule
	min     int
	max     int // -1: none
	minErr  *Error
	maxErr  *Error
	lengths bool       // there is no other rule than min and max
	checks  []textRule // the patterns, formats and contents
	differs bool       // some of checks look at the text after unescaping
}

// A textRule is a pattern, a format or a content.
type textRule struct {
	pattern *pattern
	format  *format
	content func([]byte) bool
	err     *Error
}

// text judges the string at i.
func (v *vm) text(r *stringRule, i int) int {
	if r.only != nil && r.only.at(v.msg, i+1) {
		return i + 1 + len(r.only.text)
	}
	// This is str for strings of printable ASCII.
	msg := v.msg
	end, flags := 0, uint8(0)
	for j := i + 1; j+8 <= len(msg); j += 8 {
		if m := special(load(msg, j)); m != 0 {
			if j += bits.TrailingZeros64(m) >> 3; msg[j] == '"' && !v.controls {
				end = j + 1
			}
			break
		}
	}
	if end == 0 {
		if end, flags = v.str(i); end < 0 {
			return end
		}
	}
	if raw := end - i - 2; r.lengths && flags == 0 && raw >= r.min && raw <= r.max {
		return end
	}
	text := msg[i+1 : end-1]
	if r.differs && flags&escaped != 0 {
		s := v.scratch()
		s.text = unescape(s.text[:0], text)
		text = s.text
	}
	for k := range r.vals {
		if set := r.vals[k].strings; set == nil || set.find(text) < 0 {
			return v.fail(r.vals[k].err, i)
		}
	}
	if raw := end - i - 2; raw < r.min || raw > r.max || r.min > 0 && flags != 0 {
		if n := codePoints(v.msg[i+1:end-1], flags); n < r.min {
			return v.failed(r.minErr, i, end)
		} else if n > r.max && r.max >= 0 {
			return v.failed(r.maxErr, i, end)
		}
	}
	for k := range r.checks {
		c := &r.checks[k]
		var ok bool
		spent := 2 + len(text)/8
		switch {
		case c.pattern != nil:
			ok, spent = c.pattern.match(text, v.fuel)
		case c.format != nil:
			if spent = c.format.price(len(text)); v.fuel >= spent {
				ok = c.format.ok(text)
			}
		case v.fuel >= spent:
			ok = c.content(text)
		}
		if !v.charge(spent) {
			return v.empty()
		}
		if !ok {
			return v.failed(c.err, i, end)
		}
	}
	return end
}

// A valueRule is an enum or a const.
type valueRule struct {
	kinds   uint8
	err     *Error
	strings *nameSet
	numbers map[number]bool // the small numbers in their shortest form
	few     []number        // the same numbers, if there are few; nil otherwise
	long    []decimal       // the numbers of more than 18 digits
	set     *valueSet       // all values, for arrays and objects
}

// A numberRule has the rules of a schema for numbers.
type numberRule struct {
	integer   *Error
	vals      []valueRule
	bounds    []boundRule
	low, high int64 // if ranged: the whole numbers from low to high pass the bounds, and low <= high
	ranged    bool  // otherwise each bound is compared
	whole     bool  // ranged, and there is no other rule for whole numbers
	multiples []boundRule
}

type boundRule struct {
	number
	exact decimal
	fails [3]bool // when the message's number is less, equal, greater
	err   *Error
}

var pow10 = func() (t [20]uint64) {
	for i, p := 0, uint64(1); i < len(t); i, p = i+1, p*10 {
		t[i] = p
	}
	return t
}()

// shortest removes the zeros at the end of the mantissa.
func (n number) shortest() number {
	if n.mant == 0 {
		return number{small: true}
	}
	for n.mant%10 == 0 {
		n.mant /= 10
		n.exp++
	}
	return n
}

// numberOf returns a decimal as a number, if it is small.
func numberOf(d *decimal) number {
	n := number{exp: int32(d.exp), neg: d.neg, small: len(d.dig) <= 18}
	if n.small {
		for _, c := range d.dig {
			n.mant = n.mant*10 + uint64(c-'0')
		}
	}
	return n
}

// cmp compares two small numbers.
func (a *number) cmp(b *number) int {
	sign := 1
	switch {
	case a.neg != b.neg:
		if a.neg {
			return -1
		}
		return 1
	case a.neg:
		sign = -1
	}
	return sign * cmpMagnitude(a.mant, b.mant, int(a.exp)-int(b.exp))
}

// cmpMagnitude compares a × 10^shift with b, both below 10^18.
func cmpMagnitude(a, b uint64, shift int) int {
	switch {
	case shift < 0:
		return -cmpMagnitude(b, a, -shift)
	case shift > 18 && a != 0:
		return 1
	case shift > 0 && a != 0:
		hi, lo := bits.Mul64(a, pow10[shift])
		if hi != 0 {
			return 1
		}
		a = lo
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// multipleOf reports whether a is a multiple of b, which are both small. If known is false, only exact arithmetic can tell.
func (a *number) multipleOf(b *number) (yes, known bool) {
	if a.mant == 0 {
		return true, true
	}
	shift := int(a.exp) - int(b.exp)
	switch {
	case shift > 18 || shift < -18:
		return false, false
	case shift >= 0:
		hi, lo := bits.Mul64(a.mant, pow10[shift])
		_, rem := bits.Div64(hi%b.mant, lo, b.mant)
		return rem == 0, true
	}
	hi, lo := bits.Mul64(b.mant, pow10[-shift])
	return hi == 0 && a.mant%lo == 0, true
}

// number judges the number msg[i:end].
func (v *vm) number(r *numberRule, n number, i, end int) int {
	if r.integer != nil && n.exp < 0 && !v.isInteger(&n, i, end) {
		return v.fail(r.integer, i)
	}
	if r.vals != nil {
		key := n
		var d decimal
		var buf [64]byte
		if !key.small {
			d = parseDecimal(buf[:], v.msg[i:end])
			key = numberOf(&d)
		}
		if key.small {
			key = key.shortest()
		}
		for k := range r.vals {
			if !v.oneOfNumbers(&r.vals[k], key, &d) {
				return v.fail(r.vals[k].err, i)
			}
			if v.fuel < 0 {
				return v.empty()
			}
		}
	}
	// Most numbers have a few digits before the point and a few after it, and need no exact arithmetic.
	if r.ranged && n.small && n.exp <= 0 && n.exp >= -6 {
		a, p := int64(n.mant), int64(pow10[-n.exp])
		if n.neg {
			a = -a
		}
		if a > r.low*p && a < r.high*p || p == 1 && (a == r.low || a == r.high) {
			return v.multiples(r, &n, i, end)
		}
	}
	for k := range r.bounds {
		b := &r.bounds[k]
		var c int
		if n.small && b.small {
			c = n.cmp(&b.number)
		} else {
			var buf [64]byte
			d := parseDecimal(buf[:], v.msg[i:end])
			c = d.cmp(b.exact)
		}
		if b.fails[c+1] {
			return v.fail(b.err, i)
		}
	}
	return v.multiples(r, &n, i, end)
}

func (v *vm) multiples(r *numberRule, n *number, i, end int) int {
	for k := range r.multiples {
		b := &r.multiples[k]
		ok, known := false, false
		if n.small && b.small {
			ok, known = n.multipleOf(&b.number)
		}
		if !known {
			if !v.charge(2 + len(b.exact.dig)*(end-i)/64) {
				return v.empty()
			}
			var buf [64]byte
			d := parseDecimal(buf[:], v.msg[i:end])
			ok = d.multipleOf(b.exact)
		}
		if !ok {
			return v.fail(b.err, i)
		}
	}
	return end
}

func (v *vm) isInteger(n *number, i, end int) bool {
	if !n.small {
		var buf [64]byte
		d := parseDecimal(buf[:], v.msg[i:end])
		return d.isInt()
	}
	return n.mant == 0 || n.exp >= -18 && n.mant%pow10[-n.exp] == 0
}

func (v *vm) oneOfNumbers(r *valueRule, key number, d *decimal) bool {
	if !key.small {
		v.charge(len(r.long))
		for k := range r.long {
			if r.long[k].cmp(*d) == 0 {
				return true
			}
		}
		return false
	}
	for _, n := range r.few {
		if n == key {
			return true
		}
	}
	return r.numbers[key]
}
