module github.com/wsguard/wsguard/internal/idnatest

go 1.25.0

require (
	github.com/wsguard/wsguard v0.1.0
	golang.org/x/net v0.57.0
	golang.org/x/text v0.40.0
)

require github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect

replace github.com/wsguard/wsguard => ../..
