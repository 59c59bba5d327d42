// Package jsonschema judges a raw JSON message that a stranger sent.
//
// Two things are done, and each can be had alone. [Scan] is a strict reader of RFC 8259: it accepts what every parser
// reads in the same way and refuses the rest (duplicate keys, lone surrogates, invalid UTF-8, huge numbers, …), in one
// pass and without an allocation. [Schema.Validate] holds the message against a JSON Schema of draft 4, 6, 7, 2019-09 or
// 2020-12 in the same pass.
//
// # From a schema to a program
//
// github.com/santhosh-tekuri/jsonschema/v5 checks a schema against its metaschema and resolves its references, and it
// does that well (lint.go adds what it lets pass). Its validation is not safe on hostile input: it has no limit on time
// or depth and takes no context, nine bytes make it panic, a message of 109 bytes keeps it busy for seconds, and it
// builds error texts out of the peer's keys. It is the oracle of the tests.
//
// The tree that v5 has compiled becomes a tree of our own nodes (program.go), and that becomes the program (compile.go),
// whose steps are joins: all that judges the same value without a choice, by $ref and allOf, is one step. The engine
// (engine.go, rules.go, lex.go) walks the bytes by them once. It guesses the next name by the order that names had in
// other messages, and looks others up in tables that were laid out when the schema was read. Where an anyOf or oneOf
// leaves one branch, by the first byte of a value, by a member such as type, or by which names there are, that branch is
// part of the pass, too (branch.go). What remains (not, if, contains, uniqueItems, several possible branches) reads the
// same bytes again; each time costs fuel, and recursive steps keep their verdicts. What depends on the way to a schema
// ($dynamicRef through several resources) or on the outcome of branches (unevaluatedProperties beside anyOf) is handed to
// an evaluator over a decoded value (eval.go), after the strict pass and for that value alone.
//
// A message that is accepted or refused allocates nothing, unless that evaluator is asked or one of the rarer formats.
package jsonschema
