package wsguard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"strings"

	"github.com/wsguard/wsguard/internal/jsonschema"
)

// SchemaConfig compiles schemas that refer to other schemas, and schemas that tools have
// written. It also has checks that a JSON Schema cannot express. The zero value compiles as
// CompileSchema does.
type SchemaConfig struct {
	// Resources has schemas that references may lead to. A key is the absolute URL of its
	// schema, without a fragment. The default is none.
	Resources map[string][]byte

	// Files has schemas that references may lead to, such as an embed.FS. Each *.json file in
	// it is known by its path, so that {"$ref":"user.json"} leads to the file next to the one
	// with the reference. The path is resolved against BaseURL. A file is also known by the
	// absolute URL of its "$id", if it has one. Its references are relative to that URL then. A
	// reference that leads above the root of Files is an error. The default is none.
	Files fs.FS

	// BaseURL is the URL of the schema that Compile gets as bytes. Relative references in it
	// and the paths of Files are resolved against BaseURL. If it ends with a slash, it is the
	// URL of the directory that Files is. It must be absolute and have no fragment. Nothing is
	// ever loaded from it. The default, "", is the root of Files.
	BaseURL string

	// Presets says which tools have written the schemas. The default is none.
	Presets SchemaPresets

	// Annotations has words that say nothing in the schemas, such as "javaType". "java*" stands for
	// all words that begin with "java". Words that begin with x- always say nothing. All other words
	// that are not in the draft are errors, so that a misspelt keyword is found. A keyword of the
	// draft is an error here, because it would still be obeyed. The default is none.
	Annotations []string

	// FormatAnnotations has names of formats that say nothing in the schemas, such as
	// "password". All other formats that are not known are errors. A format that is checked is
	// an error here, because it would look as if the check were off. The default is none.
	FormatAnnotations []string

	// Formats has formats of your own, by name. They also replace the formats that this package
	// checks. The function of a format gets a string without the escapes of JSON, and returns
	// whether the string is of the format. If it is not, the message is refused with reason.Schema.
	// Values that are no strings pass the keyword format. If the function panics, the connection is
	// closed with 1011, as for a Validator. Many goroutines call it at the same time. Each call
	// allocates the string. The default is none.
	Formats map[string]func(string) bool

	// MaxDepth is how deeply arrays and objects may be nested in a message. The default is 64. The
	// largest value is 10,000, which is also the limit of encoding/json. It cannot be Off. A message
	// that exceeds MaxDepth or one of the next four limits closes the connection with 1008
	// json_limit, unless MessageConfig.OnInvalid says otherwise.
	MaxDepth int

	// MaxKeys is how many keys one object may have. The default is 256, and Off is no limit. More
	// keys take no more time per key. But the guard keeps about 40 bytes for each key of an object
	// that it is reading, and a program that decodes the message keeps more.
	MaxKeys int

	// MaxKeyBytes is how many bytes one key may have after unescaping. The default is 256, and Off
	// is no limit.
	MaxKeyBytes int

	// MaxNumberBytes is how many characters one number may have. The default is 64, and the largest
	// value is 4,096. It cannot be Off, because many programs take quadratic time for a long number.
	MaxNumberBytes int

	// MaxExponent is the absolute value that the exponent of a number may have. The default is 400,
	// and the largest value is 1,000,000. It cannot be Off. The guard never writes out the digits
	// of a number. But a program that does so, such as one that uses math/big, needs one digit for
	// each unit of the exponent.
	MaxExponent int

	// RefusePrototypeKeys refuses messages with the names __proto__, constructor and
	// prototype at any depth, because a program in JavaScript may merge them into its
	// objects. The default is false.
	RefusePrototypeKeys bool

	// RefuseCaseVariants refuses messages with names that differ from a declared one in
	// letter case only, because encoding/json takes such a name for the declared one. The
	// default is false.
	RefuseCaseVariants bool

	// RefuseControls refuses messages with control characters in strings, escaped or not.
	// These are C0 except tab and line ends, DEL, C1 and the bidi controls. They change what
	// a log or a page shows. The default is false.
	RefuseControls bool

	// AssertContent checks strings under "contentEncoding": "base64" and "contentMediaType":
	// "application/json". It has an effect in draft 7, 2019-09 and 2020-12. A message that does
	// not fit is refused like one that does not fit another keyword. Other encodings and media
	// types, and "contentSchema", check nothing. The default is false, and then these keywords
	// are annotations and check nothing either.
	AssertContent bool
}

// SchemaPresets says which tools have written a schema. Each preset has the words that its
// tool writes and that say nothing, and gives other words and formats their meaning. For example,
// nullable adds null to type, and the formats int32 and ulid are checked. A word that asserts something and is
// not supported stays an error. Several presets may be set. The table in docs/schemas.md
// lists the words and formats.
type SchemaPresets struct {
	// OpenAPI30 reads schemas of OpenAPI 3.0. Schemas without "$schema" are of draft 4, with
	// which OpenAPI 3.0 shares exclusiveMinimum: true. A reference may lead to the
	// components/schemas of an OpenAPI document among Files or Resources. The default is false.
	// OpenAPI30 and OpenAPI31 cannot both be set.
	OpenAPI30 bool

	// OpenAPI31 reads schemas of OpenAPI 3.1, and otherwise is like OpenAPI30. Schemas without
	// "$schema" are of draft 2020-12. The word nullable is an error, because OpenAPI 3.1 has
	// none. The default is false.
	OpenAPI31 bool

	// AJV reads schemas for ajv 8 with the packages ajv-formats and ajv-errors. The default is
	// false.
	AJV bool

	// Zod reads the schemas that zod 4 and zod-to-json-schema write. The default is false.
	Zod bool

	// Pydantic reads the schemas that pydantic 2 writes. The default is false.
	Pydantic bool

	// Schemars reads the schemas that the Rust crate schemars writes. The default is false.
	Schemars bool
}

// Compile is like CompileSchema, with this configuration.
func (c SchemaConfig) Compile(src []byte) (*Schema, error) { return c.compile(src, "") }

// CompileFile compiles the schema in the file of that path in Files, as Compile does. name has no
// slash in front, as everywhere in io/fs. References in the file are relative to its path.
func (c SchemaConfig) CompileFile(name string) (*Schema, error) {
	if c.Files == nil {
		return nil, &ConfigError{Field: "SchemaConfig.Files", Reason: "CompileFile needs files"}
	}
	src, err := fs.ReadFile(c.Files, name)
	if err != nil {
		return nil, fmt.Errorf("wsguard: schema: %w", err)
	}
	return c.compile(src, name)
}

func (c SchemaConfig) compile(src []byte, name string) (*Schema, error) {
	var f faults
	opt := c.options(&f)
	if err := f.err(); err != nil {
		return nil, err
	}
	base := c.base(&f)
	if err := f.err(); err != nil {
		return nil, err
	}
	if name != "" {
		opt.Base = fileURL(base, name)
	} else if c.BaseURL != "" {
		opt.Base = base.String()
	}
	if err := c.index(&opt, base, src); err != nil {
		return nil, fmt.Errorf("wsguard: schema: %w", err)
	}
	s, err := jsonschema.Compile(src, opt)
	if err != nil {
		return nil, fmt.Errorf("wsguard: schema: %w", err)
	}
	return &Schema{s: s}, nil
}

// options resolves everything that needs no look at a schema.
func (c SchemaConfig) options(f *faults) jsonschema.Options {
	opt := jsonschema.Options{
		Resources: c.Resources, RefuseCaseVariants: c.RefuseCaseVariants, AssertContent: c.AssertContent, Annotations: c.Annotations,
		FormatAnnotations: c.FormatAnnotations, Formats: maps.Clone(c.Formats), Presets: c.Presets.resolve(f),
		Limits: jsonschema.Limits{
			RefusePrototypeKeys: c.RefusePrototypeKeys, RefuseControls: c.RefuseControls,
			Depth:       jsonLimit(c.MaxDepth, 10000, false, "SchemaConfig.MaxDepth", f),
			Keys:        jsonLimit(c.MaxKeys, maxAmount, true, "SchemaConfig.MaxKeys", f),
			KeyBytes:    jsonLimit(c.MaxKeyBytes, maxAmount, true, "SchemaConfig.MaxKeyBytes", f),
			NumberBytes: jsonLimit(c.MaxNumberBytes, 4096, false, "SchemaConfig.MaxNumberBytes", f),
			Exponent:    jsonLimit(c.MaxExponent, 1000000, false, "SchemaConfig.MaxExponent", f),
		},
	}
	for _, word := range c.Annotations {
		if name := strings.TrimSuffix(word, "*"); name == "" || strings.Contains(name, "*") {
			f.add("SchemaConfig.Annotations", word, "must be a word, or the beginning of words and one * at its end")
		}
	}
	for _, name := range c.FormatAnnotations {
		if name == "" {
			f.add("SchemaConfig.FormatAnnotations", name, "an empty name")
		}
	}
	for name, format := range c.Formats {
		if name == "" || format == nil {
			f.add("SchemaConfig.Formats", name, "must have a name and a function")
		}
	}
	return opt
}

// jsonLimit returns a limit as package jsonschema takes it: 0 is its default, and -1 is no limit.
func jsonLimit(n, most int, off bool, field string, f *faults) int {
	switch {
	case n == Off && off, n >= 0 && n <= most:
	case off:
		f.add(field, n, fmt.Sprintf("must be from 1 to %d, 0 for the default, or Off", most))
	default:
		f.add(field, n, fmt.Sprintf("must be from 1 to %d, or 0 for the default: it cannot be switched off", most))
	}
	return n
}

func (p SchemaPresets) resolve(f *faults) (set jsonschema.Preset) {
	for preset, on := range map[jsonschema.Preset]bool{
		jsonschema.PresetOpenAPI30: p.OpenAPI30, jsonschema.PresetOpenAPI31: p.OpenAPI31, jsonschema.PresetAJV: p.AJV,
		jsonschema.PresetZod: p.Zod, jsonschema.PresetPydantic: p.Pydantic, jsonschema.PresetSchemars: p.Schemars,
	} {
		if on {
			set |= preset
		}
	}
	if p.OpenAPI30 && p.OpenAPI31 {
		f.add("SchemaConfig.Presets", "", "OpenAPI30 and OpenAPI31 exclude each other: nullable says something in one of them only")
	}
	return set
}

func (c SchemaConfig) base(f *faults) *url.URL {
	if c.BaseURL == "" {
		return &url.URL{Scheme: jsonschema.FileScheme, Path: "/"}
	}
	base, err := url.Parse(c.BaseURL)
	if err != nil || !base.IsAbs() || base.Opaque != "" || strings.Contains(c.BaseURL, "#") {
		f.add("SchemaConfig.BaseURL", c.BaseURL, "must be an absolute URL without a fragment")
		return nil
	}
	return base.ResolveReference(&url.URL{}) // without dots in its path, as references to it are resolved
}

// fileURL returns the URL of a file of Files.
func fileURL(base *url.URL, name string) string {
	return jsonschema.FileURL(base.ResolveReference(&url.URL{Path: name}).String())
}

// index finds the URLs of Files. src is the schema that is compiled.
func (c SchemaConfig) index(opt *jsonschema.Options, base *url.URL, src []byte) error {
	if c.Files == nil {
		return nil
	}
	opt.Files, opt.IDs = map[string][]byte{}, map[string]string{}
	var faults []error
	err := fs.WalkDir(c.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".json" {
			return err
		}
		file, err := fs.ReadFile(c.Files, name)
		if err != nil {
			return err
		}
		u := fileURL(base, name)
		opt.Files[u] = file
		if u == opt.Base && !bytes.Equal(file, src) {
			faults = append(faults, fmt.Errorf("%s: the file has the URL of the schema itself, %s", name, u))
		}
		id, err := schemaID(file)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
		if old, ok := opt.Resources[id]; ok && !bytes.Equal(old, file) {
			faults = append(faults, fmt.Errorf("%s: another schema has the same $id %s", name, id))
		} else if old, ok := opt.IDs[id]; ok && !bytes.Equal(opt.Files[old], file) {
			faults = append(faults, fmt.Errorf("%s: another schema has the same $id %s", name, id))
		} else if id != "" && !ok {
			opt.IDs[id] = u
		}
		return nil
	})
	return errors.Join(append(faults, err)...)
}

// schemaID returns the absolute URL that is the $id of a schema, or "".
func schemaID(src []byte) (string, error) {
	var doc map[string]json.RawMessage
	var other *json.UnmarshalTypeError
	if err := json.Unmarshal(src, &doc); errors.As(err, &other) {
		return "", nil // a boolean is a schema, too
	} else if err != nil {
		return "", err
	}
	raw, ok := doc["$id"]
	if !ok {
		raw = doc["id"] // draft 4
	}
	var id string
	if json.Unmarshal(raw, &id) != nil {
		return "", nil
	}
	id = strings.TrimSuffix(id, "#")
	if u, err := url.Parse(id); err != nil || !u.IsAbs() || u.Fragment != "" {
		return "", nil
	}
	return id, nil
}
