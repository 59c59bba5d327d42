package jsonschema

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
