module github.com/wsguard/wsguard/examples/html

go 1.25.0

require (
	github.com/coder/websocket v1.8.15
	github.com/microcosm-cc/bluemonday v1.0.27
	github.com/wsguard/wsguard v0.1.0
	golang.org/x/net v0.55.0
)

require (
	github.com/aymerick/douceur v0.2.0 // indirect
	github.com/gorilla/css v1.0.1 // indirect
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect
	golang.org/x/time v0.15.0 // indirect
)

replace github.com/wsguard/wsguard => ../..
