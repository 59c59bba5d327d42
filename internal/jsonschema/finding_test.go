package jsonschema_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// The type is found at a cost that stands in a small proportion to that of json.Valid, whatever the message.
func TestFindingCosts(t *testing.T) {
	var members []string
	for i := range 3000 {
		members = append(members, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	for name, s := range map[string]string{
		"tiny calls":      "[" + strings.TrimSuffix(strings.Repeat("{},", 10000), ",") + "]",
		"numbers":         "[" + strings.TrimSuffix(strings.Repeat("1,", 15000), ",") + "]",
		"empty arrays":    "[" + strings.TrimSuffix(strings.Repeat("[],", 10000), ",") + "]",
		"deep arrays":     strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
		"members":         "{" + strings.Join(members, ",") + "}",
		"similar members": "{" + strings.Repeat(`"metho":1,"Metod":2,`, 1500) + `"x":1}`,
		"escaped members": "{" + strings.Repeat(`"\u006d\u0065":1,`, 1500) + `"x":1}`,
		"like members":    "{" + strings.Repeat(`"\u006asonrpx":1,"re\u0073ulu":2,`, 800) + `"x":1}`,
		"other scripts":   "{" + strings.Repeat("\"méthode\":1,\"ſ\":2,", 1200) + `"x":1}`,
		"calls":           "[" + strings.TrimSuffix(strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"x"},`, 800), ",") + "]",
	} {
		msg := []byte(s)
		path := []string{"type", "x"}
		find, valid := time.Hour, time.Hour // the least of several rounds
		for range 9 {
			start := time.Now()
			for range 5 {
				jsonschema.Discriminator(msg, path, false, nil)
				if !jsonschema.IsBatch(msg) {
					jsonschema.ReadCall(msg, nil)
					continue
				}
				for w := jsonschema.NewBatch(msg); w.Next(); {
					jsonschema.ReadCall(msg[w.From:w.To], nil)
				}
			}
			between := time.Now()
			for range 5 {
				json.Valid(msg)
			}
			find, valid = min(find, between.Sub(start)), min(valid, time.Since(between))
		}
		times := float64(find) / float64(valid)
		t.Logf("%s: %.1f times json.Valid", name, times)
		// The guard looks for the type several times, and a notice once more.
		if times > 10 && !raceEnabled {
			t.Errorf("%s: %.1f times json.Valid", name, times)
		}
	}
}
