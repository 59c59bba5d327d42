package wsguardjwt_test

import (
	"context"
	"log"
	"net/http"
	"os"
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

// An opaque token is verified by asking its issuer.
func ExampleNewIntrospection() {
	introspection, err := wsguardjwt.NewIntrospection(wsguardjwt.IntrospectionConfig{
		Endpoint:     "https://login.example.com/oauth2/introspect",
		ClientID:     "chat-server",
		ClientSecret: os.Getenv("CLIENT_SECRET"),
		Audience:     []string{"https://api.example.com"},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth:    wsguard.AuthConfig{Verifier: introspection.Verify},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// An access token of Amazon Cognito has a client_id in place of an audience.
func ExampleConfig_cognito() {
	_, err := wsguardjwt.New(wsguardjwt.Config{
		Issuer:           "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_EXAMPLE",
		CognitoClientIDs: []string{"1example23456789"},
		SessionClaim:     "origin_jti",
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Each tenant of Microsoft Entra is an issuer of its own.
func ExampleConfig_entra() {
	_, err := wsguardjwt.New(wsguardjwt.Config{
		Issuer:   "https://login.microsoftonline.com/{tenantid}/v2.0",
		Tenants:  []string{"72f988bf-86f1-41af-91ab-2d7cd011db47"},
		Audience: []string{"6731de76-14a6-49ae-97bc-6eba6914391e"},
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Ed25519 and EdDSA are two names of one algorithm.
func ExampleConfig_ed25519() {
	_, err := wsguardjwt.New(wsguardjwt.Config{
		Issuer:     "https://login.example.com",
		Audience:   []string{"https://api.example.com"},
		Algorithms: []string{"Ed25519", "EdDSA"},
	})
	if err != nil {
		log.Fatal(err)
	}
}
