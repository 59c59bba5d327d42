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
	// handler returns the handler of a server that pages of this origin use.
	handler func(origin string) http.Handler
	overTLS bool
}

// Names that ratios are taken of.
const (
	bare    = "coder/websocket, bare"
	guarded = "wsguard, every guard on"
	checked = "wsguard, and a schema"
	gorilla = "gorilla, limit and deadlines"
	gwsName = "gws, UTF-8 check"

	guardedTLS = guarded + ", TLS"
	bareTLS    = bare + ", TLS"

	bySend        = "wsguard, Send"
	byPrepare     = "wsguard, Prepare"
	byBroadcaster = "gws, Broadcaster"
)

// echoServers are in the order of the tables.
var echoServers = []server{
	{name: guarded, handler: guardHandler},
	{name: checked, handler: guardChecked},
	{name: bare, handler: coderBare},
	{name: "coder/websocket, careful", handler: coderCareful},
	{name: gorilla, handler: gorillaHandler},
	{name: gwsName, handler: gwsHandler},
	{name: "gobwas, UTF-8 check", handler: gobwasHandler},
	{name: "melody", handler: melodyHandler},
	{name: wrapGoals[0].wrapped, handler: wrapped(gorillaHandler)},
	{name: wrapGoals[1].wrapped, handler: wrapped(coderBare)},
	{name: wrapGoals[2].wrapped, handler: wrapped(gwsHandler)},
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
	{name: foreignOrigin, handler: guardHandler},
	{name: quietRefusal, handler: func(origin string) http.Handler { return guardEcho(newGuardWith(origin, silent)) }},
	{name: bannedClient, handler: guardBanned},
	{name: overTheCap, handler: guardFull},
	{name: plain403, handler: func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			http.Error(w, "Forbidden", http.StatusForbidden)
		})
	}},
}

// tlsServers are measured over TLS, which net/http and crypto/tls speak for all alike.
var tlsServers = []server{
	{name: guardedTLS, handler: guardHandler, overTLS: true},
	{name: bareTLS, handler: coderBare, overTLS: true},
}

// broadcastServers are in the order of the tables.
var broadcastServers = []server{
	{name: bySend, handler: guardBroadcast},
	{name: byPrepare, handler: guardPrepared},
	{name: byBroadcaster, handler: gwsBroadcast},
}

func findServer(name string) (server, bool) {
	for _, list := range [][]server{echoServers, tlsServers, broadcastServers, refuseServers, watchedServers} {
		for _, s := range list {
			if s.name == name {
				return s, true
			}
		}
	}
	return server{}, false
}
