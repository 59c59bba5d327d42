package jsonschema

import (
	"fmt"
	"slices"
)

// missingName, twoBranches and twinItems return texts for Error.Detail.

func missingName(name string) string {
	var b bounded
	b.add(`name "`)
	b.text(name)
	b.add(`" is missing`)
	return string(b.b)
}

func twoBranches(a, b int) string { return fmt.Sprintf("branches %d and %d accept the value", a, b) }

func twinItems(a, b int) string {
	return fmt.Sprintf("items %d and %d are equal", min(a, b), max(a, b))
}

// detail returns the detail of a fault of the evaluator.
func (e *evaluator) detail(f *treeFault) string {
	lacks := func(name string) bool { return e.find(f.val, name) < 0 }
	switch f.keyword {
	case "required":
		for _, name := range sortedNames(f.node.names) {
			if f.node.names[name].required && lacks(name) {
				return missingName(name)
			}
		}
	case "dependencies", "dependentRequired":
		for i := range f.node.depends {
			d := &f.node.depends[i]
			if at := slices.IndexFunc(d.required, lacks); at >= 0 && !lacks(d.name) {
				return missingName(d.required[at])
			}
		}
	case "oneOf":
		return twoBranches(int(f.twins[0]), int(f.twins[1]))
	case "uniqueItems":
		return twinItems(int(f.twins[0]), int(f.twins[1]))
	}
	return ""
}

// A way leads from the whole message to a value or a name.
type way struct {
	steps [maxPointer]wayStep // the first ones; each takes a byte of a pointer at least
	depth int
}

// A wayStep leads from an array or an object into it.
type wayStep struct {
	index int32 // of the item of an array; -1: an object
	name  int32 // where the name in an object begins
}

// wayTo returns the way to the value or the name that begins at off. The bytes before off are valid JSON, and the bytes
// after it may be anything. It takes one pass over the bytes before off.
func wayTo(msg []byte, off int) (w way) {
	var top *wayStep // of the innermost open array or object; nil: there is none, or it is too deep to be in steps
	name := false    // the next string is a name in top
	enter := func(index int32) {
		top = nil
		if w.depth < len(w.steps) {
			top = &w.steps[w.depth]
			top.index = index
		}
		w.depth++
		name = top != nil && index < 0
	}
	for i := 0; i < off; {
		switch msg[i] {
		case '[':
			enter(0)
		case '{':
			enter(-1)
		case ']', '}':
			w.depth--
			top, name = nil, false
			if w.depth > 0 && w.depth <= len(w.steps) {
				top = &w.steps[w.depth-1]
			}
		case ',':
			if top == nil {
				break
			}
			if name = top.index < 0; !name {
				top.index++
			}
		case '"':
			if name {
				top.name, name = int32(i), false
			}
			i = skipString(msg, i)
			continue
		}
		i++
	}
	switch {
	case !name:
	case off < len(msg) && msg[off] == '"':
		top.name = int32(off)
	default:
		w.depth-- // off is neither a value nor a name
	}
	return w
}

// pointer writes w, which leads through msg, as a JSON pointer, and then path. If known is not nil, names that are not in
// known are replaced.
func (w *way) pointer(msg []byte, path string, known map[string]bool) string {
	b := bounded{known: known}
	for i := 0; i < min(w.depth, len(w.steps)) && !b.full; i++ {
		if s := &w.steps[i]; s.index >= 0 {
			b.add("/" + itoa(int(s.index)))
		} else {
			b.pointerName(string(unescape(nil, msg[s.name+1:skipString(msg, int(s.name))-1])))
		}
	}
	if path != "" && !b.full {
		b.add(path)
	}
	return string(b.b)
}
