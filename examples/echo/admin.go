package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
)

// admin lets a request pass if it carries the admin token as its bearer token.
func admin(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if len(r.Header["Authorization"]) != 1 || !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("Connection", "close") // The body is not read.
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// revoke ends the sessions of a subject.
func revoke(guard *wsguard.Guard) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		subject := r.PostFormValue("subject")
		if subject == "" {
			http.Error(w, "subject is missing", http.StatusBadRequest)
			return
		}
		guard.Admin().Revoke(subject)
		w.WriteHeader(http.StatusNoContent)
	})
}

// defaultMessageBytes is wsguard's default for Messages.MaxBytes.
const defaultMessageBytes = 32 << 10

// broadcast sends the body of a request to every open connection.
func broadcast(open *room, maxBytes int64) http.Handler {
	if maxBytes == 0 {
		maxBytes = defaultMessageBytes
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		msg, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBytes))
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			http.Error(w, "the body is larger than -max-message-bytes", http.StatusRequestEntityTooLarge)
			return
		case err != nil:
			http.Error(w, "the body is not complete", http.StatusBadRequest)
			return
		case !utf8.Valid(msg):
			http.Error(w, "the body is not UTF-8", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]int{"sent": open.send(r.Context(), msg)})
	})
}

// A room knows the open connections.
type room struct {
	mu    sync.Mutex
	seats map[*seat]struct{} // guarded by mu
}

// A seat is the place of one connection in a room. It is reserved before the
// upgrade, so that a client that has read its 101 is in the room. The Guard closes
// it when the connection and its handler are done, or when the upgrade fails.
type seat struct {
	room  *room
	once  sync.Once
	taken chan struct{} // closed when conn is final
	conn  *wsguard.Conn // nil if the handler did not run
}

func (r *room) reserve() *seat {
	s := &seat{room: r, taken: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seats == nil {
		r.seats = map[*seat]struct{}{}
	}
	r.seats[s] = struct{}{}
	return s
}

// take says whose seat it is.
func (s *seat) take(c *wsguard.Conn) {
	s.once.Do(func() {
		s.conn = c
		close(s.taken)
	})
}

// Close gives the seat back.
func (s *seat) Close() error {
	s.take(nil)
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	delete(s.room.seats, s)
	return nil
}

// owner returns the connection, or nil if there is none before ctx ends.
func (s *seat) owner(ctx context.Context) *wsguard.Conn {
	select {
	case <-s.taken:
		return s.conn
	default:
	}
	select {
	case <-s.taken:
		return s.conn
	case <-ctx.Done():
		return nil
	}
}

// send queues a text message on every connection, and returns how many have
// accepted it. It waits at most a second for connections that are being upgraded.
func (r *room) send(ctx context.Context, msg []byte) (sent int) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r.mu.Lock()
	seats := make([]*seat, 0, len(r.seats))
	for s := range r.seats {
		seats = append(seats, s)
	}
	r.mu.Unlock()
	for _, s := range seats {
		if c := s.owner(ctx); c != nil && c.Send(wsguard.MessageText, msg) == nil {
			sent++
		}
	}
	return sent
}
