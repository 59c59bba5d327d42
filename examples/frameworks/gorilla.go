package main

import (
	"net/http"

	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
)

func gorillaRouter(h routes) http.Handler {
	r := mux.NewRouter()
	r.Handle("/ws", h.ws).Methods(http.MethodGet)
	pages := r.NewRoute().Subrouter()
	pages.Use(handlers.CompressHandler, func(next http.Handler) http.Handler {
		return http.TimeoutHandler(next, h.timeout, "the page takes too long")
	})
	pages.Handle("/", h.page).Methods(http.MethodGet)
	return handlers.LoggingHandler(h.log, r)
}
