module github.com/wsguard/wsguard/examples/jwt

go 1.25.0

require (
	github.com/MicahParks/jwkset v0.11.3
	github.com/coder/websocket v1.8.15
	github.com/go-chi/chi/v5 v5.2.3
	github.com/golang-jwt/jwt/v5 v5.3.1
	github.com/wsguard/wsguard v0.1.0
	github.com/wsguard/wsguard/contrib/wsguardjwt v0.1.0
	golang.org/x/time v0.15.0
)

require github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect

replace (
	github.com/wsguard/wsguard => ../..
	github.com/wsguard/wsguard/contrib/wsguardjwt => ../../contrib/wsguardjwt
)
