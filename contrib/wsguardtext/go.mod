module github.com/wsguard/wsguard/contrib/wsguardtext

go 1.25.0

require (
	github.com/coder/websocket v1.8.15
	github.com/wsguard/wsguard v0.1.0
	golang.org/x/text v0.40.0
)

require (
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect
	golang.org/x/time v0.15.0 // indirect
)

replace github.com/wsguard/wsguard => ../..
