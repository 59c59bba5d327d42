package wsguardtest

import (
	"context"
	"crypto/rand"
	"sync"
	"testing"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

// principals has the Principal of each token of this process, by the token.
var principals sync.Map

// Token returns a credential that stands for p until the test ends. [Verify] accepts it, and so
// does the Guard of a [Server]. Use it where [As] cannot present a principal, such as in a first
// message, for Conn.Refresh, or with a client of another library. The test fails if p has no
// Subject.
func Token(t testing.TB, p wsguard.Principal) string {
	t.Helper()
	if p.Subject == "" {
		t.Fatal("wsguardtest: Token: the Principal has no Subject")
	}
	token := "wsguardtest-" + rand.Text()
	principals.Store(token, p)
	t.Cleanup(func() { principals.Delete(token) })
	return token
}

// Verify is a [wsguard.Verifier] that accepts what [As] presents and what [Token] returns, and
// nothing else. It is for tests of a handler that makes its own Guard. It is safe to leave it in
// a program by mistake, because it then accepts nothing.
func Verify(_ context.Context, token string) (wsguard.Principal, error) {
	p, ok := principals.Load(token)
	if !ok {
		return wsguard.Principal{}, reason.Unauthenticated
	}
	return p.(wsguard.Principal), nil
}

// admitPrincipals makes a Guard accept what As presents, besides what it accepts anyway.
func admitPrincipals(auth *wsguard.AuthConfig) {
	own := auth.Verifier
	if own == nil || auth.Sources != (wsguard.TokenSources{}) { // the default has Header
		auth.Sources.Header, auth.Sources.TicketsOnly = true, false
	}
	auth.Verifier = func(ctx context.Context, token string) (wsguard.Principal, error) {
		p, err := Verify(ctx, token)
		if err != nil && own != nil {
			return own(ctx, token)
		}
		return p, err
	}
}
