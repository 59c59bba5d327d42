// Package sanitize has ready-made functions for MessageConfig.Sanitize of wsguard. They change or
// refuse the text of some of the strings in a JSON message.
//
//	Messages: wsguard.MessageConfig{
//		Validator: table,
//		Sanitize: sanitize.ByKind(map[string]sanitize.Message{
//			"say":    sanitize.At(sanitize.Chain(sanitize.RemoveControls, sanitize.Trim), "/text"),
//			"invite": sanitize.At(sanitize.RefuseControls, "/room", "/guests/*/name"),
//		}),
//	},
//
// A [Func] judges one text. [At] applies it to the strings at some places of a message, and is a
// [Message]. [Chain] joins Funcs, [All] joins Messages, and [ByKind] chooses one by the type of the
// message. Unicode normalisation is in contrib/wsguardtext.
//
// Sanitising does not replace output encoding. A sanitised text may still be read as markup, as SQL
// or as a part of a URL. The program that puts it into a page, a query or a URL must encode it.
package sanitize

import "slices"

// A Func returns what a text becomes, or an error that refuses the message. The text is valid
// UTF-8 without the escapes of JSON, and the result must be valid UTF-8 too. A Func may return text
// itself or a part of it. It must neither change text nor keep it. Many goroutines call it at the
// same time.
//
// The reason of the refusal is the one that the error wraps, such as reason.Forbidden. Without one
// it is reason.Schema.
type Func func(text []byte) ([]byte, error)

// Message is the type of MessageConfig.Sanitize. The functions of this package return msg itself if
// nothing in it changes. They neither change msg nor keep it.
type Message = func(kind string, msg []byte) ([]byte, error)

// String makes a Func of a function for strings, such as the method Sanitize of a policy of
// bluemonday. It panics if f is nil.
func String(f func(string) string) Func {
	if f == nil {
		panic("sanitize: String of nil")
	}
	return func(text []byte) ([]byte, error) {
		s := string(text)
		if out := f(s); out != s {
			return []byte(out), nil
		}
		return text, nil
	}
}

// Chain makes one Func of several. Each gets the result of the one before it, and the first error
// refuses the message. Order matters. A control may stand between a blank and the end of the text, so
// Trim comes after RemoveControls. A character that others remove may stand between two characters
// that NFC joins, so NFC comes last.
//
// Chain panics if one of fns is nil.
func Chain(fns ...Func) Func {
	fns = slices.Clone(fns)
	if slices.ContainsFunc(fns, func(f Func) bool { return f == nil }) {
		panic("sanitize: Chain with nil")
	}
	return func(text []byte) (_ []byte, err error) {
		for _, f := range fns {
			if text, err = f(text); err != nil {
				return nil, err
			}
		}
		return text, nil
	}
}

// All makes one Message of several, for a message whose places need different Funcs. Each gets
// the result of the one before it, and the first error refuses the message.
//
// All panics if one of messages is nil.
func All(messages ...Message) Message {
	messages = slices.Clone(messages)
	if slices.ContainsFunc(messages, func(m Message) bool { return m == nil }) {
		panic("sanitize: All with nil")
	}
	return func(kind string, msg []byte) (_ []byte, err error) {
		for _, m := range messages {
			if msg, err = m(kind, msg); err != nil {
				return nil, err
			}
		}
		return msg, nil
	}
}

// ByKind applies the Message of its type to each message. The type is the one that Conn.Kind of
// wsguard returns, such as "say". It is "*" for the rule Default of a Table, and "" without a Table.
// A message whose type is not in kinds stays as it is.
//
// ByKind copies kinds. It panics if one of them is nil.
func ByKind(kinds map[string]Message) Message {
	own := make(map[string]Message, len(kinds))
	for kind, m := range kinds {
		if m == nil {
			panic("sanitize: ByKind with nil for " + kind)
		}
		own[kind] = m
	}
	return func(kind string, msg []byte) ([]byte, error) {
		if m := own[kind]; m != nil {
			return m(kind, msg)
		}
		return msg, nil
	}
}
