// Package proxies has no code. Its tests run the configurations of docs/operations.md in
// nginx, HAProxy, Apache and Caddy, in front of a guarded server. They also run what
// docs/comparison.md says about the limits of nginx and HAProxy. Nightly tests put browsers in
// front of nginx, and restart what is behind it.
package proxies
