package main

import "strings"

// vectors are what has gone through other sanitisers, or was meant to: OWASP's
// cheat sheet, the cheat sheets of PortSwigger and Cure53, and the mutations that
// are known of DOMPurify, of Google Search's sanitiser and of bleach. XSS stands
// for a script that tells the browser test that it has run.
func vectors() []string {
	var vs []string
	for _, v := range []string{
		// Scripts.
		`<script>XSS</script>`,
		`<SCRIPT>XSS</SCRIPT>`,
		`<script src=data:,XSS></script>`,
		`<scr<script>ipt>XSS</scr</script>ipt>`,
		`<script/x>XSS</script>`,
		`<script>XSS`,
		"<script\x00>XSS</script>",
		"<\x00script>XSS</script>",
		`<<script>XSS//<</script>`,

		// Handlers.
		`<img src=x onerror=XSS>`,
		`<IMG SRC=x ONERROR="XSS">`,
		`<img src=x onerror=XSS//`,
		"<img src=x\tonerror\n=XSS>",
		`<img/src=x/onerror=XSS>`,
		`<img src="x"onerror="XSS">`,
		`<img """><img src=x onerror=XSS>">`,
		`<img src=x:x onerror=&#102;etch(/pwned/.source)>`,
		`<b onmouseover=XSS>x</b>`,
		`<p onclick="XSS">x</p>`,
		`<body onload=XSS>`,
		`<input autofocus onfocus=XSS>`,
		`<details open ontoggle=XSS>x</details>`,
		`<video><source onerror=XSS></video>`,
		`<audio src=x onerror=XSS>`,
		`<marquee onstart=XSS>x</marquee>`,
		`<a href="https://example.com/" onclick=XSS autofocus tabindex=1 onfocus=XSS>x</a>`,
		`<a href="https://example.com/&quot; onfocus=XSS autofocus tabindex=1 x=&quot;">x</a>`,
		`<a href='https://example.com/"onfocus=XSS autofocus tabindex=1 x="'>x</a>`,
		"<a href=https://example.com/`onfocus=XSS autofocus tabindex=1>x</a>",

		// Links.
		`<a href="javascript:XSS">x</a>`,
		`<a href=" JaVaScRiPt:XSS">x</a>`,
		"<a href=\"java\tscript:XSS\">x</a>",
		"<a href=\"java\nscript:XSS\">x</a>",
		"<a href=\"\x01javascript:XSS\">x</a>",
		`<a href="&#106;avascript:XSS">x</a>`,
		`<a href="javascript&colon;XSS">x</a>`,
		`<a href="&#x6A&#x61&#x76&#x61&#x73&#x63&#x72&#x69&#x70&#x74&#x3A;XSS">x</a>`,
		`<a href="data:text/html,<script>XSS</script>">x</a>`,
		`<a href="data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==">x</a>`,
		`<a href="vbscript:XSS">x</a>`,
		`<a href="blob:http://localhost/x">x</a>`,
		`<a href="//evil.example/">x</a>`,
		`<a href="http:javascript:XSS">x</a>`,
		`<a href=javascript:XSS>x</a>`,
		`<a xlink:href="javascript:XSS">x</a>`,
		`<a href="https://example.com" href="javascript:XSS">x</a>`,

		// What else loads or changes something.
		`<iframe srcdoc="<script>XSS</script>"></iframe>`,
		`<iframe src="javascript:XSS"></iframe>`,
		`<object data="javascript:XSS"></object>`,
		`<embed src="javascript:XSS">`,
		`<base href="https://evil.example/">`,
		`<meta http-equiv=refresh content="0;url=javascript:XSS">`,
		`<link rel=stylesheet href=https://evil.example/x.css>`,
		`<form action=https://evil.example/><button>x</button></form>`,
		`<form id=form><input name=innerHTML></form>`,
		`<style>@import 'https://evil.example/x.css';</style>`,
		`<b style="background:url(https://evil.example/)">x</b>`,
		`<b style="position:fixed;inset:0">x</b>`,
		`<b id=messages class=name>guest 1</b>`,
		`<template><img src=x onerror=XSS></template>`,
		`<isindex type=image src=x onerror=XSS>`,

		// SVG and MathML.
		`<svg onload=XSS>`,
		`<svg/onload=XSS>`,
		`<svg><script>XSS</script></svg>`,
		`<svg><script>&#102;etch(/pwned/.source)</script></svg>`,
		`<svg><a xlink:href="javascript:XSS"><text y=1em>x</text></a></svg>`,
		`<svg><animate onbegin=XSS attributeName=x dur=1s>`,
		`<svg><set attributeName=href to=javascript:XSS></svg>`,
		`<svg><foreignObject><img src=x onerror=XSS></foreignObject></svg>`,
		`<math href="javascript:XSS">x</math>`,
		`<math><maction actiontype=statusline xlink:href="javascript:XSS">x</maction></math>`,

		// Broken, nested, and out of context.
		`</div></li></ul><img src=x onerror=XSS>`,
		`</body></html><script>XSS</script>`,
		`<b><i></b><img src=x onerror=XSS></i>`,
		`<a href="https://example.com/"><a href="javascript:XSS">x</a></a>`,
		`<p <img src=x onerror=XSS>`,
		`<p title="</p><img src=x onerror=XSS>">`,
		`<!--><img src=x onerror=XSS>-->`,
		`<!--!><img src=x onerror=XSS>`,
		`<!-- --!><img src=x onerror=XSS> -->`,
		`<!DOCTYPE x [<!ENTITY y "<img src=x onerror=XSS>">]>&y;`,
		`<![CDATA[<img src=x onerror=XSS>]]>`,
		`<?xml version="1.0"?><img src=x onerror=XSS>`,
		`<textarea></textarea><img src=x onerror=XSS></textarea>`,
		`<title><img src=x onerror=XSS></title>`,
		`<plaintext><img src=x onerror=XSS>`,
		`&lt;img src=x onerror=XSS&gt;`,
		`&amp;lt;img src=x onerror=XSS&amp;gt;`,
		"\ufeff<script>XSS</script>",
		"<img src=x onerror=XSS\u2028>",
		`＜img src=x onerror=XSS＞`,

		// Mutations: one thing to the sanitiser, another to the browser.
		`<noscript><p title="</noscript><img src=x onerror=XSS>"></noscript>`,
		`<svg></p><style><a id="</style><img src=x onerror=XSS>">`,
		`<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=x onerror=XSS&gt;">`,
		`<form><math><mtext></form><form><mglyph><style></math><img src=x onerror=XSS>`,
		`<math><annotation-xml encoding="text/html"><style><img src=x onerror=XSS></style></annotation-xml></math>`,
		`<svg><style><img src=x onerror=XSS></style></svg>`,
		`<svg><desc><noembed><img title="</noembed><img src=x onerror=XSS>"></desc></svg>`,
		`<select><iframe><select><img src=x onerror=XSS></select></iframe></select>`,
		`<select><style></select><img src=x onerror=XSS></style>`,
		`<xmp><p title="</xmp><img src=x onerror=XSS>">`,
		`<noframes><p title="</noframes><img src=x onerror=XSS>">`,
		`<table><td><a href="https://example.com/"><table><img src=x onerror=XSS></table></a></td></table>`,
		"<listing>\n\n&lt;img src=x onerror=XSS&gt;</listing>",
		"<pre>\n\n&lt;img src=x onerror=XSS&gt;</pre>",
		"<img alt=\"``onerror=XSS\" src=x>",
		`<template><svg><style></template><img src=x onerror=XSS></style></svg>`,
		strings.Repeat("<b>", 400) + `<img src=x onerror=XSS>`,
		strings.Repeat("<blockquote>", 300) + `<svg><style><img src=x onerror=XSS>`,
	} {
		vs = append(vs, strings.ReplaceAll(v, "XSS", "fetch(/pwned/.source)"))
	}
	return vs
}
