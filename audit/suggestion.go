package audit

import (
	"fmt"
	"strconv"
	"time"
)

// Suggestion says how much of one limit was used, and what the limit could be. Guard.Suggest of
// package wsguard returns one for each limit that was used.
type Suggestion struct {
	// Field is the field of wsguard.Config, such as "Rates.Messages".
	Field string

	// Unit is what Percentile99 and Percentile999 count: "connections", "handshakes", "messages", "bytes" or
	// "seconds". For a Rate they count what was used of it within a second.
	Unit string

	// Observed is how long the Guard has observed, from the call of New.
	Observed time.Duration

	// Short says that the Guard has not observed for long enough to trust Value. It is set in the
	// first 24 hours, and while there are fewer than 1,000 observations.
	Short bool

	// Observations is how often the use of the limit was looked at.
	Observations uint64

	// Percentile99 and Percentile999 are the 99th and the 99.9th percentile of what was used. They are at most an
	// eighth too large.
	Percentile99, Percentile999 float64

	// Refused is how many handshakes, messages or connections the limit has refused or ended, and
	// how many it would have, if it did not only report. It counts from the call of New, under all
	// values that the limit had.
	Refused uint64

	// Current is the limit now, and Value is the suggested one. Value has room above Percentile999. It is
	// never without a limit.
	Current, Value Setting
}

// Setting is the value of a limit. PerSecond and Burst are set for a field of the type
// wsguard.Rate, Duration for a timeout, and Number for any other field. The zero value is no limit.
type Setting struct {
	// Number counts connections, handshakes, messages or bytes.
	Number int64

	// Duration is a timeout.
	Duration time.Duration

	// PerSecond and Burst are the fields of a wsguard.Rate.
	PerSecond float64
	Burst     int
}

// String returns the setting as Go code, such as "64", "5 * time.Minute" or
// "wsguard.Rate{PerSecond: 20, Burst: 40}". It returns "no limit" for the zero value.
func (s Setting) String() string {
	switch {
	case s.PerSecond != 0 || s.Burst != 0:
		return fmt.Sprintf("wsguard.Rate{PerSecond: %s, Burst: %d}", strconv.FormatFloat(s.PerSecond, 'f', -1, 64), s.Burst)
	case s.Number != 0:
		return number(s.Number)
	case s.Duration != 0:
		for _, unit := range []struct {
			d    time.Duration
			name string
		}{{time.Hour, "time.Hour"}, {time.Minute, "time.Minute"}, {time.Second, "time.Second"}, {time.Millisecond, "time.Millisecond"}} {
			if s.Duration%unit.d == 0 {
				return fmt.Sprintf("%d * %s", s.Duration/unit.d, unit.name)
			}
		}
		return strconv.FormatInt(int64(s.Duration), 10)
	}
	return "no limit"
}

// number returns n, as a product if it is a multiple of 1,024 such as a size in bytes.
func number(n int64) string {
	shift := 0
	for ; shift < 30 && n>>shift%1024 == 0; shift += 10 {
	}
	if shift == 0 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%d << %d", n>>shift, shift)
}

// String returns the suggestion as a line of text, such as
// "Caps.MaxConnsPerClient: 16 (now 64; 99.9 % use at most 5 connections; 0 refused)".
func (s Suggestion) String() string {
	use := strconv.FormatFloat(s.Percentile999, 'g', 3, 64)
	if s.Percentile999 >= 100 {
		use = strconv.FormatFloat(s.Percentile999, 'f', 0, 64)
	}
	per := ""
	if s.Value.PerSecond != 0 {
		per = " per second"
	}
	return fmt.Sprintf("%s: %s (now %s; 99.9 %% use at most %s %s%s; %d refused)", s.Field, s.Value, s.Current, use, s.Unit, per, s.Refused)
}
