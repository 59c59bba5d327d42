package main

import (
	"context"
	"net/http"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/errcode"
	"github.com/99designs/gqlgen/graphql/handler/transport"

	"github.com/wsguard/wsguard"
)

const (
	// initTimeout is how long a client may wait before it sends connection_init.
	initTimeout = 5 * time.Second

	// maxOperations is how many operations a connection may have under way. A subscription is
	// under way until it is completed. gqlgen has no such limit.
	maxOperations = 16
)

func init() {
	// For these errors gqlgen sends the messages error and complete. The client takes either
	// for the end of the operation. After two ends it closes the connection while another
	// subscription is open. As errors of the user, they are sent in next.
	errcode.RegisterErrorType(errcode.ParseFailed, errcode.KindUser)
	errcode.RegisterErrorType(errcode.ValidationFailed, errcode.KindUser)
}

// session is what gqlgen's hooks and the resolvers know of a connection.
type session struct {
	user   wsguard.Principal // written until connection_init is answered, and read-only afterwards
	known  bool              // the guard knows the user, by a ticket; read-only
	places chan struct{}     // a place for each operation under way

	conn  transport.WebsocketConn // written by accepter, and read-only afterwards
	timer *time.Timer             // closes conn if connection_init does not come
}

type sessionKey struct{}

func sessionOf(ctx context.Context) *session { return ctx.Value(sessionKey{}).(*session) }

// sessions gives each request a session.
func sessions(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &session{places: make(chan struct{}, maxOperations)}
		s.user, s.known = wsguard.PrincipalOf(r)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, s)))
	})
}

// accepter gives each session its connection, so that it can be closed with a code that the
// client understands. gqlgen closes with 1002 if connection_init does not come, and the client
// would give up.
type accepter struct {
	transport.CoderWebsocketImplementation
}

func (a accepter) Accept(w http.ResponseWriter, r *http.Request, opts transport.WebsocketAcceptOptions) (transport.WebsocketConn, error) {
	conn, err := a.CoderWebsocketImplementation.Accept(w, r, opts)
	if err == nil {
		s := sessionOf(r.Context())
		s.conn = conn
		s.timer = time.AfterFunc(initTimeout, func() { conn.WriteClose(4408, "connection initialisation timeout") })
	}
	return conn, err
}

// bounded refuses an operation if too many are under way.
func bounded(ctx context.Context, next graphql.OperationHandler) graphql.ResponseHandler {
	s := sessionOf(ctx)
	select {
	case s.places <- struct{}{}:
		context.AfterFunc(ctx, func() { <-s.places })
		return next(ctx)
	default:
		return graphql.OneShot(graphql.ErrorResponse(ctx, "more than %d operations", maxOperations))
	}
}
