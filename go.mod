module github.com/wsguard/wsguard

go 1.25.0

require (
	github.com/coder/websocket v1.8.15
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1
	golang.org/x/time v0.15.0
)
