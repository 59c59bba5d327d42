package jsonschema_test

import (
	"bytes"
	"fmt"
	"math/bits"
	"strings"
	"testing"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// TestCounts compares what a count in a schema means with what it says, around the largest int of 32 bits. v5 converts
// counts to int, so a platform refuses those that its int does not hold.
func TestCounts(t *testing.T) {
	for _, c := range []struct {
		count string
		needs int // bits of an int
	}{
		{"2147483646", 32}, {"2147483647", 32}, {"2147483648", 64}, {"4294967295", 64}, {"4294967296", 64}, {"4294967297", 64},
		{"4294967296.0", 64}, {"42949672960", 64}, {"9007199254740992", 64}, {"9007199254740993", 65}, {"1e300", 65},
	} {
		for _, keyword := range []string{"Length", "Items", "Properties", "Contains"} {
			for _, side := range []string{"min", "max"} {
				src := fmt.Sprintf(`{%q:%s,"contains":true}`, side+keyword, c.count)
				s, err := jsonschema.Compile([]byte(src), jsonschema.Options{})
				if c.needs > bits.UintSize {
					if err == nil || !strings.Contains(err.Error(), "2^53") {
						t.Errorf("%s: %v, want it to be beyond the largest count", src, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", src, err)
					continue
				}
				msg := map[string]string{"Length": `"a"`, "Items": `[1]`, "Properties": `{"a":1}`, "Contains": `[1]`}[keyword]
				if err := s.Validate([]byte(msg)); (err == nil) != (side == "max") {
					t.Errorf("%s says %v of %s", src, err, msg)
				}
			}
		}
	}
}

// TestFuelOfLargeMessages: what a message may cost, and what a slow pattern costs, grow with the length of the text.
// Neither may pass the largest int and come back as a small number.
func TestFuelOfLargeMessages(t *testing.T) {
	last := 0
	for shift := range 31 {
		n := 1 << shift
		fuel := jsonschema.DefaultFuel(n)
		if fuel < last || fuel < n/4 {
			t.Errorf("a message of %d bytes may cost %d, one of half that size %d", n, fuel, last)
		}
		last = fuel
	}
	// Each of 4,000 instructions may be live at each character: 250 units for a byte, where 64 are allowed.
	s := compile(t, `{"type":"string","pattern":"\\b(?:(?:x?y?){1,500}){1,2}z$"}`)
	for n := 1 << 18; n <= 1<<24; n += n / 3 {
		msg := append(append([]byte{'"'}, bytes.Repeat([]byte("x"), n)...), '"')
		if err := s.Validate(msg); token(t, err) != "fuel" {
			t.Fatalf("a text of %d bytes: %v, want it to be too expensive for a slow pattern", n, err)
		}
	}
}
