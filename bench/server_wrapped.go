package main

import "net/http"

// wrapped is a server of another library behind Guard.Wrap, with every guard on. Its code
// is that of the bare one.
func wrapped(bare func(origin string) http.Handler) func(origin string) http.Handler {
	return func(origin string) http.Handler { return newGuard(origin, nil).Wrap(bare(origin)) }
}

// wrapGoal is what a wrapped server may cost beside the bare one.
type wrapGoal struct {
	wrapped, bare string
	at            map[int]float64 // by the size of a message
}

var wrapGoals = []wrapGoal{
	{"wsguard.Wrap, " + gorilla, gorilla, map[int]float64{150: 1.10, 4 << 10: 1.15}},
	{"wsguard.Wrap, " + bare, bare, map[int]float64{150: 1.10, 4 << 10: 1.15}},
	{"wsguard.Wrap, " + gwsName, gwsName, map[int]float64{150: 1.10, 4 << 10: 1.30}},
}
