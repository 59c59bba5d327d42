// Proxy guards a WebSocket server in any language, in front of which it stands.
// It tells the server who has connected.
//
//	go run ./proxy -backend http://127.0.0.1:9000
package main

import (
	"crypto/rand"
	"crypto/sha256"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/wsguard/wsguard"
)

// identity is the header that tells the backend who a client is. The backend
// must be reachable through this proxy only.
const identity = "X-User"

// newHandler passes on to backend the WebSockets of those who have the key, and
// of pages of origin, and everything else as it is.
func newHandler(backend *url.URL, origin, key string) (http.Handler, error) {
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{origin},
		Auth: wsguard.AuthConfig{Verifier: wsguard.APIKeys(map[[sha256.Size]byte]wsguard.Principal{
			sha256.Sum256([]byte(key)): {Subject: "alice"},
		})},
	})
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(backend)
		for name := range pr.Out.Header {
			// Some servers take X_User for X-User.
			if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), identity) {
				delete(pr.Out.Header, name)
			}
		}
		if p, ok := wsguard.PrincipalOf(pr.In); ok {
			pr.Out.Header.Set(identity, p.Subject)
		}
	}}
	guarded := guard.Wrap(proxy)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// Any Upgrade header is for the guard to judge: the proxy must not be
		// able to upgrade what takes the other way.
		if r.Header["Upgrade"] != nil {
			guarded.ServeHTTP(w, r)
			return
		}
		proxy.ServeHTTP(w, r) // plain HTTP, which the guard does not protect
	})
	return mux, nil
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	backend := flag.String("backend", "http://127.0.0.1:9000", "URL of the server behind")
	flag.Parse()
	u, err := url.Parse(*backend)
	if err != nil {
		log.Fatal(err)
	}
	key := rand.Text()
	h, err := newHandler(u, "http://"+*addr, key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("npx wscat -c ws://%s -o http://%[1]s -H 'Authorization: Bearer %s'\n", *addr, key)
	srv := &http.Server{Addr: *addr, Handler: h, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(srv.ListenAndServe())
}
