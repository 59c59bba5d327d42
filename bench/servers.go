package main

import "net/http"

// What every server is given alike.
const (
	maxMessage = 64 << 10
	// token opens the guard; the other servers do not look at it.
	token = "bench-31f1d8a0c5b94d07a6c2"
)

// server is one way to echo messages.
type server struct {
	name string
	// handler returns the handler of a server that is to be reached from
	// pages of this origin.
	handler func(origin string) http.Handler
}

// Names that ratios are taken of.
const (
	bare    = "coder/websocket, bare"
	guarded = "wsguard, every guard on"
	checked = "wsguard, and a schema"
	gorilla = "gorilla, limit and deadlines"
	gwsName = "gws, UTF-8 check"
)

// echoServers are in the order of the tables.
var echoServers = []server{
	{guarded, guardHandler},
	{checked, guardChecked},
	{bare, coderBare},
	{"coder/websocket, careful", coderCareful},
	{gorilla, gorillaHandler},
	{gwsName, gwsHandler},
	{"gobwas, UTF-8 check", gobwasHandler},
	{"melody", melodyHandler},
	{wrapGoals[0].wrapped, wrapped(gorillaHandler)},
	{wrapGoals[1].wrapped, wrapped(coderBare)},
	{wrapGoals[2].wrapped, wrapped(gwsHandler)},
}

// plain403 is what a refusal costs at the least: net/http itself.
const plain403 = "net/http, 403"

// What refuses, and for what.
const (
	foreignOrigin = "wsguard, foreign origin"
	bannedClient  = "wsguard, banned client"
	overTheCap    = "wsguard, over the cap"
)

var refuseServers = []server{
	{foreignOrigin, guardHandler},
	{bannedClient, guardBanned},
	{overTheCap, guardFull},
	{plain403, func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "Forbidden", http.StatusForbidden)
		})
	}},
}

func findServer(name string) (server, bool) {
	for _, list := range [][]server{echoServers, refuseServers} {
		for _, s := range list {
			if s.name == name {
				return s, true
			}
		}
	}
	return server{}, false
}
