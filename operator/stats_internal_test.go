package operator

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// fill sets everything in v to a value that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(time.Hour))
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		panic(fmt.Sprint(v.Type()))
	}
}

// The answer to /stats has each field of a Snapshot.
func TestStatsIsComplete(t *testing.T) {
	text := func(s audit.Snapshot) string {
		b, err := json.Marshal(snapshotOf(s))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	empty := text(audit.Snapshot{})
	for _, f := range reflect.VisibleFields(reflect.TypeFor[audit.Snapshot]()) {
		var s audit.Snapshot
		fill(reflect.ValueOf(&s).Elem().FieldByIndex(f.Index))
		if text(s) == empty {
			t.Errorf("%s is missing", f.Name)
		}
	}
}
