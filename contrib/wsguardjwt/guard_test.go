package wsguardjwt_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

const origin = "https://app.example.com"

// serveKeys publishes keys on loopback.
func serveKeys(t *testing.T, keys ...any) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(obj{"keys": keys})
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// serve starts a guarded endpoint that says who has connected.
func serve(t *testing.T, v *wsguardjwt.Verifier, logged io.Writer) (url string) {
	t.Helper()
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{origin},
		Auth: wsguard.AuthConfig{
			Verifier: v.Verify,
			Sources:  wsguard.TokenSources{Header: true, Subprotocol: "bearer."},
			Failures: wsguard.Rate{PerSecond: wsguard.Off},
		},
		Rates:        wsguard.RateConfig{Handshakes: wsguard.Rate{PerSecond: wsguard.Off}},
		Subprotocols: []string{"chat"},
		Logger:       slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		b, err := json.Marshal(c.Principal())
		if err != nil {
			return err
		}
		if err := c.Write(ctx, wsguard.MessageText, b); err != nil {
			return err
		}
		_, _, err = c.Read(ctx)
		return err
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := guard.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
		s.Close()
	})
	return s.URL
}

func dial(t *testing.T, url string, header http.Header, subprotocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	if header == nil {
		header = http.Header{}
	}
	header.Set("Origin", origin)
	c, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
	if c != nil {
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, res, err
}

func TestThroughAGuard(t *testing.T) {
	k1, _ := ecKeys(t)
	keys := serveKeys(t, k1)
	var logged logTo
	url := serve(t, newVerifier(t, wsguardjwt.Config{Algorithms: []string{"ES256"}, JWKSURL: keys}), &logged)
	var tokens []string
	token := func(key any, header, with obj) string {
		s := sign("ES256", key, header, with)
		tokens = append(tokens, s)
		return s
	}

	for name, connect := range map[string]func(token string) (*websocket.Conn, *http.Response, error){
		"header": func(s string) (*websocket.Conn, *http.Response, error) {
			return dial(t, url, http.Header{"Authorization": {"Bearer " + s}})
		},
		"subprotocol": func(s string) (*websocket.Conn, *http.Response, error) { return dial(t, url, nil, "chat", "bearer."+s) },
	} {
		exp := time.Now().Add(3 * time.Second).Truncate(time.Second)
		c, res, err := connect(token(p256(), nil, obj{"exp": exp.Unix()}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := c.Subprotocol(); got != strings.Repeat("chat", len(name)/11) || strings.Contains(res.Header.Get("Sec-Websocket-Protocol"), "bearer") {
			t.Errorf("%s: subprotocol %q", name, got)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, msg, err := c.Read(ctx)
		var p wsguard.Principal
		if err != nil || json.Unmarshal(msg, &p) != nil || p.Subject != "alice" || p.SessionID != "s-1" ||
			!slices.Equal(p.Scopes, []string{"read", "write"}) || !p.Expires.Equal(exp) || p.IssuedAt.IsZero() {
			t.Errorf("%s: %s, %v", name, msg, err)
		}
		_, _, err = c.Read(ctx)
		var ce websocket.CloseError
		if late := time.Since(exp); !errors.As(err, &ce) || ce.Code != 3000 || ce.Reason != "expired" || late < 0 || late > 2*time.Second {
			t.Errorf("%s: %v, %v after its expiry", name, err, late)
		}
	}

	// Whatever is wrong with a token, the answer is the same.
	var same string
	for name, s := range map[string]string{
		"expired":        token(p256(), nil, obj{"exp": time.Now().Add(-time.Hour).Unix()}),
		"forged":         token(p256b(), nil, nil),
		"unknown kid":    token(p256b(), obj{"kid": "k9"}, nil),
		"other audience": token(p256(), nil, obj{"aud": "x"}),
		"other issuer":   token(p256(), nil, obj{"iss": "https://evil.example"}),
		"no subject":     token(p256(), nil, obj{"sub": nil}),
		"crit":           token(p256(), obj{"crit": []string{"x"}}, nil),
		"not a token":    "nonsense",
	} {
		for _, how := range []string{"header", "subprotocol"} {
			header, protocols := http.Header{"Authorization": {"Bearer " + s}}, []string{"chat"}
			if how == "subprotocol" {
				header, protocols = nil, append(protocols, "bearer."+s)
			}
			_, res, err := dial(t, url, header, protocols...)
			if err == nil || res == nil {
				t.Fatalf("%s by %s: %v", name, how, err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Header.Del("Date")
			got := res.Status + "\n" + string(must(json.Marshal(res.Header))) + "\n" + string(body)
			if res.StatusCode != 401 {
				t.Errorf("%s by %s: %s", name, how, got)
			}
			if same == "" {
				same = got
			} else if same != got {
				t.Errorf("%s by %s: %s\nelse: %s", name, how, got, same)
			}
		}
	}
	for _, s := range tokens {
		for part := range strings.SplitSeq(s, ".") {
			if strings.Contains(logged.String()+same, part) {
				t.Errorf("the log or an answer has %q", part)
			}
		}
	}
}

// TestUnavailableThroughAGuard: not the client's fault, and not counted as its.
func TestUnavailableThroughAGuard(t *testing.T) {
	var logged logTo
	url := serve(t, byURL(t, roundTripper(down)), &logged)
	_, res, err := dial(t, url, http.Header{"Authorization": {"Bearer " + first()}})
	if err == nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("%v, %+v", err, res)
	}
}
