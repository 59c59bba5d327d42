module github.com/wsguard/wsguard/internal/jsontexttest

go 1.25.0

require (
	github.com/go-json-experiment/json v0.0.0-20250725192818-e39067aee2d2
	github.com/wsguard/wsguard v0.1.0
)

require github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect

replace github.com/wsguard/wsguard => ../..
