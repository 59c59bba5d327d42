// Package proxies has no code. Its tests run the configurations of docs/operations.md in
// nginx, HAProxy, Apache and Caddy, in front of a guarded server.
package proxies
