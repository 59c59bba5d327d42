package jsonschema

import "strings"

// maxKind is how many bytes the string that names a type may have.
const maxKind = 1024

// Discriminator returns the string at a path of member names and array indices, without a look at the rest of msg. It is
// for choosing the schema that judges msg. It fails if there is no such string, and if a reader could see another one.
// That is so if the name is there twice, or once more in another letter case, which encoding/json takes for the same.
func Discriminator(msg []byte, path []string) (kind []byte, ok bool) {
	i := skipSpace(msg, 0)
	for _, name := range path {
		if i >= len(msg) {
			return nil, false
		}
		switch msg[i] {
		case '{':
			i = onlyMember(msg, i, name)
		case '[':
			i = item(msg, i, name)
		default:
			return nil, false
		}
		if i < 0 {
			return nil, false
		}
	}
	if i >= len(msg) || msg[i] != '"' {
		return nil, false
	}
	raw := msg[i:skipString(msg, i)]
	if len(raw) > maxKind {
		return nil, false
	}
	return Unquote(raw, nil)
}

// item returns the offset of the item of the array at i, or -1.
func item(msg []byte, i int, name string) int {
	n, ok := index(name)
	if !ok {
		return -1
	}
	for i = firstItem(msg, i); n > 0 && i >= 0; n-- {
		i = nextItem(msg, skipValue(msg, i))
	}
	return i
}

// onlyMember returns the offset of the value that the object at i has under a name, or -1.
func onlyMember(msg []byte, i int, name string) int {
	at := -1
	j := skipSpace(msg, i+1)
	for j < len(msg) && msg[j] == '"' {
		end := skipString(msg, j)
		is, like := compareName(msg[j:end], name)
		if j = skipSpace(msg, end); j >= len(msg) || msg[j] != ':' {
			return -1
		}
		j = skipSpace(msg, j+1)
		if like {
			if at >= 0 || !is {
				return -1
			}
			at = j
		}
		if j = skipSpace(msg, skipValue(msg, j)); j >= len(msg) {
			return -1
		}
		if msg[j] == '}' {
			return at
		}
		if msg[j] != ',' {
			return -1
		}
		j = skipSpace(msg, j+1)
	}
	return -1
}

// compareName reports whether a string is a name, and whether encoding/json would take it for it.
func compareName(raw []byte, name string) (is, like bool) {
	// A string that is longer than the name with every byte escaped is another name.
	if len(raw)-2 > 6*len(name) {
		return false, false
	}
	var buf [64]byte
	text, ok := Unquote(raw, buf[:])
	if !ok {
		return false, true // parsers may read it differently, so it must not be this name
	}
	return string(text) == name, strings.EqualFold(string(text), name)
}
