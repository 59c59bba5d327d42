package wsguard

import (
	"reflect"
	"testing"
)

// A Config keeps its own copy of a Table, with all of its fields.
func TestTableClone(t *testing.T) {
	full := Table{
		Pointer: "/x", Numbers: true, Kind: func([]byte) (string, bool) { return "", false }, NotJSON: true,
		JSONRPC: true, MaxBatch: 7, RefuseBatches: true,
		Types: map[string]Rule{"a": {Cost: 1}}, Prefixes: map[string]Rule{"b": {Cost: 2}}, Default: &Rule{Cost: 3}, Absent: &Rule{Cost: 4},
	}
	own := full.clone()
	was, is := reflect.ValueOf(&full).Elem(), reflect.ValueOf(own).Elem()
	for i := range was.NumField() {
		f := was.Type().Field(i)
		switch {
		case !f.IsExported():
		case was.Field(i).IsZero():
			t.Errorf("the test does not set %s", f.Name)
		case f.Type.Kind() == reflect.Func:
			if is.Field(i).IsNil() {
				t.Errorf("%s is lost", f.Name)
			}
		case !reflect.DeepEqual(was.Field(i).Interface(), is.Field(i).Interface()):
			t.Errorf("%s is lost", f.Name)
		}
	}
	full.Types["a"], full.Prefixes["b"], full.Default.Cost, full.Absent.Cost = Rule{}, Rule{}, 0, 0
	if own.Types["a"].Cost != 1 || own.Prefixes["b"].Cost != 2 || own.Default.Cost != 3 || own.Absent.Cost != 4 {
		t.Error("the copy has changed")
	}
}
