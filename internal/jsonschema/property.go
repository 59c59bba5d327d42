package jsonschema

import (
	"strings"
	"sync"
	"unicode"
)

// properties has the sets of the properties that were asked for.
var properties sync.Map

// property returns the set that \p{expr} means in ECMA-262, or a reason why there is none. ECMA-262 compares names to the
// letter. The tables are those of package unicode, whose version of Unicode may be older than that of a browser.
func property(expr string) (set runeSet, reason string) {
	if set, ok := properties.Load(expr); ok {
		return set.(runeSet), ""
	}
	if set, reason = findProperty(expr); reason == "" {
		properties.Store(expr, set) // there are only so many names
	}
	return set, reason
}

func findProperty(expr string) (set runeSet, reason string) {
	name, value, valued := strings.Cut(expr, "=")
	if !valued {
		if set := category(name); set != nil {
			return set, ""
		}
		return binaryProperty(name)
	}
	script := unicode.Scripts[value]
	if long := scriptCodes()[value]; long != "" {
		script = unicode.Scripts[long]
	}
	switch name {
	case "General_Category", "gc":
		if set := category(value); set != nil {
			return set, ""
		}
		return nil, "ECMA-262 has no such general category"
	case "Script", "sc":
		if script != nil {
			return tableSet(script), ""
		}
		return nil, "ECMA-262 has no such script, or Go has no table of it; a script is named as in Grek or Greek"
	case "Script_Extensions", "scx":
		return nil, "neither Go nor RE2 has a table of script extensions; Script= has the characters of one script only"
	}
	return nil, "ECMA-262 has no such property; General_Category, Script and Script_Extensions have values"
}

func category(name string) runeSet {
	if short := unicode.CategoryAliases[name]; short != "" {
		name = short
	}
	if t := unicode.Categories[name]; t != nil {
		return tableSet(t)
	}
	return nil
}

// binaryNames has the binary properties of ECMA-262 that Go's tables give, by their short names. Those without a short
// name have their own.
var binaryNames = map[string]string{
	"AHex": "ASCII_Hex_Digit", "Bidi_C": "Bidi_Control", "Dash": "Dash", "Dep": "Deprecated", "Dia": "Diacritic", "Ext": "Extender",
	"Hex": "Hex_Digit", "IDSB": "IDS_Binary_Operator", "IDST": "IDS_Trinary_Operator", "Ideo": "Ideographic", "Join_C": "Join_Control",
	"LOE": "Logical_Order_Exception", "NChar": "Noncharacter_Code_Point", "Pat_Syn": "Pattern_Syntax", "Pat_WS": "Pattern_White_Space",
	"QMark": "Quotation_Mark", "Radical": "Radical", "RI": "Regional_Indicator", "STerm": "Sentence_Terminal", "SD": "Soft_Dotted",
	"Term": "Terminal_Punctuation", "UIdeo": "Unified_Ideograph", "VS": "Variation_Selector", "space": "White_Space",
}

// derivedNames has the short names of the properties that Unicode derives from others.
var derivedNames = map[string]string{
	"Alpha": "Alphabetic", "Lower": "Lowercase", "Upper": "Uppercase", "IDS": "ID_Start", "IDC": "ID_Continue", "DI": "Default_Ignorable_Code_Point",
}

func binaryProperty(name string) (set runeSet, reason string) {
	if long := derivedNames[name]; long != "" {
		name = long
	}
	if set := derived(name); set != nil {
		return set, ""
	}
	if long := binaryNames[name]; long != "" {
		name = long
	}
	switch {
	case binaryLong()[name]:
		return tableSet(unicode.Properties[name]), ""
	case regexProperties().binary[name]:
		return nil, "neither Go nor RE2 has a table of this property"
	case unicode.Scripts[name] != nil:
		return nil, "ECMA-262 writes a script as Script=" + name
	}
	return nil, "ECMA-262 has no such property"
}

var binaryLong = sync.OnceValue(func() map[string]bool {
	names := map[string]bool{}
	for _, long := range binaryNames {
		names[long] = true
	}
	return names
})

// derived returns a property that Unicode's DerivedCoreProperties.txt derives from the general categories and from
// properties of Go's tables, or nil.
func derived(name string) runeSet {
	cat := func(names ...string) (set runeSet) {
		for _, n := range names {
			set = set.union(tableSet(unicode.Categories[n]))
		}
		return set
	}
	prop := func(n string) runeSet { return tableSet(unicode.Properties[n]) }
	syntax := func() runeSet { return prop("Pattern_Syntax").union(prop("Pattern_White_Space")) }
	switch name {
	case "ASCII":
		return runeSet{0, 0x7F}
	case "Any":
		return allRunes
	case "Assigned":
		return cat("Cn").negated()
	case "Lowercase":
		return cat("Ll").union(prop("Other_Lowercase"))
	case "Uppercase":
		return cat("Lu").union(prop("Other_Uppercase"))
	case "Cased":
		return derived("Lowercase").union(derived("Uppercase")).union(cat("Lt"))
	case "Alphabetic":
		return derived("Lowercase").union(derived("Uppercase")).union(cat("Lt", "Lm", "Lo", "Nl")).union(prop("Other_Alphabetic"))
	case "Math":
		return cat("Sm").union(prop("Other_Math"))
	case "ID_Start":
		return cat("L", "Nl").union(prop("Other_ID_Start")).minus(syntax())
	case "ID_Continue":
		return derived("ID_Start").union(cat("Mn", "Mc", "Nd", "Pc")).union(prop("Other_ID_Continue")).minus(syntax())
	case "Default_Ignorable_Code_Point":
		visible := prop("White_Space").union(prop("Prepended_Concatenation_Mark")).union(runeSet{0xFFF9, 0xFFFB}).union(runeSet{0x13430, 0x13440})
		return prop("Other_Default_Ignorable_Code_Point").union(cat("Cf")).union(prop("Variation_Selector")).minus(visible)
	}
	return nil
}

// scriptCodes has the names of the scripts by their codes, as Unicode's PropertyValueAliases.txt has them.
var scriptCodes = sync.OnceValue(func() map[string]string {
	codes := map[string]string{}
	for _, pair := range strings.Split(scriptPairs, ", ") {
		code, name, _ := strings.Cut(pair, " ")
		codes[code] = name
	}
	return codes
})

const scriptPairs = "Adlm Adlam, Aghb Caucasian_Albanian, Arab Arabic, Armi Imperial_Aramaic, Armn Armenian, Avst Avestan, " +
	"Bali Balinese, Bamu Bamum, Bass Bassa_Vah, Batk Batak, Beng Bengali, Bhks Bhaiksuki, Bopo Bopomofo, " +
	"Brah Brahmi, Brai Braille, Bugi Buginese, Buhd Buhid, Cakm Chakma, Cans Canadian_Aboriginal, Cari Carian, " +
	"Cher Cherokee, Chrs Chorasmian, Copt Coptic, Cpmn Cypro_Minoan, Cprt Cypriot, Cyrl Cyrillic, Deva Devanagari, " +
	"Diak Dives_Akuru, Dogr Dogra, Dsrt Deseret, Dupl Duployan, Egyp Egyptian_Hieroglyphs, Elba Elbasan, " +
	"Elym Elymaic, Ethi Ethiopic, Geor Georgian, Glag Glagolitic, Gong Gunjala_Gondi, Gonm Masaram_Gondi, " +
	"Goth Gothic, Gran Grantha, Grek Greek, Gujr Gujarati, Guru Gurmukhi, Hang Hangul, Hani Han, Hano Hanunoo, " +
	"Hatr Hatran, Hebr Hebrew, Hira Hiragana, Hluw Anatolian_Hieroglyphs, Hmng Pahawh_Hmong, " +
	"Hmnp Nyiakeng_Puachue_Hmong, Hung Old_Hungarian, Ital Old_Italic, Java Javanese, Kali Kayah_Li, Kana Katakana, " +
	"Khar Kharoshthi, Khmr Khmer, Khoj Khojki, Kits Khitan_Small_Script, Knda Kannada, Kthi Kaithi, Lana Tai_Tham, " +
	"Laoo Lao, Latn Latin, Lepc Lepcha, Limb Limbu, Lina Linear_A, Linb Linear_B, Lyci Lycian, Lydi Lydian, " +
	"Mahj Mahajani, Maka Makasar, Mand Mandaic, Mani Manichaean, Marc Marchen, Medf Medefaidrin, Mend Mende_Kikakui, " +
	"Merc Meroitic_Cursive, Mero Meroitic_Hieroglyphs, Mlym Malayalam, Mong Mongolian, Mroo Mro, Mtei Meetei_Mayek, " +
	"Mult Multani, Mymr Myanmar, Nagm Nag_Mundari, Nand Nandinagari, Narb Old_North_Arabian, Nbat Nabataean, " +
	"Nkoo Nko, Nshu Nushu, Ogam Ogham, Olck Ol_Chiki, Orkh Old_Turkic, Orya Oriya, Osge Osage, Osma Osmanya, " +
	"Ougr Old_Uyghur, Palm Palmyrene, Pauc Pau_Cin_Hau, Perm Old_Permic, Phag Phags_Pa, Phli Inscriptional_Pahlavi, " +
	"Phlp Psalter_Pahlavi, Phnx Phoenician, Plrd Miao, Prti Inscriptional_Parthian, Qaac Coptic, Qaai Inherited, " +
	"Rjng Rejang, Rohg Hanifi_Rohingya, Runr Runic, Samr Samaritan, Sarb Old_South_Arabian, Saur Saurashtra, " +
	"Sgnw SignWriting, Shaw Shavian, Shrd Sharada, Sidd Siddham, Sind Khudawadi, Sinh Sinhala, Sogd Sogdian, " +
	"Sogo Old_Sogdian, Sora Sora_Sompeng, Soyo Soyombo, Sund Sundanese, Sylo Syloti_Nagri, Syrc Syriac, " +
	"Tagb Tagbanwa, Takr Takri, Tale Tai_Le, Talu New_Tai_Lue, Taml Tamil, Tang Tangut, Tavt Tai_Viet, Telu Telugu, " +
	"Tfng Tifinagh, Tglg Tagalog, Thaa Thaana, Tibt Tibetan, Tirh Tirhuta, Tnsa Tangsa, Ugar Ugaritic, Vaii Vai, " +
	"Vith Vithkuqi, Wara Warang_Citi, Wcho Wancho, Xpeo Old_Persian, Xsux Cuneiform, Yezi Yezidi, Yiii Yi, " +
	"Zanb Zanabazar_Square, Zinh Inherited, Zyyy Common"
