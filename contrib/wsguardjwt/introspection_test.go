package wsguardjwt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
	"github.com/wsguard/wsguard/reason"
)

const (
	introspectionURL = issuer + "/introspect"
	opaque           = "alice-2YotnFZFEjr1zCsicMWpAA"
)

// active is the answer about a good token, changed.
func active(with obj) obj { return merge(claims(obj{"active": true, "token_type": "Bearer"}), with) }

// answering is an authorization server that gives one answer, and counts.
type answering struct {
	asked  atomic.Int64
	answer atomic.Pointer[func(*http.Request) (*http.Response, error)]
}

func answers(answer any) *answering {
	a := &answering{}
	a.set(answer)
	return a
}

func (a *answering) set(answer any) {
	f, ok := answer.(func(*http.Request) (*http.Response, error))
	if !ok {
		f = func(*http.Request) (*http.Response, error) { return jsonAnswer(200, answer), nil }
	}
	a.answer.Store(&f)
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked.Add(1)
	return (*a.answer.Load())(r)
}

func jsonAnswer(status int, body any) *http.Response {
	s, ok := body.(string)
	if !ok {
		s = string(must(json.Marshal(body)))
	}
	res := respond(status, s)
	res.Header.Set("Content-Type", "application/json;charset=UTF-8")
	return res
}

func introspect(t *testing.T, server http.RoundTripper, change ...func(*wsguardjwt.IntrospectionConfig)) *wsguardjwt.Introspection {
	t.Helper()
	cfg := wsguardjwt.IntrospectionConfig{
		Endpoint: introspectionURL, ClientID: "ws", ClientSecret: "hunter2", Audience: []string{audience}, Issuer: issuer,
		Transport: server, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	i, err := wsguardjwt.NewIntrospection(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// outcome names what an error means for a guard.
func outcome(err error) string {
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, wsguard.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, wsguard.ErrExpired):
		return "expired"
	case errors.Is(err, wsguard.ErrUnauthenticated):
		return "refused"
	}
	return err.Error()
}

func TestIntrospectionAnswers(t *testing.T) {
	now := time.Now()
	type change = func(*wsguardjwt.IntrospectionConfig)
	anyAudience := change(func(c *wsguardjwt.IntrospectionConfig) { c.Audience, c.InsecureAnyAudience = nil, true })
	anyIssuer := change(func(c *wsguardjwt.IntrospectionConfig) { c.Issuer = "" })
	byName := change(func(c *wsguardjwt.IntrospectionConfig) { c.SubjectClaim = "username" })
	noAge := change(func(c *wsguardjwt.IntrospectionConfig) { c.MaxAge = wsguard.Off })
	for name, tt := range map[string]struct {
		answer any
		want   string
		change change
	}{
		"active":                     {active(nil), "accepted", nil},
		"bearer in lower case":       {active(obj{"token_type": "bearer"}), "accepted", nil},
		"no token_type":              {active(obj{"token_type": nil}), "accepted", nil},
		"aud among others":           {active(obj{"aud": []string{"x", audience}}), "accepted", nil},
		"token_use access_token":     {active(obj{"token_use": "access_token"}), "accepted", nil},
		"other members":              {active(obj{"client_id": "app", "ext": obj{"a": 1}}), "accepted", nil},
		"no exp":                     {active(obj{"exp": nil}), "accepted", nil},
		"any aud":                    {active(obj{"aud": "x"}), "accepted", anyAudience},
		"any aud, none":              {active(obj{"aud": nil}), "accepted", anyAudience},
		"any iss":                    {active(obj{"iss": "x"}), "accepted", anyIssuer},
		"any iss, none":              {active(obj{"iss": nil}), "accepted", anyIssuer},
		"subject by username":        {active(obj{"sub": nil, "username": "alice"}), "accepted", byName},
		"nbf, iat within leeway":     {active(obj{"nbf": now.Unix() + 5, "iat": now.Unix() + 5}), "accepted", nil},
		"not active":                 {obj{"active": false}, "refused", nil},
		"not active, with all":       {active(obj{"active": false}), "refused", nil},
		"not active, expired":        {active(obj{"active": false, "exp": 1}), "refused", nil},
		"wrong aud":                  {active(obj{"aud": "https://other.example.com"}), "refused", nil},
		"wrong auds":                 {active(obj{"aud": []string{"a", "b"}}), "refused", nil},
		"no aud":                     {active(obj{"aud": nil}), "refused", nil},
		"empty auds":                 {active(obj{"aud": []string{}}), "refused", nil},
		"wrong iss":                  {active(obj{"iss": issuer + "/"}), "refused", nil},
		"no iss":                     {active(obj{"iss": nil}), "refused", nil},
		"no sub":                     {active(obj{"sub": nil}), "refused", nil},
		"empty sub":                  {active(obj{"sub": ""}), "refused", nil},
		"long sub":                   {active(obj{"sub": strings.Repeat("a", 256)}), "refused", nil},
		"no username":                {active(nil), "refused", byName},
		"username a number":          {active(obj{"username": 1}), "refused", byName},
		"sid a number":               {active(obj{"sid": 1}), "refused", nil},
		"scope a number":             {active(obj{"scope": 1}), "refused", nil},
		"DPoP":                       {active(obj{"token_type": "DPoP"}), "refused", nil},
		"refresh token":              {active(obj{"token_type": "refresh_token"}), "refused", nil},
		"token_type a list":          {active(obj{"token_type": []string{"Bearer"}}), "refused", nil},
		"token_use refresh_token":    {active(obj{"token_use": "refresh_token"}), "refused", nil},
		"token_use id":               {active(obj{"token_use": "id"}), "refused", nil},
		"no exp, MaxAge off":         {active(obj{"exp": nil}), "refused", noAge},
		"exp passed":                 {active(obj{"exp": now.Unix() - 1}), "expired", nil},
		"nbf in the future":          {active(obj{"nbf": now.Unix() + 60}), "expired", nil},
		"iat in the future":          {active(obj{"iat": now.Unix() + 60}), "expired", nil},
		"exp passed, wrong aud":      {active(obj{"exp": 1, "aud": "x"}), "refused", nil},
		"exp passed, wrong iss":      {active(obj{"exp": 1, "iss": "x"}), "refused", nil},
		"exp passed, refresh token":  {active(obj{"exp": 1, "token_type": "refresh_token"}), "refused", nil},
		"active as a string":         {active(obj{"active": "true"}), "unavailable", nil},
		"active as a number":         {active(obj{"active": 1}), "unavailable", nil},
		"active null":                {`{"active":null}`, "unavailable", nil},
		"no active":                  {active(obj{"active": nil}), "unavailable", nil},
		"Active":                     {active(obj{"active": nil, "Active": true}), "unavailable", nil},
		"active twice":               {`{"active":false,"active":true}`, "unavailable", nil},
		"exp a string":               {active(obj{"exp": "9999999999"}), "unavailable", nil},
		"exp beyond the calendar":    {active(obj{"exp": int64(253402300800)}), "unavailable", nil},
		"sub a number":               {active(obj{"sub": 1}), "unavailable", nil},
		"aud an object":              {active(obj{"aud": obj{audience: true}}), "unavailable", nil},
		"a list":                     {`[{"active":true}]`, "unavailable", nil},
		"true":                       {`true`, "unavailable", nil},
		"nothing":                    {``, "unavailable", nil},
		"HTML":                       {`<html>`, "unavailable", nil},
		"cut":                        {`{"active":true`, "unavailable", nil},
		"two answers":                {`{"active":false}{"active":true}`, "unavailable", nil},
		"not UTF-8":                  {"{\"active\":true,\"sub\":\"\xff\"}", "unavailable", nil},
		"an error of OAuth":          {obj{"error": "invalid_request"}, "unavailable", nil},
		"nested too deep":            {`{"active":true,"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "unavailable", nil},
		"too long, though not wrong": {active(obj{"x": strings.Repeat("a", 64<<10)}), "unavailable", nil},
	} {
		t.Run(name, func(t *testing.T) {
			changes := []change{}
			if tt.change != nil {
				changes = append(changes, tt.change)
			}
			var logged logTo
			changes = append(changes, func(c *wsguardjwt.IntrospectionConfig) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
			p, err := introspect(t, answers(tt.answer), changes...).Verify(t.Context(), opaque)
			if got := outcome(err); got != tt.want {
				t.Fatalf("%s, want %s: %v", got, tt.want, err)
			}
			if err == nil && (p.Subject != "alice" || p.Expires.IsZero() || p.Expires.After(now.Add(time.Hour+time.Minute)) ||
				p.IssuedAt.IsZero() || p.SessionID != "s-1" || !slices.Equal(p.Scopes, []string{"read", "write"})) {
				t.Errorf("%+v", p)
			}
			if err != nil && (p.Subject != "" || strings.Contains(err.Error(), "alice")) {
				t.Errorf("%+v, %v", p, err)
			}
			// The operator is told after the caller.
			for by := time.Now().Add(5 * time.Second); tt.want == "unavailable" && logged.String() == "" && time.Now().Before(by); {
				time.Sleep(time.Millisecond)
			}
			if s := logged.String(); (s != "") != (tt.want == "unavailable") || strings.Contains(s, "alice") || strings.Contains(s, "hunter2") {
				t.Errorf("logged %q", s)
			}
		})
	}
}

// TestIntrospectionServer asks servers that misbehave, over a real connection.
func TestIntrospectionServer(t *testing.T) {
	good := string(must(json.Marshal(active(nil))))
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			io.WriteString(w, good)
		}
	}
	typed := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{kind}
			io.WriteString(w, good)
		}
	}
	var mu sync.Mutex
	var leaked []string // requests to the host that a redirect names
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		b, _ := io.ReadAll(r.Body)
		leaked = append(leaked, r.Method+" "+string(b))
		status(200)(w, r)
	}))
	defer elsewhere.Close()
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"good":               {typed("application/json"), "accepted"},
		"with a charset":     {typed(`application/JSON; charset="utf-8"`), "accepted"},
		"as HTML":            {typed("text/html"), "unavailable"},
		"as text":            {typed("text/plain"), "unavailable"},
		"as a signed answer": {typed("application/token-introspection+jwt"), "unavailable"},
		"without a type":     {typed(""), "unavailable"},
		"201":                {status(201), "unavailable"},
		"204":                {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) }, "unavailable"},
		"400":                {status(400), "unavailable"},
		"401":                {status(401), "unavailable"},
		"403":                {status(403), "unavailable"},
		"404":                {status(404), "unavailable"},
		"429":                {status(429), "unavailable"},
		"500":                {status(500), "unavailable"},
		"503":                {status(503), "unavailable"},
		"302":                {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "unavailable"},
		"307": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "unavailable"},
		"308": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusPermanentRedirect)
		}, "unavailable"},
		"cut": {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, "unavailable"},
		"shorter than it says": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "10000")
			io.WriteString(w, good)
		}, "unavailable"},
		"huge": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 32<<10)); err != nil {
					return
				}
			}
		}, "unavailable"},
		"slow": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "unavailable"},
		"slow body": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, "unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.ParseForm() // so that the server notices when the client leaves
				tt.handler(w, r)
			}))
			defer server.Close()
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			i := introspect(t, transport, func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint = server.URL + "/introspect?key=hunter3" })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := i.Verify(ctx, opaque)
			if got := outcome(err); got != tt.want {
				t.Errorf("%s, want %s: %v", got, tt.want, err)
			}
			if time.Since(start) > 5*time.Second {
				t.Errorf("took %v", time.Since(start))
			}
			if err != nil {
				for _, secret := range []string{opaque, "hunter2", "hunter3"} {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%v holds %s", err, secret)
					}
				}
			}
		})
	}
	if len(leaked) > 0 {
		t.Errorf("followed redirects: %q", leaked)
	}
}

func TestIntrospectionRequest(t *testing.T) {
	const id, secret, token = "ws:päge", "s3cret &+%/=:", "a+b/c&token=evil%20~="
	for method, want := range map[string]struct {
		user, pass string
		form       url.Values
	}{
		"":                    {"ws%3Ap%C3%A4ge", "s3cret+%26%2B%25%2F%3D%3A", url.Values{}},
		"client_secret_basic": {"ws%3Ap%C3%A4ge", "s3cret+%26%2B%25%2F%3D%3A", url.Values{}},
		"client_secret_post":  {"", "", url.Values{"client_id": {id}, "client_secret": {secret}}},
		"none":                {"", "", url.Values{"client_id": {id}}},
	} {
		t.Run(method, func(t *testing.T) {
			want.form.Set("token", token)
			want.form.Set("token_type_hint", "access_token")
			server := func(r *http.Request) (*http.Response, error) {
				user, pass, _ := r.BasicAuth()
				body := string(must(io.ReadAll(r.Body)))
				form := must(url.ParseQuery(body))
				if r.Method != "POST" || r.URL.String() != introspectionURL || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" ||
					r.Header.Get("Accept") != "application/json" || user != want.user || pass != want.pass || fmt.Sprint(form) != fmt.Sprint(want.form) {
					t.Errorf("%s %s %v %q", r.Method, r.URL, r.Header, body)
				}
				return jsonAnswer(200, active(nil)), nil
			}
			i := introspect(t, roundTripper(server), func(c *wsguardjwt.IntrospectionConfig) {
				c.ClientID, c.ClientSecret, c.AuthMethod = id, secret, method
				if method == "none" {
					c.ClientSecret = ""
				}
			})
			if _, err := i.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestIntrospectionCache(t *testing.T) {
	ask := func(t *testing.T, i *wsguardjwt.Introspection, token, want string) {
		t.Helper()
		if _, err := i.Verify(t.Context(), token); outcome(err) != want {
			t.Fatalf("%v, want %s", err, want)
		}
	}
	for name, test := range map[string]func(t *testing.T){
		"active": func(t *testing.T) {
			server := answers(active(obj{"exp": time.Now().Add(time.Hour).Unix()}))
			i := introspect(t, server)
			ask(t, i, opaque, "accepted")
			server.set(obj{"active": false})
			time.Sleep(time.Minute - 1)
			ask(t, i, opaque, "accepted")
			ask(t, i, "another token", "refused")
			time.Sleep(time.Nanosecond)
			ask(t, i, opaque, "refused")
			if n := server.asked.Load(); n != 3 {
				t.Errorf("asked %d times", n)
			}
		},
		"never beyond exp": func(t *testing.T) {
			server := answers(active(obj{"exp": time.Now().Add(30 * time.Second).Unix()}))
			i := introspect(t, server, func(c *wsguardjwt.IntrospectionConfig) { c.CacheTTL = time.Hour })
			ask(t, i, opaque, "accepted")
			server.set(obj{"active": false})
			time.Sleep(30*time.Second - 1)
			ask(t, i, opaque, "accepted")
			time.Sleep(time.Nanosecond)
			ask(t, i, opaque, "expired") // it is known to be genuine
			time.Sleep(time.Hour)
			ask(t, i, opaque, "expired")
			if n := server.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		},
		"not active": func(t *testing.T) {
			server := answers(obj{"active": false})
			i := introspect(t, server)
			ask(t, i, opaque, "refused")
			server.set(active(nil))
			time.Sleep(10*time.Second - 1)
			ask(t, i, opaque, "refused")
			if n := server.asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
			time.Sleep(time.Nanosecond)
			ask(t, i, opaque, "accepted")
		},
		"off": func(t *testing.T) {
			server := answers(active(nil))
			i := introspect(t, server, func(c *wsguardjwt.IntrospectionConfig) { c.CacheTTL = wsguard.Off })
			ask(t, i, opaque, "accepted")
			server.set(obj{"active": false})
			ask(t, i, opaque, "refused")
		},
		"failures are not kept": func(t *testing.T) {
			server := answers(func(*http.Request) (*http.Response, error) { return nil, errDown })
			i := introspect(t, server)
			ask(t, i, opaque, "unavailable")
			server.set(active(obj{"aud": "x"}))
			ask(t, i, opaque, "refused")
			server.set(active(nil))
			ask(t, i, opaque, "accepted")
		},
		"no exp": func(t *testing.T) {
			server := answers(active(obj{"exp": nil, "iat": nil}))
			i := introspect(t, server)
			start := time.Now()
			ask(t, i, opaque, "accepted")
			time.Sleep(30 * time.Second)
			p, err := i.Verify(t.Context(), opaque)
			if err != nil || !p.Expires.Equal(start.Add(time.Hour)) || !p.IssuedAt.IsZero() {
				t.Errorf("%+v, %v", p, err)
			}
		},
		"scopes are not shared": func(t *testing.T) {
			i := introspect(t, answers(active(nil)))
			p, _ := i.Verify(t.Context(), opaque)
			p.Scopes[0] = "admin"
			if p, _ := i.Verify(t.Context(), opaque); p.Scopes[0] != "read" {
				t.Errorf("%+v", p)
			}
		},
		"bounded": func(t *testing.T) {
			server := answers(active(nil))
			i := introspect(t, server)
			ask(t, i, opaque, "accepted")
			for n := range 10_000 {
				ask(t, i, fmt.Sprint("token-", n), "accepted")
			}
			ask(t, i, "token-9999", "accepted")
			if n := server.asked.Load(); n != 10_001 {
				t.Errorf("asked %d times", n)
			}
			ask(t, i, opaque, "accepted") // displaced
			if n := server.asked.Load(); n != 10_002 {
				t.Errorf("asked %d times", n)
			}
		},
		"junk displaces no good answer": func(t *testing.T) {
			server := answers(active(nil))
			i := introspect(t, server)
			ask(t, i, opaque, "accepted")
			server.set(obj{"active": false})
			for n := range 20_001 {
				ask(t, i, fmt.Sprint("junk-", n), "refused")
			}
			ask(t, i, opaque, "accepted")
			if n := server.asked.Load(); n != 20_002 {
				t.Errorf("asked %d times", n)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// TestIntrospectionShared shows that calls with one token share a request, that one that leaves
// does not end it, and that the last one does.
func TestIntrospectionShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := 0
		server := answers(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(3 * time.Second):
				return jsonAnswer(200, active(nil)), nil
			case <-r.Context().Done():
				ended++
				return nil, r.Context().Err()
			}
		})
		i := introspect(t, server)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := i.Verify(ctx, opaque)
			gone <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := i.Verify(t.Context(), opaque); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, wsguard.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Error("hung up:", err)
		}
		wg.Wait()
		if n := server.asked.Load(); n != 1 || ended != 0 {
			t.Errorf("asked %d times, %d ended", n, ended)
		}

		// The last caller leaves, and another one comes.
		alone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := i.Verify(alone, "other"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := i.Verify(t.Context(), "other"); err != nil {
			t.Error(err)
		}
		if n := server.asked.Load(); n != 3 || ended != 1 {
			t.Errorf("asked %d times, %d ended", n, ended)
		}
		if _, err := i.Verify(alone, opaque); outcome(err) != "unavailable" {
			t.Error("a context that has ended:", err)
		}
	})
}

// TestIntrospectionCalls shows that few requests are under way at a time, and that each takes 10
// seconds at most.
func TestIntrospectionCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		server := answers(func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		var logged logTo
		i := introspect(t, server, func(c *wsguardjwt.IntrospectionConfig) {
			c.MaxCalls = 4
			c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		})
		start := time.Now()
		var wg sync.WaitGroup
		for n := range 100 {
			wg.Go(func() {
				if _, err := i.Verify(t.Context(), fmt.Sprint("token-", n)); outcome(err) != "unavailable" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != 10*time.Second || most.Load() != 4 {
			t.Errorf("%v, %d at a time", d, most.Load())
		}
		synctest.Wait()
		if s := logged.String(); strings.Count(s, "\n") != 1 || strings.Contains(s, "token-") {
			t.Errorf("logged:\n%s", s)
		}
	})
}

// TestIntrospectionLate shows that the operator learns of a server that is slower than the guard
// waits, and of no client that hangs up.
func TestIntrospectionLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := answers(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		var logged logTo
		i := introspect(t, server, func(c *wsguardjwt.IntrospectionConfig) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
		gone, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, hangUp)
		if _, err := i.Verify(gone, opaque); outcome(err) != "unavailable" {
			t.Error(err)
		}
		synctest.Wait()
		if s := logged.String(); s != "" {
			t.Errorf("a client hung up: logged %q", s)
		}
		for range 3 {
			late, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if _, err := i.Verify(late, opaque); outcome(err) != "unavailable" {
				t.Error(err)
			}
			cancel()
			synctest.Wait()
		}
		if s := logged.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "no answer in time") {
			t.Errorf("logged %q", s)
		}
	})
}

func TestIntrospectionHook(t *testing.T) {
	var hook func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error)
	verify := func() (wsguard.Principal, error) {
		return introspect(t, answers(active(obj{"client_id": "app", "n": int64(12345678901234567)})), func(c *wsguardjwt.IntrospectionConfig) {
			c.Principal = func(ctx context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
				return hook(ctx, claims, p)
			}
		}).Verify(t.Context(), opaque)
	}
	hook = func(_ context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
		p.Subject = claims["client_id"].(string) + "/" + p.Subject + "/" + claims["n"].(json.Number).String()
		p.Expires = p.Expires.Add(time.Hour)
		return p, nil
	}
	if p, err := verify(); err != nil || p.Subject != "app/alice/12345678901234567" || time.Until(p.Expires) > 6*time.Minute {
		t.Errorf("%+v, %v", p, err)
	}
	for want, f := range map[string]func() error{
		"refused":     func() error { return errors.New("banned") },
		"expired":     func() error { return wsguard.ErrExpired },
		"unavailable": func() error { return fmt.Errorf("database: %w", wsguard.ErrUnavailable) },
	} {
		hook = func(_ context.Context, _ map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
			return p, f()
		}
		if _, err := verify(); outcome(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for name, act := range map[string]func(){"panics": func() { panic("evil") }, "ends its goroutine": runtime.Goexit} {
		hook = func(context.Context, map[string]any, wsguard.Principal) (wsguard.Principal, error) {
			act()
			panic("no")
		}
		if _, err := verify(); outcome(err) != "unavailable" {
			t.Errorf("a hook that %s: %v", name, err)
		}
		server := answers(func(*http.Request) (*http.Response, error) { act(); return nil, nil })
		i := introspect(t, server, func(c *wsguardjwt.IntrospectionConfig) { c.Logger = slog.New(evilLogger{act: act}); c.MaxCalls = 1 })
		for range 2 {
			if _, err := i.Verify(t.Context(), opaque); outcome(err) != "unavailable" {
				t.Errorf("a transport that %s: %v", name, err)
			}
		}
		server.set(active(nil))
		if _, err := i.Verify(t.Context(), opaque); err != nil {
			t.Errorf("after a transport that %s: %v", name, err)
		}
	}
}

func TestIntrospectionTokens(t *testing.T) {
	server := answers(active(nil))
	i := introspect(t, server, func(c *wsguardjwt.IntrospectionConfig) { c.MaxTokenBytes = 10 })
	for token, want := range map[string]string{"": "refused", "0123456789": "accepted", "01234567890": "refused"} {
		if _, err := i.Verify(t.Context(), token); outcome(err) != want || want == "refused" && !errors.Is(err, jwt.ErrTokenMalformed) {
			t.Errorf("%q: %v", token, err)
		}
	}
	if n := server.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestIntrospectionThroughAGuard shows what counts as a guess.
func TestIntrospectionThroughAGuard(t *testing.T) {
	for name, tt := range map[string]struct {
		answer any
		want   *reason.Reason
	}{
		"not active": {obj{"active": false}, reason.Guessing},
		"wrong aud":  {active(obj{"aud": "x"}), reason.Guessing},
		"expired":    {active(obj{"exp": 1}), reason.Unauthenticated},
		"down":       {"", reason.Unavailable},
	} {
		i := introspect(t, answers(tt.answer))
		a, err := wsguard.NewAuthenticator(wsguard.Config{Auth: wsguard.AuthConfig{
			Verifier: i.Verify, Failures: wsguard.Rate{PerSecond: 0.001, Burst: 3},
		}})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 6 {
			r := httptest.NewRequest("GET", "http://api.example.com/ws", nil)
			r.Header.Set("Authorization", fmt.Sprint("Bearer token-", n))
			_, err = a.Authenticate(r)
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

func TestIntrospectionConfig(t *testing.T) {
	base := wsguardjwt.IntrospectionConfig{Endpoint: introspectionURL, ClientID: "ws", ClientSecret: "hunter2", Audience: []string{audience}}
	for name, tt := range map[string]struct {
		change func(*wsguardjwt.IntrospectionConfig)
		want   string
	}{
		"nothing":            {func(c *wsguardjwt.IntrospectionConfig) { *c = wsguardjwt.IntrospectionConfig{} }, "Endpoint ClientID ClientSecret Audience"},
		"in clear text":      {func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint = "http://login.example.com/i" }, "Endpoint"},
		"with a password":    {func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint = "https://ws:hunter2@login.example.com/i" }, "Endpoint"},
		"with a fragment":    {func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint += "#x" }, "Endpoint"},
		"relative":           {func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint = "/introspect" }, "Endpoint"},
		"no client":          {func(c *wsguardjwt.IntrospectionConfig) { c.ClientID = "" }, "ClientID"},
		"no secret":          {func(c *wsguardjwt.IntrospectionConfig) { c.ClientSecret = "" }, "ClientSecret"},
		"unknown method":     {func(c *wsguardjwt.IntrospectionConfig) { c.AuthMethod = "private_key_jwt" }, "AuthMethod"},
		"none and a secret":  {func(c *wsguardjwt.IntrospectionConfig) { c.AuthMethod = "none" }, "ClientSecret"},
		"no audience":        {func(c *wsguardjwt.IntrospectionConfig) { c.Audience = nil }, "Audience"},
		"an empty audience":  {func(c *wsguardjwt.IntrospectionConfig) { c.Audience = []string{""} }, "Audience"},
		"audience and any":   {func(c *wsguardjwt.IntrospectionConfig) { c.InsecureAnyAudience = true }, "InsecureAnyAudience"},
		"long TTL":           {func(c *wsguardjwt.IntrospectionConfig) { c.CacheTTL = 2 * time.Hour }, "CacheTTL"},
		"negative TTL":       {func(c *wsguardjwt.IntrospectionConfig) { c.CacheTTL = -time.Second }, "CacheTTL"},
		"long age":           {func(c *wsguardjwt.IntrospectionConfig) { c.MaxAge = 25 * time.Hour }, "MaxAge"},
		"long leeway":        {func(c *wsguardjwt.IntrospectionConfig) { c.Leeway = time.Minute }, "Leeway"},
		"token bytes off":    {func(c *wsguardjwt.IntrospectionConfig) { c.MaxTokenBytes = wsguard.Off }, "MaxTokenBytes"},
		"calls off":          {func(c *wsguardjwt.IntrospectionConfig) { c.MaxCalls = wsguard.Off }, "MaxCalls"},
		"good":               {func(c *wsguardjwt.IntrospectionConfig) {}, ""},
		"loopback":           {func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint = "http://127.0.0.1:8080/i" }, ""},
		"insecure":           {func(c *wsguardjwt.IntrospectionConfig) { c.Endpoint, c.InsecureAllowHTTP = "http://idp/i", true }, ""},
		"any audience":       {func(c *wsguardjwt.IntrospectionConfig) { c.Audience, c.InsecureAnyAudience = nil, true }, ""},
		"none":               {func(c *wsguardjwt.IntrospectionConfig) { c.ClientID, c.ClientSecret, c.AuthMethod = "", "", "none" }, ""},
		"client_secret_post": {func(c *wsguardjwt.IntrospectionConfig) { c.AuthMethod = "client_secret_post" }, ""},
		"off": {func(c *wsguardjwt.IntrospectionConfig) {
			c.CacheTTL, c.MaxAge, c.Leeway = wsguard.Off, wsguard.Off, wsguard.Off
		}, ""},
	} {
		cfg := base
		tt.change(&cfg)
		i, err := wsguardjwt.NewIntrospection(cfg)
		got := strings.ReplaceAll(strings.Join(faults(err), " "), "wsguardjwt.IntrospectionConfig.", "")
		if got != tt.want || (i == nil) != (tt.want != "") {
			t.Errorf("%s: faults %q, want %q: %v", name, got, tt.want, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: holds the secret: %v", name, err)
		}
	}
}
