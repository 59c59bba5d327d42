module github.com/wsguard/wsguard/examples/cluster

go 1.25.0

require (
	github.com/alicebob/miniredis/v2 v2.40.0
	github.com/coder/websocket v1.8.15
	github.com/redis/go-redis/v9 v9.18.0
	github.com/wsguard/wsguard v0.1.0
	github.com/wsguard/wsguard/contrib/wsguardredis v0.1.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/dgryski/go-rendezvous v0.0.0-20200823014737-9f7001d12a5f // indirect
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1 // indirect
	github.com/yuin/gopher-lua v1.1.1 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	golang.org/x/time v0.15.0 // indirect
)

replace (
	github.com/wsguard/wsguard => ../..
	github.com/wsguard/wsguard/contrib/wsguardredis => ../../contrib/wsguardredis
)
