package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"fmt"
	"strings"
	"time"

	"github.com/wsguard/wsguard"
)

// schemas has a JSON Schema for each type of message that a client may send.
//
//go:embed messages
var schemas embed.FS

// users returns a Verifier for API keys. keys has the key of each user, by name. A Principal
// expires after ttl. Alice is a moderator.
func users(keys map[string]string, ttl time.Duration) wsguard.Verifier {
	known := map[[sha256.Size]byte]wsguard.Principal{}
	for name, key := range keys {
		p := wsguard.Principal{Subject: name}
		if name == "alice" {
			p.Scopes = []string{"moderate"}
		}
		known[sha256.Sum256([]byte(key))] = p
	}
	verify := wsguard.APIKeys(known)
	return func(ctx context.Context, token string) (wsguard.Principal, error) {
		p, err := verify(ctx, token)
		p.Expires = time.Now().Add(ttl)
		return p, err
	}
}

// messages says what clients may send, by its type.
func messages() (*wsguard.Table, error) {
	table := &wsguard.Table{Types: map[string]wsguard.Rule{}}
	files, err := schemas.ReadDir("messages")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		src, err := schemas.ReadFile("messages/" + f.Name())
		if err != nil {
			return nil, err
		}
		schema, err := wsguard.CompileSchema(src)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		table.Types[strings.TrimSuffix(f.Name(), ".json")] = wsguard.Rule{Validator: schema}
	}
	return table, nil
}
