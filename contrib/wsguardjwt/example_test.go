package wsguardjwt_test

import (
	"context"
	"log"
	"net/http"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardjwt"
)

// An issuer of OpenID Connect publishes its keys itself.
func Example() {
	verifier, err := wsguardjwt.New(wsguardjwt.Config{
		Issuer:   "https://login.example.com",
		Audience: []string{"https://api.example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins:      []string{"https://app.example.com"},
		Auth:         wsguard.AuthConfig{Verifier: verifier.Verify},
		Subprotocols: []string{"chat"}, // beside it, a browser sends "bearer." and the token
	})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		log.Println(c.Principal().Subject, "may", c.Principal().Scopes)
		_, _, err := c.Read(ctx)
		return err
	}))
}

// A program that is no use without keys need not start without them.
func ExampleVerifier_Ready() {
	verifier, err := wsguardjwt.New(wsguardjwt.Config{
		Issuer:     "https://login.example.com",
		Audience:   []string{"https://api.example.com"},
		Algorithms: []string{"ES256"},
		JWKSURL:    "https://login.example.com/keys",
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := verifier.Ready(ctx); err != nil {
		log.Fatal(err)
	}
}

// Claims of your own become part of the Principal, or a reason to refuse.
func ExampleConfig_principal() {
	cfg := wsguardjwt.Config{
		Issuer:   "https://login.example.com",
		Audience: []string{"https://api.example.com"},
		Principal: func(_ context.Context, claims map[string]any, p wsguard.Principal) (wsguard.Principal, error) {
			tenant, ok := claims["tenant"].(string)
			if !ok {
				return p, wsguard.ErrUnauthenticated
			}
			p.Subject = tenant + "/" + p.Subject // subjects are an issuer's, and tenants may choose theirs
			return p, nil
		},
	}
	if _, err := wsguardjwt.New(cfg); err != nil {
		log.Fatal(err)
	}
}
