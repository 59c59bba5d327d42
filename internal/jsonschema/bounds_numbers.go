package jsonschema

import (
	"math/big"
	"strings"
)

// An end is one end of a range of numbers.
type end struct {
	limit
	at   *decimal // nil: the range has no such end
	open bool     // the number itself is outside of the range
}

// tighten moves the end to another bound, if that is further on the side that sign names.
func (e *end) tighten(n *node, keyword string, at *decimal, open bool, sign int) {
	if at == nil {
		return
	}
	if e.at != nil {
		if by := at.cmp(*e.at) * sign; by < 0 || by == 0 && (e.open || !open) {
			return
		}
	}
	*e = end{limit{n, keyword, at.String()}, at, open}
}

// numbers compares the tightest bounds of a place, and looks for a multiple of each multipleOf between them.
func (c *bounds) numbers(p place, integer bool) {
	var low, high end
	var steps []limit
	var sizes []*big.Rat
	kind := "number"
	if integer {
		kind = "integer"
	}
	for _, n := range p {
		low.tighten(n, "minimum", n.min, false, 1)
		low.tighten(n, "exclusiveMinimum", n.exMin, true, 1)
		high.tighten(n, "maximum", n.max, false, -1)
		high.tighten(n, "exclusiveMaximum", n.exMax, true, -1)
		if n.multipleOf != nil {
			steps = append(steps, limit{n, "multipleOf", n.multipleOf.String()})
			sizes = append(sizes, n.multipleOf.rat())
		}
	}
	if low.at == nil || high.at == nil {
		return // some multiple of everything is large enough, or zero is small enough
	}
	if by := low.at.cmp(*high.at); by > 0 || by == 0 && (low.open || high.open) {
		c.fault(kind, low.limit, high.limit)
		return
	}
	var all *big.Rat // every valid number is a multiple of it
	if integer {
		if all = big.NewRat(1, 1); !reaches(all, low, high) {
			c.fault(kind, low.limit, high.limit)
			return
		}
	}
	for i, size := range sizes {
		if !reaches(size, low, high) {
			c.fault("number", low.limit, high.limit, steps[i])
			return
		}
		if all == nil {
			all = size
		} else if all = commonMultiple(all, size); all.Num().BitLen() > 1<<16 {
			return // nobody writes such a schema, and the arithmetic would take too long
		}
	}
	if all != nil && !reaches(all, low, high) {
		c.fault(kind, append([]limit{low.limit, high.limit}, steps...)...)
	}
}

// reaches reports whether a multiple of size lies between two ends.
func reaches(size *big.Rat, low, high end) bool {
	from, to := low.at.rat(), high.at.rat()
	q := new(big.Rat).Quo(from, size)
	k, rest := new(big.Int).DivMod(q.Num(), q.Denom(), new(big.Int))
	if rest.Sign() != 0 || low.open { // the next multiple
		k.Add(k, big.NewInt(1))
	}
	by := new(big.Rat).Mul(new(big.Rat).SetInt(k), size).Cmp(to)
	return by < 0 || by == 0 && !high.open
}

// commonMultiple returns the smallest positive number that is a multiple of both.
func commonMultiple(a, b *big.Rat) *big.Rat {
	num := new(big.Int).Mul(a.Num(), b.Num())
	num.Quo(num, new(big.Int).GCD(nil, nil, a.Num(), b.Num()))
	return new(big.Rat).SetFrac(num, new(big.Int).GCD(nil, nil, a.Denom(), b.Denom()))
}

// rat returns the number as a fraction.
func (d *decimal) rat() *big.Rat {
	if len(d.dig) == 0 {
		return new(big.Rat)
	}
	n, _ := new(big.Int).SetString(string(d.dig), 10)
	if d.neg {
		n.Neg(n)
	}
	r := new(big.Rat).SetInt(n)
	power := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(d.exp, -d.exp))), nil))
	if d.exp < 0 {
		return r.Quo(r, power)
	}
	return r.Mul(r, power)
}

// String returns the number as JSON, with an exponent if it would be long without one.
func (d *decimal) String() string {
	if len(d.dig) == 0 {
		return "0"
	}
	sign, dig := "", string(d.dig)
	if d.neg {
		sign = "-"
	}
	switch point := len(dig) + d.exp; {
	case d.exp == 0 || d.exp > 0 && point <= 21:
		return sign + dig + strings.Repeat("0", d.exp)
	case d.exp < 0 && point > 0:
		return sign + dig[:point] + "." + dig[point:]
	case d.exp < 0 && point > -6:
		return sign + "0." + strings.Repeat("0", -point) + dig
	}
	return sign + dig + "e" + itoa(d.exp)
}
