package wsguard_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"time"

	"github.com/wsguard/wsguard"
)

func Example() {
	guard, err := wsguard.New(wsguard.Config{
		Origins:      []string{"https://app.example.com"},
		Subprotocols: []string{"chat"}, // A page connects with new WebSocket(url, ["chat", "bearer." + key]).
		Auth: wsguard.AuthConfig{
			Verifier: wsguard.APIKeys(map[[32]byte]wsguard.Principal{
				sha256.Sum256([]byte("a-long-random-key")): {Subject: "alice"},
			}),
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if err := c.Write(ctx, typ, msg); err != nil {
				return err
			}
		}
	}))
}

// Every mistake is named at once.
func ExampleNew_faults() {
	_, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com/", "*"},
		Rates:   wsguard.RateConfig{Messages: wsguard.Rate{PerSecond: 5}},
	})
	fmt.Println(err)
	// Output:
	// wsguard: Origins: https://app.example.com/: has a path, if only a slash; leave it out
	// wsguard: Origins: *: would let every site in; list the origins, or set InsecureAnyOrigin
	// wsguard: Auth.Verifier: say who may connect: a Verifier, Authenticate, Tickets, or InsecureAnonymous
	// wsguard: Rates.Messages: {PerSecond:5 Burst:0}: a rate without a burst: say how many may come at once
}

// Messages that do not fit the schema are answered, and never reach Read.
func ExampleCompileSchema() {
	schema, err := wsguard.CompileSchema([]byte(`{
		"type": "object",
		"required": ["type", "text"],
		"additionalProperties": false,
		"properties": {"type": {"const": "say"}, "text": {"type": "string", "maxLength": 500}}
	}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(schema.Validate([]byte(`{"type":"say","text":"hello"}`)))
	fmt.Println(schema.Validate([]byte(`{"type":"say","text":42}`)))
	fmt.Println(schema.Explain([]byte(`{"type":"say","text":42}`)))
	fmt.Println(schema.Explain([]byte(`{"type":"say","type":"sudo"}`)))
	// Output:
	// <nil>
	// wsguard: message does not fit its schema: by #/properties/text/type
	// wsguard: message does not fit its schema: at "/text", by #/properties/text/type
	// wsguard: not JSON: duplicate_key at byte 14
}

// The guards alone, in front of a handler that upgrades by itself.
func ExampleRequestCheck() {
	origin, err := wsguard.NewOriginCheck(wsguard.Config{Origins: []string{"https://app.example.com"}})
	if err != nil {
		log.Fatal(err)
	}
	slots, err := wsguard.NewConnCap(wsguard.Config{Caps: wsguard.CapConfig{MaxConns: 100}})
	if err != nil {
		log.Fatal(err)
	}
	var upgrade http.Handler // yours
	http.Handle("/ws", origin.Handler(slots.Handler(upgrade)))
}

// The loop stays in the handler, with the request's own context and middleware.
func ExampleGuard_Accept() {
	var guard *wsguard.Guard
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := guard.Accept(w, r)
		if err != nil {
			return // the refusal has been written
		}
		defer func() { c.End(err) }()
		for {
			var msg []byte
			if _, msg, err = c.Read(r.Context()); err != nil {
				if errors.Is(err, io.EOF) {
					err = nil // the peer said goodbye
				}
				return
			}
			log.Printf("%d bytes", len(msg))
		}
	})
}

// The guard first: http.Server.Shutdown knows nothing of upgraded connections.
func ExampleGuard_Shutdown() {
	var guard *wsguard.Guard
	var srv *http.Server
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := guard.Shutdown(ctx); err != nil {
		log.Print("cut what was left: ", err)
	}
	if err := srv.Shutdown(ctx); err != nil {
		log.Print(err)
	}
}

// Not this: a message is valid until the next Read only.
func ExampleConn_Read_incorrect() {
	var c *wsguard.Conn
	ctx := context.Background()
	_, first, _ := c.Read(ctx)
	_, second, _ := c.Read(ctx)
	_ = string(first) + string(second) // first has been overwritten; copy it before
}
