// Package jsonschema judges a raw JSON message that a stranger sent.
//
// The package does two things, and each can be used alone. [Scan] is a strict reader of RFC 8259. It accepts a message
// that every parser reads in the same way. It refuses any other, such as one with duplicate keys, lone surrogates,
// invalid UTF-8 or huge numbers. It makes one pass and allocates nothing. [Schema.Validate] also compares the message
// with a JSON Schema of draft 4, 6, 7, 2019-09 or 2020-12, in the same pass.
//
// # From a schema to a program
//
// github.com/santhosh-tekuri/jsonschema/v5 checks a schema against its metaschema and resolves its references. It does
// that well, and lint.go finds the faults that it lets pass. Its validation is not safe on hostile input. It has no limit
// on time or depth and takes no context. Nine bytes make it panic, and a message of 109 bytes keeps it busy for seconds.
// It builds error texts out of the peer's keys. It is the oracle of the tests.
//
// The tree that v5 has compiled becomes a tree of our own nodes (program.go), and that becomes the program (compile.go).
// A step of the program joins all schema objects that judge the same value without a choice, by $ref and allOf. The
// engine (engine.go, rules.go, lex.go) walks the bytes by these steps once. It guesses the next name by the order that
// names had in other messages. It looks other names up in tables that were laid out when the schema was read. If only
// one branch of an anyOf or oneOf is possible, that branch is part of the same pass (branch.go). The first byte of the
// value decides that, or a member such as type, or the set of names that the object has.
//
// The other keywords (not, if, contains, uniqueItems, an anyOf with several possible branches) read the same bytes again.
// Each time costs fuel, and recursive steps keep their verdicts. Some schemas depend on the way that leads to them, by a
// $dynamicRef through several resources. Others depend on the outcome of branches, by an unevaluatedProperties next to an
// anyOf. An evaluator over a decoded value (eval.go) judges these values after the strict pass.
//
// A message that is accepted or refused allocates nothing, unless it needs that evaluator, or has a text for the format regex
// with named or deeply nested groups.
package jsonschema
