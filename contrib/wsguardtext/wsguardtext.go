// Package wsguardtext normalises the text of messages, for the package sanitize of wsguard. It is a
// module of its own because it needs golang.org/x/text.
package wsguardtext

import "golang.org/x/text/unicode/norm"

// NFC returns text in Unicode's Normalization Form C. Text that looks the same then mostly has the
// same bytes, whether a keyboard has written "é" as one character or as two. NFC is a sanitize.Func.
// It never returns an error, and it returns text itself if that is in the form.
//
//	sanitize.At(sanitize.Chain(sanitize.RemoveControls, sanitize.Trim, wsguardtext.NFC), "/text")
//
// Let NFC be the last of a chain, because what others remove may have stood between two characters
// that it joins. The result can be longer than text, up to three times as long. NFC puts a U+034F
// into a run of more than 30 combining characters, as the Stream-Safe Text Format of Unicode Standard
// Annex 15 has it.
//
// NFC does not make names safe to compare. Letters of different scripts look the same, and Unicode
// Technical Standard 39 says what to do about them.
func NFC(text []byte) ([]byte, error) { return norm.NFC.Bytes(text), nil }
