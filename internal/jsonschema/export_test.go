package jsonschema

import "regexp"

// FuelUsed reports what Validate spent on msg.
func (s *Schema) FuelUsed(msg []byte) (int, error) {
	v := vm{msg: msg, prog: s.prog, limits: s.limits, fuel: s.fuelFor(msg), protos: s.limits.RefusePrototypeKeys, controls: s.limits.RefuseControls}
	if s.judge(&v) < 0 {
		return s.fuelFor(msg) - v.fuel, v.fault.err
	}
	return s.fuelFor(msg) - v.fuel, nil
}

// Tree judges msg with the evaluator alone.
func (s *Schema) Tree(msg []byte) error {
	if err := Scan(msg, &s.limits); err != nil {
		return err
	}
	v := vm{msg: msg, prog: s.prog, limits: s.limits, fuel: s.fuelFor(msg)}
	if i := skipSpace(msg, 0); v.tree(s.prog.tree.root, i, len(msg)) < 0 {
		return v.fault.err
	}
	return nil
}

// Formats lists the format names that a schema may use.
func Formats() []string { return sortedNames(formats) }

// Matcher returns how a pattern is matched, and by what.
func Matcher(expr string) (match func([]byte) bool, how string) {
	t := newTextPattern(newPattern(regexp.MustCompile(expr)))
	how = "regexp"
	if t.runs != nil {
		how = "runs"
	} else if t.table != nil {
		how = "automaton"
	}
	return func(text []byte) bool {
		ok, _ := t.match(text, 1<<30)
		return ok
	}, how
}

// Format returns the function that judges the texts of a format, and what judging a text of n bytes costs.
func Format(name string) (ok func(text []byte) bool, price func(n int) int) {
	if f := formats[name]; f != nil {
		return f.ok, f.price
	}
	return nil, nil
}
