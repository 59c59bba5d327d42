// Package accesslogs tests what access logs and metrics in front of the guard say about an
// upgrade. It is a module of its own, because the middleware is other people's.
package accesslogs
