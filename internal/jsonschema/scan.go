package jsonschema

import "math"

// Limits bounds what a message may cost before anything is built from it. In each field 0 means the default and a
// negative number means no cap.
type Limits struct {
	Depth       int // how deeply arrays and objects may be nested; the default is 64, the largest value 10,000
	Keys        int // how many names one object may have; the default is 256
	KeyBytes    int // how many bytes one name may have after unescaping; the default is 256
	NumberBytes int // how many characters one number may have; the default is 64
	Exponent    int // the absolute value that a written exponent may have, without leading zeros; the default is 400

	// RefusePrototypeKeys refuses the names __proto__, constructor and prototype at any depth.
	RefusePrototypeKeys bool

	// RefuseControls refuses strings and names that hold U+0000 to U+001F other than tab, line feed and carriage return
	// (text has those), U+007F to U+009F, or one of the marks that turn the direction of text (U+061C, U+200E, U+200F,
	// U+202A to U+202E, U+2066 to U+2069), written out or as an escape.
	RefuseControls bool
}

// DefaultLimits returns the default of each limit.
func DefaultLimits() Limits {
	return Limits{Depth: 64, Keys: 256, KeyBytes: 256, NumberBytes: 64, Exponent: 400}
}

// maxExponent is the value at which exponents saturate. Comparing two of them needs no power of ten, so it can be high.
const maxExponent = 1 << 30

// addDigit appends a decimal digit to the absolute value of an exponent, and saturates at maxExponent. Ten times
// maxExponent does not fit an int of 32 bits.
func addDigit(e int, digit byte) int {
	return int(min(int64(e)*10+int64(digit-'0'), maxExponent))
}

// maxDepth is the limit of encoding/json. Trees are walked by recursion, and Go ends a process whose stack overflows.
const maxDepth = 10000

// maxMessage keeps offsets within 31 bits.
const maxMessage = 1 << 30

func (l *Limits) resolve() Limits {
	d := DefaultLimits()
	if l == nil {
		return d
	}
	pick := func(v, def, most int) int {
		switch {
		case v == 0:
			return def
		case v < 0 || v > most:
			return most
		}
		return v
	}
	return Limits{
		RefusePrototypeKeys: l.RefusePrototypeKeys, RefuseControls: l.RefuseControls,
		Depth:       pick(l.Depth, d.Depth, maxDepth),
		Keys:        pick(l.Keys, d.Keys, math.MaxInt32),
		KeyBytes:    pick(l.KeyBytes, d.KeyBytes, math.MaxInt32),
		NumberBytes: pick(l.NumberBytes, d.NumberBytes, math.MaxInt32),
		Exponent:    pick(l.Exponent, d.Exponent, maxExponent-1),
	}
}

// Scan returns nil if msg is one JSON value that every parser reads in the same way, or an *Error for the first fault in
// byte order. Such a value follows RFC 8259 to the letter. It is UTF-8 without a byte order mark. No object has a name
// twice, after unescaping. It has no lone surrogate, nothing follows it, and it is within lim. A nil lim means the
// defaults. Scan refuses a NUL like every raw control character. The escape \u0000 is valid JSON and passes, unless lim
// refuses controls. Scan allocates nothing for a message that passes.
func Scan(msg []byte, lim *Limits) error {
	l := lim.resolve()
	v := vm{msg: msg, limits: l, protos: l.RefusePrototypeKeys, controls: l.RefuseControls}
	r := v.run(anything)
	if v.sc != nil {
		v.release()
	}
	if r >= 0 {
		return nil
	}
	e := *v.fault.err
	e.Offset = int(v.fault.off)
	return &e
}

// A scanFault is a fault that refuses a message whatever the schema says. It ends every branch.
type scanFault uint8

const (
	faultNone scanFault = iota
	faultEmpty
	faultBOM
	faultSyntax
	faultTrailing
	faultControl
	faultUTF8
	faultSurrogate
	faultDuplicate

	faultSize
	faultDepth
	faultKeys
	faultKeyBytes
	faultNumberBytes
	faultExponent
	faultFuel

	faultPrototype
	faultCase
	faultControlInString

	faultLoop
	faultPanic
)

var scanErrors = func() (errs [faultPanic + 1]*Error) {
	for f, token := range []string{"", TokenEmpty, TokenBOM, TokenSyntax, TokenTrailing, TokenControl, TokenUTF8, TokenSurrogate,
		TokenDuplicate, TokenSize, TokenDepth, TokenKeys, TokenKeyBytes, TokenNumberBytes, TokenExponent, TokenFuel,
		TokenPrototypeKey, TokenCaseVariant, TokenControlInString, TokenLoop, TokenInternalPanic} {
		kind := KindSyntax
		switch f := scanFault(f); {
		case f >= faultLoop:
			kind = KindInternal
		case f >= faultPrototype:
			kind = KindSchema
		case f >= faultSize:
			kind = KindLimit
		}
		errs[f] = &Error{Kind: kind, Token: token, Offset: -1}
	}
	return errs
}()

var errInternal = scanErrors[faultPanic]
