module github.com/wsguard/wsguard/internal/jsonv6test

go 1.25.0

require (
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
	github.com/wsguard/wsguard v0.1.0
)

require (
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect
	golang.org/x/text v0.14.0 // indirect
)

replace github.com/wsguard/wsguard => ../..
