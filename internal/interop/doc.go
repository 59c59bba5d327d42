// Package interop tests wsguard with clients that share no code with it. It is
// a module of its own, so that the core keeps its three dependencies.
package interop
