package main

import (
	"log"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

func chiRouter(h routes) http.Handler {
	r := chi.NewRouter()
	r.Use(middleware.RequestLogger(&middleware.DefaultLogFormatter{Logger: log.New(h.log, "", 0), NoColor: true}))
	r.Method(http.MethodGet, "/ws", h.ws)
	r.Group(func(r chi.Router) {
		r.Use(middleware.Compress(5), middleware.Timeout(h.timeout))
		r.Method(http.MethodGet, "/", h.page)
	})
	return r
}
