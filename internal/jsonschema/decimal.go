package jsonschema

import (
	"bytes"
	"math/big"
	"math/bits"
	"strconv"
)

func itoa(i int) string { return strconv.Itoa(i) }

// A decimal is dig × 10^exp, exactly. dig has no zero at either end, so each number has one form. The number zero has no
// digits. No function computes a power of ten, so a huge exponent costs no more than a small one.
type decimal struct {
	neg bool
	exp int
	dig []byte
}

// parseDecimal reads a JSON number. The digits are written over buf.
func parseDecimal[T string | []byte](buf []byte, s T) decimal {
	d := decimal{dig: buf[:0]}
	i := 0
	if i < len(s) && s[i] == '-' {
		d.neg = true
		i++
	}
	point := false
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' {
			point = true
			continue
		}
		if c-'0' > 9 {
			break
		}
		if point {
			d.exp--
		}
		if c != '0' || len(d.dig) > 0 {
			d.dig = append(d.dig, c)
		}
	}
	if i < len(s) { // e or E
		i++
		neg := s[i] == '-'
		if neg || s[i] == '+' {
			i++
		}
		e := 0
		for ; i < len(s); i++ {
			e = addDigit(e, s[i])
		}
		if neg {
			e = -e
		}
		d.exp += e
	}
	for len(d.dig) > 0 && d.dig[len(d.dig)-1] == '0' {
		d.dig = d.dig[:len(d.dig)-1]
		d.exp++
	}
	if len(d.dig) == 0 {
		d.neg, d.exp = false, 0
	}
	return d
}

func (d decimal) isInt() bool { return d.exp >= 0 }

func (d decimal) cmp(o decimal) int {
	sign := 1
	switch {
	case len(d.dig) == 0 && len(o.dig) == 0:
		return 0
	case len(d.dig) == 0:
		if o.neg {
			return 1
		}
		return -1
	case len(o.dig) == 0:
		if d.neg {
			return -1
		}
		return 1
	case d.neg != o.neg:
		if d.neg {
			return -1
		}
		return 1
	case d.neg:
		sign = -1
	}
	if m, n := len(d.dig)+d.exp, len(o.dig)+o.exp; m != n {
		if m < n {
			return -sign
		}
		return sign
	}
	return sign * bytes.Compare(d.dig, o.dig)
}

// multipleOf reports whether d divided by o is an integer. o is not zero.
func (d decimal) multipleOf(o decimal) bool {
	if len(d.dig) == 0 {
		return true
	}
	k := d.exp - o.exp
	if k < 0 {
		return false // the last digit of d is not zero, so no power of ten divides it
	}
	if len(o.dig) > 18 {
		m, _ := new(big.Int).SetString(string(o.dig), 10)
		n, _ := new(big.Int).SetString(string(d.dig), 10)
		n.Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(k)), m))
		return n.Mod(n, m).Sign() == 0
	}
	var m, r uint64
	for _, c := range o.dig {
		m = m*10 + uint64(c-'0')
	}
	mul := func(a, b uint64) uint64 {
		hi, lo := bits.Mul64(a, b)
		_, rem := bits.Div64(hi%m, lo, m)
		return rem
	}
	for _, c := range d.dig {
		r = (mul(r, 10) + uint64(c-'0')) % m
	}
	for ten := 10 % m; k > 0; k >>= 1 {
		if k&1 != 0 {
			r = mul(r, ten)
		}
		ten = mul(ten, ten)
	}
	return r == 0
}

// decimalOf turns a bound that v5 has parsed back into digits. Every JSON number has a finite decimal form.
func decimalOf(r *big.Rat) *decimal {
	if r == nil {
		return nil
	}
	n, _ := r.FloatPrec()
	d := parseDecimal(nil, r.FloatString(n))
	return &d
}
