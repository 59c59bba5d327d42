package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/gorilla/handlers"
)

func standardRouter(h routes) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", h.ws)
	page := http.TimeoutHandler(h.page, h.timeout, "the page takes too long")
	mux.Handle("GET /{$}", handlers.CompressHandler(page)) // This package works with any router.
	return accessLog(h.log, mux)
}

// accessLog writes a line for each request.
func accessLog(log io.Writer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		fmt.Fprintf(log, "%s %q %d\n", r.Method, r.URL.Path, rec.status)
	})
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets the guard take over the connection. Without it, each handshake gets a 501.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
