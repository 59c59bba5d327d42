module github.com/wsguard/wsguard/bench

go 1.25.0

require (
	github.com/coder/websocket v1.8.15
	github.com/gobwas/ws v1.4.0
	github.com/gorilla/websocket v1.5.3
	github.com/lxzan/gws v1.8.9
	github.com/olahol/melody v1.1.4
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1
	github.com/wsguard/wsguard v0.1.0
	golang.org/x/time v0.15.0
)

require (
	github.com/dolthub/maphash v0.1.0 // indirect
	github.com/gobwas/httphead v0.1.0 // indirect
	github.com/gobwas/pool v0.2.1 // indirect
	github.com/klauspost/compress v1.17.9 // indirect
	golang.org/x/sys v0.6.0 // indirect
)

replace github.com/wsguard/wsguard => ..
