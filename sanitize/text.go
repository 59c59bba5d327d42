package sanitize

import (
	"bytes"
	"errors"
	"unicode"
	"unicode/utf8"
)

// Trim removes blanks from both ends of a text. Blanks are the characters with the Unicode property
// White_Space, which include line ends and U+00A0, and U+FEFF. They are those of trim in JavaScript
// and U+0085. A text of only blanks becomes empty. The schema decides whether a text may be empty.
func Trim(text []byte) ([]byte, error) {
	if len(text) > 0 && letter(text[0]) && letter(text[len(text)-1]) {
		return text, nil
	}
	out := bytes.TrimFunc(text, blank)
	if out == nil {
		out = text[:0]
	}
	return out, nil
}

// letter reports whether c is ASCII and no blank.
func letter(c byte) bool { return c > ' ' && c < utf8.RuneSelf }

func blank(r rune) bool { return unicode.IsSpace(r) || r == 0xFEFF }

// RefuseControls refuses a text with a control character. Control characters are, as in
// SchemaConfig.RefuseControls of wsguard:
//   - U+0000 to U+001F except tab, line feed and carriage return,
//   - U+007F and U+0080 to U+009F,
//   - the marks that turn the direction of text, which can make a page or a log show another text
//     than a program reads: U+061C, U+200E, U+200F, U+202A to U+202E and U+2066 to U+2069.
//
// The marks U+061C, U+200E and U+200F have honest uses in text of right to left scripts. Use
// RemoveControls where people write such text, and let the page isolate what it shows, as the
// element bdi of HTML does.
func RefuseControls(text []byte) ([]byte, error) { return refuse(text, control, errControl) }

// RemoveControls removes the characters that RefuseControls refuses. What stood on both sides of
// such a character then stands together, so another check of the text must come later. If a text
// names something, as an identifier does, use RefuseControls instead.
func RemoveControls(text []byte) ([]byte, error) { return remove(text, control), nil }

// RefuseInvisible refuses a text with a character that nobody sees and that no text needs. Such
// characters make two texts look the same, or hide from people what a program reads. They are:
//   - U+00AD, U+115F, U+1160, U+17B4, U+17B5, U+180E, U+200B, U+2060 to U+2065, U+206A to U+206F,
//     U+3164, U+FEFF, U+FFA0 and U+FFF0 to U+FFFB,
//   - U+1BCA0 to U+1BCA3 and U+1D173 to U+1D17A,
//   - U+E0000 to U+E00FF, which include the tags, and U+E01F0 to U+E0FFF.
//
// These are the characters with the Unicode property Default_Ignorable_Code_Point and U+FFF9 to
// U+FFFB, without those that RefuseControls refuses and without those that text needs. Text needs the
// joiners U+200C and U+200D, which Persian, scripts of India and emoji have, U+034F, and the
// variation selectors U+180B to U+180D, U+180F, U+FE00 to U+FE0F and U+E0100 to U+E01EF. So a text
// that passes is not safe as an identifier. Unicode Technical Standard 39 says what is. The flags of
// England, Scotland and Wales consist of tags, and RefuseInvisible refuses them.
func RefuseInvisible(text []byte) ([]byte, error) { return refuse(text, invisible, errInvisible) }

// RemoveInvisible removes the characters that RefuseInvisible refuses. As after RemoveControls,
// what stood on both sides of such a character then stands together.
func RemoveInvisible(text []byte) ([]byte, error) { return remove(text, invisible), nil }

var (
	errControl   = errors.New("a control character")
	errInvisible = errors.New("an invisible character")
)

func control(r rune) bool {
	switch {
	case r < 0x20:
		return r != '\t' && r != '\n' && r != '\r'
	case r < 0xA0:
		return r >= 0x7F
	case r < 0x061C || r > 0x2069:
		return false
	}
	return r == 0x061C || r == 0x200E || r == 0x200F || r >= 0x202A && r <= 0x202E || r >= 0x2066
}

func invisible(r rune) bool {
	switch {
	case r < 0xAD:
		return false
	case r < 0xFFFF:
		switch {
		case r == 0xAD, r == 0x115F, r == 0x1160, r == 0x17B4, r == 0x17B5, r == 0x180E, r == 0x200B, r == 0x3164, r == 0xFEFF, r == 0xFFA0:
			return true
		}
		return r >= 0x2060 && r <= 0x2065 || r >= 0x206A && r <= 0x206F || r >= 0xFFF0 && r <= 0xFFFB
	}
	return r >= 0x1BCA0 && r <= 0x1BCA3 || r >= 0x1D173 && r <= 0x1D17A || r >= 0xE0000 && r <= 0xE0FFF && (r < 0xE0100 || r > 0xE01EF)
}

// find returns the offset of the first character in a set, or len(text).
func find(text []byte, in func(rune) bool) int {
	for i := 0; i < len(text); {
		if c := text[i]; c >= ' ' && c < 0x7F {
			i++ // it is in no set
			continue
		}
		r, size := utf8.DecodeRune(text[i:])
		if in(r) {
			return i
		}
		i += size
	}
	return len(text)
}

func refuse(text []byte, set func(rune) bool, err error) ([]byte, error) {
	if find(text, set) < len(text) {
		return nil, err
	}
	return text, nil
}

func remove(text []byte, set func(rune) bool) []byte {
	i := find(text, set)
	if i == len(text) {
		return text
	}
	out := make([]byte, 0, len(text))
	for {
		out = append(out, text[:i]...)
		if text = text[i:]; len(text) == 0 {
			return out
		}
		_, size := utf8.DecodeRune(text)
		text = text[size:]
		i = find(text, set)
	}
}
