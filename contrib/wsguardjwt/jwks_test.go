package wsguardjwt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

// In these tests time is the bubble's, and a bubble ends only when every
// goroutine in it has: none is left behind.

func ecKeys(t *testing.T) (k1, k2 any) {
	t.Helper()
	return jwk(&p256().PublicKey, "k1", jwkset.JWKMetadataOptions{}), jwk(&p256b().PublicKey, "k2", jwkset.JWKMetadataOptions{})
}

func byURL(t *testing.T, source http.RoundTripper, change ...func(*wsguardjwt.Config)) *wsguardjwt.Verifier {
	t.Helper()
	cfg := wsguardjwt.Config{Algorithms: []string{"ES256"}, JWKSURL: jwksURL, Transport: source}
	for _, f := range change {
		f(&cfg)
	}
	return newVerifier(t, cfg)
}

func first() string  { return sign("ES256", p256(), nil, nil) }
func second() string { return sign("ES256", p256b(), obj{"kid": "k2"}, nil) }

// TestRotation shows that a new key is accepted at once, and an old one no longer than until the
// set is fetched again.
func TestRotation(t *testing.T) {
	k1, k2 := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		accepted(t, v, first())
		if n := source.count(); n != 1 {
			t.Fatalf("%d fetches for one key", n)
		}

		// The new key is used right after its publication and right after a fetch. The
		// token waits for the next fetch, which is due 3 seconds after that.
		source.set(k1, k2)
		start := time.Now()
		accepted(t, v, second())
		accepted(t, v, first())
		if n, d := source.count(), time.Since(start); n != 2 || d != 3*time.Second {
			t.Fatalf("%d fetches, want 2, in %v", n, d)
		}

		// The old key goes. No token names an unknown kid, so a quarter of MaxKeyAge may
		// pass, and one token more is accepted.
		source.set(k2)
		time.Sleep(15*time.Minute - 1)
		accepted(t, v, first())
		time.Sleep(time.Nanosecond)
		accepted(t, v, first()) // and makes the Verifier fetch the keys
		synctest.Wait()
		refused(t, v, first())
		accepted(t, v, second())
		if n := source.count(); n != 4 {
			t.Errorf("%d fetches, want 4", n)
		}
	})
}

// TestQuietRotation shows that a new key costs no wait if the last fetch is a while ago.
func TestQuietRotation(t *testing.T) {
	k1, k2 := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		time.Sleep(3 * time.Second)
		source.set(k1, k2)
		start := time.Now()
		accepted(t, v, second())
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v", d)
		}
	})
}

// flood sends n tokens a second with invented kids until stop is called. Each is sent by a
// goroutine of its own, as clients do. The kids come from next.
func flood(t *testing.T, v *wsguardjwt.Verifier, n int, next func(i int) string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Second / time.Duration(n)):
			}
			token := encode(obj{"alg": "ES256", "kid": next(i)}) + "." + encode(claims(nil)) + "." + encode(string(make([]byte, 64)))
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // as AuthConfig.VerifyTimeout
				defer cancel()
				if _, err := v.Verify(ctx, token); !errors.Is(err, wsguard.ErrUnauthenticated) && !errors.Is(err, wsguard.ErrUnavailable) {
					t.Errorf("junk: %v", err)
				}
			})
		}
	})
	return func() { close(done); wg.Wait() }
}

// TestJunkKids shows that nobody can keep a new key from being accepted. While strangers send
// 100 tokens a second with invented kids, the issuer publishes a key at a moment of each phase
// of the fetches. A token of that key is accepted within 10 seconds and the time of a fetch,
// whether or not strangers guess its kid. The issuer is asked at most every 3 seconds.
func TestJunkKids(t *testing.T) {
	k1, k2 := ecKeys(t)
	const within = 10 * time.Second
	distinct := func(i int) string { return fmt.Sprint("junk-", i) }
	for name, tt := range map[string]struct {
		next func(int) string
		took time.Duration // by a fetch
	}{
		"distinct kids":              {distinct, 0},
		"distinct kids, slow issuer": {distinct, time.Second},
		"the kid of the new key":     {func(int) string { return "k2" }, 100 * time.Millisecond},
		"both": {func(i int) string {
			if i%2 == 0 {
				return "k2"
			}
			return distinct(i)
		}, 100 * time.Millisecond},
	} {
		for _, phase := range []time.Duration{0, 500 * time.Millisecond, 1100 * time.Millisecond, 2900 * time.Millisecond} {
			t.Run(fmt.Sprint(name, " ", phase), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					source := publish(k1)
					v := byURL(t, roundTripper(func(r *http.Request) (*http.Response, error) {
						res, err := source.RoundTrip(r) // what is published when the request comes
						time.Sleep(tt.took)
						return res, err
					}))
					accepted(t, v, first())
					stop := flood(t, v, 100, tt.next)
					const minutes = 1
					time.Sleep(minutes*time.Minute + phase)
					if n := source.count(); n > minutes*20+2 {
						t.Errorf("%d fetches in %d minutes", n, minutes)
					}
					accepted(t, v, first()) // known keys are not delayed
					source.set(k1, k2)
					published := time.Now()
					for {
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						_, err := v.Verify(ctx, second())
						cancel()
						if err == nil {
							break
						}
						if time.Since(published) > time.Minute {
							t.Fatal("not accepted:", err)
						}
						time.Sleep(100 * time.Millisecond)
					}
					if d := time.Since(published); d > within+2*tt.took {
						t.Errorf("accepted after %v", d)
					}
					stop()
				})
			})
		}
	}
}

// TestGuessedKid shows the longest delay that a stranger can cause who guesses the kid of a key
// right before its publication.
func TestGuessedKid(t *testing.T) {
	k1, k2 := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		time.Sleep(time.Minute)
		refused(t, v, sign("ES256", p256c(), obj{"kid": "k2"}, nil))
		source.set(k1, k2)
		time.Sleep(10*time.Second - 1)
		refused(t, v, second())
		time.Sleep(time.Nanosecond)
		accepted(t, v, second())
		if n := source.count(); n != 3 {
			t.Errorf("%d fetches, want 3", n)
		}
	})
}

// TestJunkForMinutes shows the load on the issuer in the long run.
func TestJunkForMinutes(t *testing.T) {
	k1, _ := ecKeys(t)
	junk := sign("ES256", p256b(), obj{"kid": "junk"}, nil)
	for name, tt := range map[string]struct {
		next func(int) string
		most int // fetches in a minute
	}{
		"distinct kids": {func(i int) string { return fmt.Sprint("junk-", i) }, 20},
		"one kid":       {func(int) string { return "junk" }, 6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := publish(k1)
				v := byURL(t, source)
				accepted(t, v, first())
				stop := flood(t, v, 100, tt.next)
				const minutes = 4
				time.Sleep(minutes * time.Minute)
				if n := source.count(); n > minutes*tt.most+2 {
					t.Errorf("%d fetches in %d minutes", n, minutes)
				}
				stop()
				start := time.Now()
				refused(t, v, junk)
				if name == "one kid" && time.Since(start) != 0 {
					t.Errorf("junk that is known as such waited %v", time.Since(start))
				}
			})
		})
	}
}

// TestFewWait shows that few calls wait for a fetch that has not begun, and that the others are
// no guesses.
func TestFewWait(t *testing.T) {
	k1, _ := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		var wg sync.WaitGroup
		var mu sync.Mutex
		waited, at := 0, time.Now()
		for i := range 100 {
			wg.Go(func() {
				_, err := v.Verify(t.Context(), sign("ES256", p256b(), obj{"kid": fmt.Sprint("junk-", i)}, nil))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case time.Since(at) == 3*time.Second && errors.Is(err, wsguard.ErrUnauthenticated):
					waited++
				case time.Since(at) != 0 || !errors.Is(err, wsguard.ErrUnavailable):
					t.Errorf("after %v: %v", time.Since(at), err)
				}
			})
		}
		wg.Wait()
		if waited != 32 {
			t.Errorf("%d have waited, want 32", waited)
		}

		// A call whose context ends gives its place back. Nobody waits then, so nothing is
		// fetched.
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := v.Verify(ctx, sign("ES256", p256b(), obj{"kid": "left"}, nil))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n := source.count(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

// TestHopelessTokens shows that a token that has another fault makes nobody fetch.
func TestHopelessTokens(t *testing.T) {
	k1, _ := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		time.Sleep(time.Minute)
		for _, with := range []obj{{"iss": "https://evil.example"}, {"aud": "x"}, {"exp": time.Now().Unix()}, {"sub": nil}, {"nbf": time.Now().Unix() + 60}} {
			start := time.Now()
			if err := refused(t, v, sign("ES256", p256b(), obj{"kid": "junk"}, with)); errors.Is(err, wsguard.ErrExpired) {
				t.Errorf("%v: taken for genuine", with)
			}
			if time.Since(start) != 0 || source.count() != 1 {
				t.Errorf("%v: %v, %d fetches", with, time.Since(start), source.count())
			}
		}
	})
}

// TestSingleFlight: many who wait share one fetch, and one of them who hangs up
// does not end it.
func TestSingleFlight(t *testing.T) {
	k1, _ := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		slow := roundTripper(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(3 * time.Second):
				return source.RoundTrip(r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
		v := byURL(t, slow)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := v.Verify(ctx, first())
			gone <- err
		}()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { accepted(t, v, first()) })
		}
		synctest.Wait()
		cancel()
		if err := <-gone; !errors.Is(err, wsguard.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Error("hung up:", err)
		}
		start := time.Now()
		wg.Wait()
		if d := time.Since(start); d != 3*time.Second || source.count() != 1 {
			t.Errorf("%v, %d fetches", d, source.count())
		}

		// Who comes with a context that has ended gets nothing.
		if _, err := v.Verify(ctx, first()); !errors.Is(err, wsguard.ErrUnavailable) {
			t.Error(err)
		}
	})
}

// TestDownAtStart: 503 until the keys are there, asked for ever less often.
func TestDownAtStart(t *testing.T) {
	k1, _ := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		source.fail(down)
		var logged logTo
		v := byURL(t, source, func(c *wsguardjwt.Config) { c.Logger = slog.New(slog.NewTextHandler(&logged, nil)) })
		if err := v.Ready(t.Context()); !errors.Is(err, wsguard.ErrUnavailable) || !errors.Is(err, errDown) {
			t.Error("ready:", err)
		}
		start := time.Now()
		var at []time.Duration
		for time.Since(start) < 5*time.Minute {
			unavailable(t, v, first())
			unavailable(t, v, second())
			if n := source.count(); n > len(at) {
				at = append(at, time.Since(start))
			}
			time.Sleep(time.Second)
		}
		if len(at) > 10 || at[1] != 5*time.Second || at[len(at)-1]-at[len(at)-2] != time.Minute {
			t.Errorf("asked at %v", at)
		}
		source.set(k1)
		time.Sleep(time.Minute)
		accepted(t, v, first())
		if err := v.Ready(t.Context()); err != nil {
			t.Error("ready:", err)
		}
		refused(t, v, second())
		if s := logged.String(); !strings.Contains(s, errDown.Error()) || strings.Count(s, "\n") > 10 {
			t.Errorf("logged:\n%s", s)
		} else {
			holdsNothing(t, s, first())
		}
	})
}

// TestDownLater: what is known is used for MaxKeyAge, and not longer.
func TestDownLater(t *testing.T) {
	k1, k2 := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		source.fail(down)
		start := time.Now()
		for time.Since(start) < time.Hour {
			accepted(t, v, first())
			if time.Since(start) >= time.Minute {
				unavailable(t, v, second()) // perhaps it is good
			}
			time.Sleep(10 * time.Second)
		}
		unavailable(t, v, first())
		if n := source.count(); n > 65 {
			t.Errorf("%d fetches in an hour", n)
		}
		source.set(k1, k2)
		time.Sleep(time.Minute)
		accepted(t, v, first())
		accepted(t, v, second())
	})
}

// TestAsleep: keys of long ago are not used, even for the first token after.
func TestAsleep(t *testing.T) {
	k1, k2 := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source)
		accepted(t, v, first())
		source.set(k2)
		time.Sleep(time.Hour)
		refused(t, v, first())
		accepted(t, v, second())
	})
}

// TestBadAnswers: none is taken for keys, and none costs more than its bounds.
func TestBadAnswers(t *testing.T) {
	k1, _ := ecKeys(t)
	set := string(must(json.Marshal(obj{"keys": []any{k1}})))
	body := func(status int, body string) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return respond(status, body), nil }
	}
	redirect := func(to string) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			if r.URL.String() == to {
				return respond(200, set), nil
			}
			res := respond(302, set)
			res.Header.Set("Location", to)
			res.Request = r
			return res, nil
		}
	}
	weak := string(must(json.Marshal(obj{"keys": []any{
		jwk(&rsaWeak().PublicKey, "k1", jwkset.JWKMetadataOptions{}),
		obj{"kty": "oct", "kid": "k1", "k": encode("0123456789abcdef0123456789abcdef")},
		obj{"kty": "RSA", "kid": "k1", "n": "AQ", "e": "AQ"},
		obj{"kty": "EC", "kid": "k1", "crv": "P-256", "x": "AQ", "y": "AQ"},
		jwk(&p256().PublicKey, "k1", jwkset.JWKMetadataOptions{USE: jwkset.UseEnc}),
		1, "x", nil,
	}})))
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"connection refused": down,
		"status 500":         body(500, set),
		"status 404":         body(404, set),
		"status 204":         body(204, ""),
		"HTML":               body(200, "<html>"),
		"nothing":            body(200, ""),
		"another object":     body(200, `{"error":"x"}`),
		"keys null":          body(200, `{"keys":null}`),
		"keys a string":      body(200, `{"keys":"x"}`),
		"no keys":            body(200, `{"keys":[]}`),
		"none that is right": body(200, weak),
		"cut":                body(200, set[:len(set)-1]),
		"too long":           body(200, set+strings.Repeat(" ", 256<<10)),
		"redirect to http":   redirect("http://login.example.com/keys"),
		"redirect to https":  redirect("https://login.example.com/other"),
		"panic":              func(*http.Request) (*http.Response, error) { panic("in a transport") },
		"without an end": func(r *http.Request) (*http.Response, error) {
			res := respond(200, "")
			res.Body = io.NopCloser(endless{})
			return res, nil
		},
		"slow": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
		"slow body": func(r *http.Request) (*http.Response, error) {
			res := respond(200, "")
			res.Body = io.NopCloser(slowBody{r.Context()})
			return res, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := publish(k1)
				source.fail(answer)
				var logged logTo
				v := byURL(t, source, func(c *wsguardjwt.Config) {
					c.JWKSURL += "?key=hunter2"
					c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
				})
				start := time.Now()
				err := unavailable(t, v, first())
				if d := time.Since(start); d > 10*time.Second {
					t.Errorf("took %v", d)
				}
				if n := source.count(); n != 1 {
					t.Errorf("%d requests: %v", n, source.fetches)
				}
				synctest.Wait()
				if s := logged.String(); strings.Contains(s+err.Error(), "hunter2") || strings.Count(s, "\n") != 1 {
					t.Errorf("logged: %s", s)
				}
				source.set(k1)
				time.Sleep(5 * time.Second)
				accepted(t, v, first())

				// Later, it takes the keys away only if it says that there are none.
				source.fail(answer)
				time.Sleep(15 * time.Minute)
				accepted(t, v, first())
				time.Sleep(10 * time.Second)
				if name == "no keys" || name == "none that is right" {
					unavailable(t, v, first())
				} else {
					accepted(t, v, first())
				}
			})
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// slowBody sends a byte a second, for ever.
type slowBody struct{ ctx context.Context }

func (s slowBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return copy(p, " "), nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

func TestDiscovery(t *testing.T) {
	k1, _ := ecKeys(t)
	set := string(must(json.Marshal(obj{"keys": []any{k1}})))
	for name, tt := range map[string]struct {
		issuer string
		doc    obj
		ok     bool
	}{
		"right":            {issuer, obj{"issuer": issuer, "jwks_uri": jwksURL}, true},
		"another host":     {issuer, obj{"issuer": issuer, "jwks_uri": "https://keys.example.net/k"}, true},
		"a slash":          {issuer + "/", obj{"issuer": issuer + "/", "jwks_uri": jwksURL}, true},
		"a path":           {issuer + "/realms/a", obj{"issuer": issuer + "/realms/a", "jwks_uri": jwksURL}, true},
		"loopback":         {"http://127.0.0.1:9", obj{"issuer": "http://127.0.0.1:9", "jwks_uri": "http://127.0.0.1:9/k"}, true},
		"another issuer":   {issuer, obj{"issuer": "https://evil.example", "jwks_uri": jwksURL}, false},
		"a slash less":     {issuer + "/", obj{"issuer": issuer, "jwks_uri": jwksURL}, false},
		"no issuer":        {issuer, obj{"jwks_uri": jwksURL}, false},
		"no keys":          {issuer, obj{"issuer": issuer}, false},
		"keys by http":     {issuer, obj{"issuer": issuer, "jwks_uri": "http://login.example.com/keys"}, false},
		"keys of loopback": {issuer, obj{"issuer": issuer, "jwks_uri": "http://127.0.0.1/keys"}, false},
		"keys of a file":   {issuer, obj{"issuer": issuer, "jwks_uri": "file:///etc/passwd"}, false},
		"keys of a user":   {issuer, obj{"issuer": issuer, "jwks_uri": "https://u:p@login.example.com/keys"}, false},
		"from loopback to http elsewhere": {"http://127.0.0.1:9",
			obj{"issuer": "http://127.0.0.1:9", "jwks_uri": "http://keys.example.com/k"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			v := newVerifier(t, wsguardjwt.Config{
				Issuer: tt.issuer, Algorithms: []string{"ES256"},
				Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
					asked = append(asked, r.URL.String())
					if len(asked) == 1 {
						return respond(200, string(must(json.Marshal(tt.doc)))), nil
					}
					return respond(200, set), nil
				}),
			})
			token := sign("ES256", p256(), nil, obj{"iss": tt.issuer})
			if tt.ok {
				accepted(t, v, token)
			} else {
				unavailable(t, v, token)
			}
			want := 1
			if tt.ok {
				want = 2
			}
			if asked[0] != strings.TrimSuffix(tt.issuer, "/")+"/.well-known/openid-configuration" || len(asked) != want {
				t.Errorf("asked for %v", asked)
			}
		})
	}
}

// TestDiscoveredAgain: a set that is not found where it was is looked for.
func TestDiscoveredAgain(t *testing.T) {
	k1, _ := ecKeys(t)
	synctest.Test(t, func(t *testing.T) {
		source := publish(k1)
		v := byURL(t, source, func(c *wsguardjwt.Config) { c.JWKSURL = "" })
		accepted(t, v, first())
		time.Sleep(15 * time.Minute)
		accepted(t, v, first())
		synctest.Wait()
		if n := source.count(); n != 3 {
			t.Errorf("%d requests, want a document and the set twice", n)
		}
		source.fail(func(*http.Request) (*http.Response, error) { return respond(404, ""), nil })
		time.Sleep(15 * time.Minute)
		accepted(t, v, first())
		synctest.Wait()
		source.set(k1)
		time.Sleep(time.Minute)
		accepted(t, v, first())
		synctest.Wait()
		if n := source.count(); n != 6 {
			t.Errorf("%d requests, want three more", n)
		}
	})
}

// TestSetWithFlaws: a key that cannot be used does not spoil the others.
func TestSetWithFlaws(t *testing.T) {
	k1, k2 := ecKeys(t)
	withCert := k1.(jwkset.JWKMarshal)
	withCert.X5C, withCert.X5U = []string{"no certificate"}, "https://evil.example/cert"
	source := publish(1, obj{"kty": "OKP", "crv": "Ed448", "x": "AQ"}, obj{"kty": 7}, withCert, k2)
	v := byURL(t, source)
	accepted(t, v, first())
	accepted(t, v, second())
	if n := source.count(); n != 1 {
		t.Errorf("%d requests: %v", n, source.fetches)
	}
}

// TestNoGoroutine: over a real connection too, nothing runs once the keys are there.
func TestNoGoroutine(t *testing.T) {
	k1, _ := ecKeys(t)
	url := serveKeys(t, k1)
	before := runtime.NumGoroutine() // the server's among them
	v := newVerifier(t, wsguardjwt.Config{Algorithms: []string{"ES256"}, JWKSURL: url})
	if err := v.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for by := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(by) {
			buf := make([]byte, 64<<10)
			t.Fatalf("goroutines:\n%s", buf[:runtime.Stack(buf, true)])
		}
	}
	accepted(t, v, first())
}

// evilError is a transport's, and one of its methods does not return.
type evilError struct {
	method string
	act    func()
}

func (e *evilError) do(method string) {
	if e.method == method {
		e.act()
	}
}

func (e *evilError) Error() string { e.do("Error"); return "evil" }
func (e *evilError) Unwrap() error { e.do("Unwrap"); return nil }
func (e *evilError) Is(error) bool { e.do("Is"); return false }
func (e *evilError) As(any) bool   { e.do("As"); return false }

type evilLogger struct {
	slog.Handler
	act func()
}

func (l evilLogger) Enabled(context.Context, slog.Level) bool { return true }
func (l evilLogger) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool { _ = a.Value.Any().(error).Error(); return true })
	l.act()
	return nil
}

// TestTransportThatDoesNotReturn: whatever a transport, its error and a logger do,
// the process lives, and the keys are fetched when they can be.
func TestTransportThatDoesNotReturn(t *testing.T) {
	k1, _ := ecKeys(t)
	for what, act := range map[string]func(){"panics": func() { panic("evil") }, "ends its goroutine": runtime.Goexit} {
		for name, answer := range map[string]func() error{
			"transport": func() error { act(); return nil },
			"Error":     func() error { return &evilError{"Error", act} },
			"Unwrap":    func() error { return &evilError{"Unwrap", act} },
			"Is":        func() error { return &evilError{"Is", act} },
			"As":        func() error { return &evilError{"As", act} },
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					source := publish(k1)
					v := byURL(t, source, func(c *wsguardjwt.Config) { c.Logger = slog.New(evilLogger{act: act}) })
					source.fail(func(*http.Request) (*http.Response, error) { return nil, answer() })
					if _, err := v.Verify(t.Context(), first()); !errors.Is(err, wsguard.ErrUnavailable) {
						t.Error("not a 503")
					}
					source.set(k1)
					time.Sleep(time.Minute)
					accepted(t, v, first())
				})
			})
		}
	}
}
