package wsguard

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// ConfigError is one mistake in a configuration. [New] joins all mistakes into one error, and
// errors.As finds the first.
type ConfigError struct {
	// Field is the field with the mistake, such as "Origins" or "Rates.Messages".
	Field string

	// Value is the value of the field, or the entry of a list that is wrong. It is nil or ""
	// if the message needs no value.
	Value any

	// Reason says what is wrong with the value.
	Reason string
}

// Error returns the field, the value and the reason in one line.
func (e *ConfigError) Error() string {
	if e.Value == nil || e.Value == "" {
		return fmt.Sprintf("wsguard: %s: %s", e.Field, e.Reason)
	}
	return fmt.Sprintf("wsguard: %s: %+v: %s", e.Field, e.Value, e.Reason)
}

// faults collects the mistakes of a configuration, so that all are reported at once.
type faults []error

func (f *faults) add(field string, value any, reason string) {
	*f = append(*f, &ConfigError{Field: field, Value: value, Reason: reason})
}

func (f *faults) err() error { return errors.Join(*f...) }

// timeout resolves a duration. For 0 it returns the default, and for Off it returns 0.
func timeout(d, def time.Duration, field string, f *faults) time.Duration {
	switch {
	case d == 0:
		return def
	case d == Off:
		return 0
	case d < 0:
		f.add(field, d, "must be positive, 0 for the default, or Off")
		return def
	case d > maxTimeout:
		f.add(field, d, tooLong+"; Off switches it off")
		return def
	}
	return d
}

// maxTimeout is the longest timeout. It leaves room to add it to a time, jitter
// included.
const maxTimeout = time.Duration(1 << 61) // 73 years

var tooLong = fmt.Sprintf("must be at most %v (73 years), so that it can be added to a time", maxTimeout.Truncate(time.Hour))

// required is like timeout for a field that cannot be Off.
func required(d, def time.Duration, field string, f *faults) time.Duration {
	switch {
	case d == 0:
		return def
	case d < 0:
		f.add(field, d, "must be positive, or 0 for the default: it cannot be switched off")
		return def
	case d > maxTimeout:
		f.add(field, d, tooLong)
		return def
	}
	return d
}

// maxAmount is the largest amount of bytes or messages that a field may allow.
// It leaves room to add two of them, and to double a buffer, without overflow.
const maxAmount = math.MaxInt / 2

// requiredAmount is like required for amounts of bytes and messages that are held in memory.
func requiredAmount(n, def int64, field string, f *faults) int64 {
	switch {
	case n == 0:
		return def
	case n < 0:
		f.add(field, n, "must be positive, or 0 for the default: it cannot be switched off")
		return def
	case n > maxAmount:
		f.add(field, n, fmt.Sprintf("must be at most %d, so that sizes can be doubled and added without overflow", maxAmount))
		return def
	}
	return n
}
