// Package jsontexttest holds the strict scanner of internal/jsonschema against jsontext, the reader of what may become
// encoding/json/v2. It is a module of its own, since the core may not depend on jsontext.
package jsontexttest
