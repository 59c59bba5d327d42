package jsonschema

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Preset is a set of tools whose schemas are read as the tools mean them.
type Preset uint8

// The presets, in the order of the list below.
const (
	PresetOpenAPI30 Preset = 1 << iota
	PresetOpenAPI31
	PresetAJV
	PresetZod
	PresetPydantic
	PresetSchemars
)

// presetNames has the names of the presets in SchemaPresets of the root, in the same order.
var presetNames = [...]string{"OpenAPI30", "OpenAPI31", "AJV", "Zod", "Pydantic", "Schemars"}

// presetsWith returns the names of the presets that know something.
func presetsWith(knows func(*preset) bool) (names []string) {
	for i := range presets {
		if knows(&presets[i]) {
			names = append(names, presetNames[i])
		}
	}
	return names
}

func presetsWithWord(word string) []string {
	return presetsWith(func(p *preset) bool {
		return slices.Contains(p.words, word) || p.nullable && word == "nullable"
	})
}

func presetsWithFormat(name string) []string {
	return presetsWith(func(p *preset) bool {
		return slices.Contains(p.silent, name) || p.formats[name] != nil || p.numbers[name] != nil
	})
}

// A preset has what a tool writes besides JSON Schema. Words and formats that assert something are not among those that
// say nothing: the preset gives them their meaning, or they stay errors.
type preset struct {
	words    []string // say nothing
	silent   []string // formats that say nothing
	formats  map[string]*format
	numbers  map[string]*numericFormat
	patterns map[string]string // patterns with lookaround, and others that mean the same
	nullable bool
	openapi  string
}

func (p *preset) add(v *vocabulary) {
	for _, word := range p.words {
		v.words[word] = true
	}
	for _, name := range p.silent {
		v.silent[name] = true
	}
	maps.Copy(v.formats, p.formats)
	maps.Copy(v.numbers, p.numbers)
	maps.Copy(v.patterns, p.patterns)
	v.nullable = v.nullable || p.nullable
	if p.openapi != "" {
		v.openapi = p.openapi
	}
}

// openAPI is the part that both versions of OpenAPI have. The discriminator checks nothing. The oneOf, anyOf or
// allOf of the same schema decides which values are accepted.
func openAPI(version string) preset {
	return preset{
		words:    []string{"discriminator", "xml", "externalDocs", "example"},
		silent:   []string{"binary", "password"},
		formats:  map[string]*format{"byte": {isBase64, 1}, "base64url": {isBase64URL, 1}},
		nullable: version == "3.0",
		openapi:  version,
		numbers: map[string]*numericFormat{"int8": signed8, "int16": signed16, "int32": signed32, "int64": signed64,
			"uint8": unsigned8, "uint16": unsigned16, "uint32": unsigned32, "uint64": unsigned64, "float": single, "double": double},
	}
}

var presets = [...]preset{
	openAPI("3.0"),
	openAPI("3.1"),
	{ // ajv 8 with ajv-formats and ajv-errors
		words:  []string{"discriminator", "errorMessage"},
		silent: []string{"password", "binary"},
		formats: map[string]*format{"byte": {isBase64, 1}, "iso-time": {isISOTime, 1}, "iso-date-time": {isISODateTime, 1}, "url": {isURL, 8},
			"json-pointer-uri-fragment": {isPointerFragment, 1}},
		numbers:  map[string]*numericFormat{"int32": signed32, "int64": signed64, "float": single, "double": double},
		nullable: true,
	},
	{ // zod 4, and zod-to-json-schema
		words:   []string{"id", "errorMessage", "markdownDescription"},
		silent:  []string{"binary"},
		formats: zodFormats,
		numbers: map[string]*numericFormat{"unix-time": signed64},
		patterns: map[string]string{
			`^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$`://
			`^([A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$`,
			`^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$`://
			`^P(\d+W|(\d+Y(\d+M)?(\d+D)?|\d+M(\d+D)?|\d+D)` + zodTime + `?|` + zodTime + `)$`,
			`^(\p{Extended_Pictographic}|\p{Emoji_Component})+$`: emojiPattern(),
		},
	},
	{ // pydantic 2
		words:  []string{"discriminator"},
		silent: []string{"binary", "password", "path", "file-path", "directory-path", "phone"},
		patterns: map[string]string{
			`^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$`: `^[+-]?(\d+\.?\d*|\.\d+)$`, // of a Decimal
		},
		formats: map[string]*format{"uuid1": {isUUIDOf('1'), 1}, "uuid3": {isUUIDOf('3'), 1}, "uuid4": {isUUIDOf('4'), 1}, "uuid5": {isUUIDOf('5'), 1},
			"uuid6": {isUUIDOf('6'), 1}, "uuid7": {isUUIDOf('7'), 1}, "uuid8": {isUUIDOf('8'), 1},
			"json-string": {isJSONText, 32}, "base64": {isBase64, 1}, "base64url": {isBase64URL, 1}, "decimal": {double.holdsText, 16},
			"ipv4network": {isIPv4Network, 1}, "ipv6network": {isIPv6Network, 1}, "ipvanynetwork": {anyOf(isIPv4Network, isIPv6Network), 2},
			"ipv4interface": {isIPv4Network, 1}, "ipv6interface": {isIPv6Network, 1}, "ipvanyinterface": {anyOf(isIPv4Network, isIPv6Network), 2},
			"ipvanyaddress": {anyOf(isIPv4, isIPv6), 2}},
	},
	{ // schemars 0.8 and 1
		formats: map[string]*format{"ip": {anyOf(isIPv4, isIPv6), 2}, "partial-date-time": {isLocalDateTime, 1}, "partial-time": {isLocalTime, 1}},
		numbers: map[string]*numericFormat{"int8": signed8, "int16": signed16, "int32": signed32, "int64": signed64, "int128": signed128, "int": signed64,
			"uint8": unsigned8, "uint16": unsigned16, "uint32": unsigned32, "uint64": unsigned64, "uint128": unsigned128, "uint": unsigned64,
			"float": single, "double": double},
		nullable: true,
	},
}

// zodTime is the part of zod's durations that is smaller than a day.
const zodTime = `(T(\d+H(\d+M)?(\d+([.,]\d+)?S)?|\d+M(\d+([.,]\d+)?S)?|\d+([.,]\d+)?S))`

// emojiPattern returns the pattern of zod's emoji without properties that RE2 does not have.
func emojiPattern() string {
	var b strings.Builder
	b.WriteString("^[")
	for i := 0; i < len(emojiRanges); i += 2 {
		fmt.Fprintf(&b, "%c-%c", emojiRanges[i], emojiRanges[i+1])
	}
	b.WriteString("]+$")
	return b.String()
}

// zodFormats has the string formats of zod. It has times without a zone, and durations of ISO 8601-1. zod writes a pattern
// beside most of its formats, which holds as well.
var zodFormats = map[string]*format{
	"guid": {isUUID, 1}, "cuid": {isCUID, 1}, "cuid2": {isCUID2, 1}, "ulid": {isULID, 1}, "xid": {isXID, 1}, "ksuid": {isKSUID, 1},
	"nanoid": {isNanoID, 1}, "emoji": {isEmoji, 8}, "jwt": {isJWT, 1}, "base64": {isBase64, 1}, "base64url": {isBase64URL, 1},
	"date-time": {anyOf(isDateTime, isLocalDateTime), 2}, "time": {isISOTime, 2}, "duration": {isZodDuration, 1},
	"cidrv4": {isIPv4Network, 1}, "cidrv6": {isIPv6Network, 1}, "e164": {isE164, 1}, "json-string": {isJSONText, 32},
}

func anyOf(a, b func([]byte) bool) func([]byte) bool {
	return func(s []byte) bool { return a(s) || b(s) }
}

// digitsOnly reports whether all of s is decimal digits.
func digitsOnly(s []byte) bool {
	for _, c := range s {
		if c-'0' > 9 {
			return false
		}
	}
	return true
}

// only reports whether s has from least to most bytes that are letters, digits or one of others.
func only(s []byte, least, most int, others string) bool {
	if len(s) < least || len(s) > most {
		return false
	}
	for _, c := range s {
		if !isLetter(c) && c-'0' > 9 && (others == "" || bytes.IndexByte([]byte(others), c) < 0) {
			return false
		}
	}
	return true
}
