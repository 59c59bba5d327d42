package jsonschema

import (
	"maps"
	"slices"
	"unicode"
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

// Matcher returns how a pattern is matched, and by what. re2 is its translation, or "" if RE2 does not need it.
func Matcher(text string) (match func([]byte) bool, how, re2 string, err error) {
	p, err := newPattern(text)
	if err != nil {
		return nil, "", "", err
	}
	switch how = "regexp"; {
	case p.runs != nil:
		how = "runs"
	case p.table != nil:
		how = "automaton"
	}
	e, _ := parseECMA(text)
	re2, _ = e.re2()
	return func(text []byte) bool {
		ok, _ := p.match(text, 1<<30)
		return ok
	}, how, re2, nil
}

// ECMAProperties lists the properties that \p{} may name.
func ECMAProperties() []string {
	names := []string{"ASCII", "Any", "Assigned", "Cased", "Math"}
	for short, long := range binaryNames {
		names = append(names, short, long)
	}
	for short, long := range derivedNames {
		names = append(names, short, long)
	}
	for name := range unicode.Categories {
		names = append(names, name, "gc="+name)
	}
	for name := range unicode.CategoryAliases {
		names = append(names, name, "General_Category="+name)
	}
	for code, name := range scriptCodes() {
		names = append(names, "sc="+code, "Script="+name)
	}
	slices.Sort(names)
	return slices.Compact(names)
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
