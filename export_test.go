package wsguard

// Resolved returns the Config that g works with: each limit has its default, or
// what New was given. A limit without a default is 0, and a rate that is off is
// Rate{PerSecond: Off}.
func (g *Guard) Resolved() Config {
	e := g.endpoint.policy()
	cfg := Config{
		Auth:      e.auth.cfg,
		Caps:      e.caps,
		Rates:     e.rates,
		Penalties: e.penalties,
		Messages:  e.messages,
		Timeouts:  e.timeouts,
		Send:      e.send,
	}
	cfg.Auth.Tickets = e.auth.tickets
	return cfg
}

// Revalidations returns how many calls of Revalidate have not returned, and how many
// connections wait for a place.
func Revalidations(g *Guard) (running, waiting int) {
	r := &g.state.revalidations
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running, len(r.queue)
}
