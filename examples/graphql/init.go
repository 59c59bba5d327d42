package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/99designs/gqlgen/graphql/handler/transport"
)

// connectionInit is gqlgen's InitFunc. A client that came with a ticket has authenticated already. For
// any other client the payload of connection_init must have a token. The guard has admitted
// that client as anonymous, so this file closes the connection when the token expires and when
// the user is kicked.
func (a *app) connectionInit(ctx context.Context, payload transport.InitPayload) (context.Context, *transport.InitPayload, error) {
	s := sessionOf(ctx)
	if !s.timer.Stop() {
		return ctx, nil, errors.New("connection_init came too late")
	}
	if s.known {
		return ctx, nil, nil
	}
	token, _ := strings.CutPrefix(payload.GetString("Authorization"), "Bearer ")
	user, err := a.verify(ctx, token)
	if err != nil {
		ctx = transport.WithWebsocketCloseCode(ctx, 4401)
		return transport.AppendCloseReason(ctx, "unauthenticated"), nil, errors.New("unauthenticated")
	}
	s.user = user
	a.late.add(s)
	expiry := time.AfterFunc(time.Until(user.Expires), func() { s.conn.WriteClose(4403, "expired") })
	context.AfterFunc(ctx, func() {
		expiry.Stop()
		a.late.remove(s)
	})
	return ctx, nil, nil
}

// late has the sessions whose users the guard does not know.
type late struct {
	mu       sync.Mutex
	sessions map[*session]struct{} // guarded by mu
}

func (l *late) add(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions == nil {
		l.sessions = map[*session]struct{}{}
	}
	l.sessions[s] = struct{}{}
}

func (l *late) remove(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s)
}

// kick is like app.kick.
func (l *late) kick(name string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sessions {
		if s.user.Subject == name {
			s.conn.WriteClose(1008, "kicked")
			n++
		}
	}
	return n
}
