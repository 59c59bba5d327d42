package jsonschema

// A numericFormat is a type of programming languages. It says which numbers the type can hold.
type numericFormat struct {
	low, high decimal
	whole     bool    // integers only
	text      *format // the same for numbers that are written as strings, as JSON of protobuf has them
}

func newNumeric(low, high string, whole bool) *numericFormat {
	f := &numericFormat{low: parseDecimal(nil, low), high: parseDecimal(nil, high), whole: whole}
	f.text = &format{f.holdsText, 16}
	return f
}

// holds reports whether a number is one of the type.
func (f *numericFormat) holds(d decimal) bool {
	return (!f.whole || d.isInt()) && d.cmp(f.low) >= 0 && d.cmp(f.high) <= 0
}

// holdsText reports whether text is a number of JSON that the type can hold. A whole number has neither a point nor an
// exponent then, because parsers of integers take none.
func (f *numericFormat) holdsText(text []byte) bool {
	v := vm{msg: text, limits: DefaultLimits()}
	if len(text) == 0 || kindOf[text[0]] != isNumber+1 {
		return false
	}
	if end, _ := v.num(0); end != len(text) {
		return false
	}
	for _, c := range text {
		if f.whole && (c == '.' || c|0x20 == 'e') {
			return false
		}
	}
	var buf [64]byte
	return f.holds(parseDecimal(buf[:], text))
}

// The largest finite values of the two widths of IEEE 754.
const (
	maxFloat32 = "340282346638528859811704183484516925440"
	maxFloat64 = "1.7976931348623157e308"
)

var (
	signed8, unsigned8     = newNumeric("-128", "127", true), newNumeric("0", "255", true)
	signed16, unsigned16   = newNumeric("-32768", "32767", true), newNumeric("0", "65535", true)
	signed32, unsigned32   = newNumeric("-2147483648", "2147483647", true), newNumeric("0", "4294967295", true)
	signed64, unsigned64   = newNumeric("-9223372036854775808", "9223372036854775807", true), newNumeric("0", "18446744073709551615", true)
	signed128, unsigned128 = newNumeric("-170141183460469231731687303715884105728", "170141183460469231731687303715884105727", true),
		newNumeric("0", "340282366920938463463374607431768211455", true)
	single, double = newNumeric("-"+maxFloat32, maxFloat32, false), newNumeric("-"+maxFloat64, maxFloat64, false)
)
