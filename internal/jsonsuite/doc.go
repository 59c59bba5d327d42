// Package jsonsuite carries the official JSON-Schema-Test-Suite, so that every clone of this repository can run it. It
// has no code. The tests of internal/jsonschema and internal/jsontexttest read the files under testdata by their path.
//
// It is a module of its own because the suite is larger than the library. The zip file of the library's module, which
// the go command downloads, therefore has no suite, and the tests that need it skip there.
//
// The files under testdata are those of https://github.com/json-schema-org/JSON-Schema-Test-Suite at commit
// 44401e0c046704b476ec9d2e2fccdaee618f259d, unchanged, under the MIT license in testdata/LICENSE: the tests of the drafts
// 4, 6, 7, 2019-09 and 2020-12, the optional ones included, and the remotes that they refer to. To update them, replace
// the folders tests and remotes, and this commit.
package jsonsuite
