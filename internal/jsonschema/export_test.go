package jsonschema

import (
	"maps"
	"regexp"
	"slices"
)

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

// PresetPatterns returns the patterns that presets replace, and what replaces them.
func PresetPatterns() map[string]string {
	all := map[string]string{}
	for i := range presets {
		maps.Copy(all, presets[i].patterns)
	}
	return all
}

// PresetNames returns the words of a preset that say nothing, those with a meaning, the formats that are checked, and the
// formats that say nothing.
func PresetNames(p Preset) (columns [4][]string) {
	for i := range presets {
		if p&(1<<i) == 0 {
			continue
		}
		one := &presets[i]
		columns[0], columns[3] = slices.Clone(one.words), slices.Clone(one.silent)
		if one.nullable {
			columns[1] = []string{"nullable"}
		}
		columns[2] = append(sortedNames(one.formats), sortedNames(one.numbers)...)
	}
	return columns
}
