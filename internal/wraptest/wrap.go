package wraptest

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/wsguard/wsguard"
)

// wrapper is the method of a Guard that this module tests.
type wrapper interface {
	Wrap(next http.Handler) http.Handler
}

// CanWrap reports whether the Guard of this tree has the method Wrap.
func CanWrap() bool {
	_, ok := any((*wsguard.Guard)(nil)).(wrapper)
	return ok
}

// Wrap returns g.Wrap(next).
func Wrap(g *wsguard.Guard, next http.Handler) http.Handler {
	return any(g).(wrapper).Wrap(next)
}

// Bare is the environment variable that makes [Guarded] and [NewServer] leave
// handlers as they are.
const Bare = "WRAPTEST_BARE"

// Guarded wraps next in a Guard that tests of other projects can pass. It admits
// clients without an Origin and without a credential.
func Guarded(next http.Handler) http.Handler {
	if os.Getenv(Bare) != "" {
		return next
	}
	g, err := wsguard.New(wsguard.Config{
		Origins:            []string{"https://app.example.com"},
		AllowMissingOrigin: true,
		Hosts:              []string{"127.0.0.1"},
		Auth:               wsguard.AuthConfig{InsecureAnonymous: true},
		Logger:             slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(fmt.Sprintf("wraptest: %v", err))
	}
	return Wrap(g, next)
}

// NewServer is httptest.NewServer for the handler that [Guarded] returns. A
// test of another project that names this package httptest in its import is
// guarded by the change of that one line.
func NewServer(next http.Handler) *httptest.Server {
	return httptest.NewServer(Guarded(next))
}

// Server is what tests of other projects expect of package httptest.
type Server = httptest.Server
