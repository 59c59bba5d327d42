// Gorilla is an echo on gorilla/websocket behind a guard. Only the line with
// Wrap knows of the guard.
//
//	go run ./gorilla
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"flag"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/wsguard/wsguard"
)

var upgrader = websocket.Upgrader{
	// The guard has checked the origin. Say this only of a handler that is
	// behind Wrap.
	CheckOrigin: func(*http.Request) bool { return true },
}

func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	defer conn.Close()
	for {
		typ, msg, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if err := conn.WriteMessage(typ, msg); err != nil {
			return
		}
	}
}

// newHandler serves /ws to those who have the key, and to pages of origin.
func newHandler(origin, key string) (http.Handler, error) {
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{origin},
		Auth: wsguard.AuthConfig{Verifier: wsguard.APIKeys(map[[sha256.Size]byte]wsguard.Principal{
			sha256.Sum256([]byte(key)): {Subject: "alice"},
		})},
	})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/ws", guard.Wrap(http.HandlerFunc(echo)))
	return mux, nil
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	key := rand.Text()
	h, err := newHandler("http://"+*addr, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("npx wscat -c ws://%s/ws -o http://%[1]s -H 'Authorization: Bearer %s'\n", *addr, key)
	srv := &http.Server{Addr: *addr, Handler: h, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(srv.ListenAndServe())
}
