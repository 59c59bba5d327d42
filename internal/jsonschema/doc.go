// Package jsonschema judges a raw JSON message that a stranger sent.
//
// Two things are done, and each can be had alone. [Scan] is a strict reader of RFC 8259: it accepts what every parser
// reads in the same way and refuses the rest (duplicate keys, lone surrogates, invalid UTF-8, huge numbers, …), in one
// pass and without an allocation. [Schema.Validate] scans, and then holds the message against a JSON Schema of draft 4,
// 6, 7, 2019-09 or 2020-12.
//
// # Why there is an evaluator of our own
//
// github.com/santhosh-tekuri/jsonschema/v5 checks a schema against its metaschema and resolves its references, and it
// does that well. Its validation is not safe on hostile input: it has no limit on time or depth and takes no context,
// nine bytes make it panic, a message of 109 bytes keeps it busy for seconds, and it builds error texts out of the
// peer's keys. Its extension hook cannot bound it, since an extension runs when a node is done, and not at all where the
// type is wrong; by then v5 has copied the set of the object's keys, compared every enum value through big.Rat, and
// formatted its errors.
//
// So the compiled tree of v5 becomes a tree of our own nodes, and those are walked here: one step costs one unit of
// fuel, nothing is formatted before somebody asks, and the first fault ends the walk. v5's own Validate is the oracle of
// the tests. The same nodes are what a later engine over raw bytes starts from.
package jsonschema
