package wsguardtext_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"golang.org/x/text/unicode/norm"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardtext"
	"github.com/wsguard/wsguard/sanitize"
)

func TestNFC(t *testing.T) {
	for in, want := range map[string]string{
		"":                            "",
		"plain":                       "plain",
		"e\u0301":                     "é",
		"\u1112\u1161\u11ab":          "한",
		"q\u0307\u0323":               "q\u0323\u0307",
		"\u212b":                      "Å",
		"\U0001d15e":                  "\U0001d157\U0001d165", // a character that has no composed form
		"ﬁ":                           "ﬁ",                    // NFKC would change it
		strings.Repeat("\u0301", 40):  strings.Repeat("\u0301", 30) + "\u034f" + strings.Repeat("\u0301", 10),
		strings.Repeat("e\u0301", 40): strings.Repeat("é", 40),
	} {
		if out, err := wsguardtext.NFC([]byte(in)); err != nil || string(out) != want {
			t.Errorf("%+q: %+q %v, want %+q", in, out, err, want)
		}
	}
	text := []byte("déjà vu, 한글")
	if n := testing.AllocsPerRun(100, func() { wsguardtext.NFC(text) }); n != 0 {
		t.Errorf("%v allocations for a text that is normal", n)
	}
}

// The result is normal and UTF-8, a second time changes nothing, and it is at most three times as
// long.
func FuzzNFC(f *testing.F) {
	for _, s := range []string{"e\u0301", "\U0001d160", strings.Repeat("\u0301", 40), "\u0344", "\u1100\u1161\u11a8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		out, err := wsguardtext.NFC([]byte(s))
		if err != nil || !utf8.Valid(out) || !norm.NFC.IsNormal(out) || len(out) > 3*len(s) {
			t.Fatalf("%+q: %+q %v", s, out, err)
		}
		if again, _ := wsguardtext.NFC(out); string(again) != string(out) {
			t.Fatalf("%+q: %+q, and then %+q", s, out, again)
		}
	})
}

// The application gets the normal form, and the schema judges it.
func TestGuard(t *testing.T) {
	schema, err := wsguard.CompileSchema([]byte(`{"properties": {"text": {"type": "string", "maxLength": 2}}}`))
	if err != nil {
		t.Fatal(err)
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"}, InsecureAllowHTTP: true,
		Auth: wsguard.AuthConfig{InsecureAnonymous: true},
		Messages: wsguard.MessageConfig{
			Validator: schema, OnInvalid: wsguard.ActionReply,
			Sanitize: sanitize.At(sanitize.Chain(sanitize.RemoveControls, sanitize.Trim, wsguardtext.NFC), "/text"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if err := c.Write(ctx, typ, msg); err != nil {
				return err
			}
		}
	}))
	defer srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://app.example.com"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	for in, want := range map[string]string{
		`{"text":"e\u0301"}`:        `{"text":"\u00e9"}`,
		"{\"text\":\"e\u0301\"}":    `{"text":"é"}`,
		"{\"text\":\"\U0001d160\"}": `{"error":"invalid_message","reason":"schema","pointer":"/text","keyword":"#/properties/text/maxLength"}`, // one character becomes three
	} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(in)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := ws.Read(ctx); err != nil || string(got) != want {
			t.Errorf("%s: %s %v, want %s", in, got, err, want)
		}
	}
	ws.Close(websocket.StatusNormalClosure, "")
	if err := guard.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}
