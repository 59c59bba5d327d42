// Package jsonv6test compares the schema engine of internal/jsonschema with github.com/santhosh-tekuri/jsonschema/v6. It is
// a module of its own, because the core must not depend on v6.
package jsonv6test
