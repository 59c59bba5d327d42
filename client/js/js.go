// Package js serves the browser client, so that a Go program needs no build of its pages:
//
//	mux.Handle("GET /wsguard.js", js.Handler())
//
// A page then imports it as a module:
//
//	import { Connection, ticket } from '/wsguard.js';
//
// README.md in this folder describes the client. It is also an npm package.
package js

import (
	"crypto/sha256"
	_ "embed" // for wsguard.js
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

//go:embed wsguard.js
var source string

// Source returns the text of the module.
func Source() string { return source }

// Handler returns a handler that answers a GET or HEAD of any path with the module. The answer has
// an ETag, and Cache-Control: no-cache unless a handler in front has set another value. So a
// browser asks whether the module has changed, and fetches it only then. Any other method gets a
// 405. The Content-Security-Policy of the page must allow the module, as script-src 'self' does,
// and connect-src must allow the WebSocket.
func Handler() http.Handler {
	sum := sha256.Sum256([]byte(source))
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("ETag", etag)
		if h.Get("Cache-Control") == "" {
			h.Set("Cache-Control", "no-cache")
		}
		http.ServeContent(w, r, "wsguard.js", time.Time{}, strings.NewReader(source))
	})
}
