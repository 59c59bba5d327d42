package main

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/wsguard/wsguard"
)

// guardHandler is a Guard with every guard on but a schema. Limits that the load
// would hit are high, not off: each message passes every bucket there is.
func guardHandler(origin string) http.Handler { return guardEcho(newGuard(origin, nil)) }

// guardChecked has every message judged by a schema as well.
func guardChecked(origin string) http.Handler {
	schema, err := wsguard.CompileSchema([]byte(`{
		"type": "object", "additionalProperties": false, "required": ["type", "room", "text"],
		"properties": {
			"type": {"const": "chat"},
			"room": {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
			"text": {"type": "string", "minLength": 1, "maxLength": 65536}
		}
	}`))
	if err != nil {
		panic(err)
	}
	return guardEcho(newGuard(origin, schema))
}

// guardBanned has banned the one client that there is.
func guardBanned(origin string) http.Handler {
	guard := newGuard(origin, nil)
	if err := guard.Admin().Ban("127.0.0.1", time.Hour, "bench"); err != nil {
		panic(err)
	}
	return guardEcho(guard)
}

// guardFull has no slot left.
func guardFull(origin string) http.Handler {
	guard := newGuard(origin, nil)
	for {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "192.0.2.1:1"
		if _, err := guard.Pieces().Cap.Acquire(r); err != nil {
			return guardEcho(guard)
		}
	}
}

func newGuard(origin string, v wsguard.Validator) *wsguard.Guard {
	return newGuardWith(origin, func(cfg *wsguard.Config) { cfg.Messages.Validator = v })
}

// newGuardWith has change change the configuration.
func newGuardWith(origin string, change func(*wsguard.Config)) *wsguard.Guard {
	plenty := wsguard.Rate{PerSecond: 1e9, Burst: 1e9}
	_, host, _ := strings.Cut(origin, "://")
	cfg := wsguard.Config{
		Origins: []string{origin},
		Hosts:   []string{host},
		Auth: wsguard.AuthConfig{
			Verifier: wsguard.APIKeys(map[[sha256.Size]byte]wsguard.Principal{
				sha256.Sum256([]byte(token)): {Subject: "bench"},
			}),
		},
		Caps: wsguard.CapConfig{MaxConnsPerClient: 10000, MaxConnsPerSubject: 10000},
		Rates: wsguard.RateConfig{
			Messages: plenty, ClientMessages: plenty, SubjectMessages: plenty,
			Bytes: plenty, ClientBytes: plenty, SubjectBytes: plenty,
			Handshakes: plenty, MaxInFlightPerClient: 10000,
		},
		Messages: wsguard.MessageConfig{MaxBytes: maxMessage},
		// Lines are formatted and thrown away: their cost is the guard's.
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	change(&cfg)
	guard, err := wsguard.New(cfg)
	if err != nil {
		panic(err) // a fault in this file
	}
	return guard
}

func guardEcho(guard *wsguard.Guard) http.Handler {
	return guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if err := c.Write(ctx, typ, msg); err != nil {
				return err
			}
		}
	})
}
