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

// pointer writes the JSON pointer of the value or the name that begins at off, and then path. The bytes before off are valid
// JSON, and the bytes after it may be anything. If known is not nil, names that are not in known are replaced.
func pointer(msg []byte, off int, path string, known map[string]bool) string {
	b := bounded{known: known}
	i := skipSpace(msg, 0)
	for i < off && !b.full {
		object := msg[i] == '{'
		found := false
		n := 0
		for j := firstItem(msg, i); j >= 0 && j <= off; n++ {
			at := j
			if object {
				end := skipString(msg, j)
				name := msg[j+1 : end-1]
				j = skipSpace(msg, end)
				if at < off && (j >= len(msg) || msg[j] != ':') {
					break
				}
				if at != off {
					j = skipSpace(msg, j+1)
				}
				if at == off || off < skipValue(msg, j) {
					b.pointerName(string(unescape(nil, name)))
				}
			} else if off < skipValue(msg, j) {
				b.add("/" + itoa(n))
			}
			if at == off {
				i, found = off, true
				break
			}
			end := skipValue(msg, j)
			if off < end {
				i, found = j, true
				break
			}
			j = nextItem(msg, end)
		}
		if !found {
			break
		}
	}
	if path != "" && !b.full {
		b.add(path)
	}
	return string(b.b)
}
