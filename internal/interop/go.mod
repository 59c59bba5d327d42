module github.com/wsguard/wsguard/internal/interop

go 1.25.0

require (
	github.com/gorilla/websocket v1.5.3
	github.com/lxzan/gws v1.8.9
	github.com/wsguard/wsguard v0.0.0
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/dolthub/maphash v0.1.0 // indirect
	github.com/klauspost/compress v1.17.9 // indirect
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect
	golang.org/x/time v0.15.0 // indirect
)

replace github.com/wsguard/wsguard => ../..
