package wsguard

// Resolved returns the Config that g works with: each limit has its default, or
// what New was given. A limit without a default is 0, and a rate that is off is
// Rate{PerSecond: Off}.
func (g *Guard) Resolved() Config {
	e := g.endpoint.now.Load()
	cfg := Config{
		Auth:      e.auth.cfg,
		Caps:      e.caps,
		Rates:     e.rates.cfg,
		Penalties: e.penalties,
		Messages:  e.messages,
		Heartbeat: e.heartbeat,
		Send:      e.send,
	}
	cfg.Rates.MaxInFlight, cfg.Rates.MaxInFlightPerClient = e.rates.inFlight.max, e.rates.inFlight.maxEach
	if e.auth.tickets != nil {
		cfg.Auth.Tickets = &e.auth.tickets.cfg
	}
	return cfg
}
