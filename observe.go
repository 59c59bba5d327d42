package wsguard

import (
	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// observeBytes is how long a message may be under Config.Observe, if Messages.MaxBytes is not
// larger. The engine holds whole messages, so that there must be a bound.
const observeBytes = 16 << 20

// observed returns cfg with each field that Observe and InsecureObserve set.
func (cfg Config) observed() Config {
	if cfg.InsecureObserve {
		cfg.Observe = true
		cfg.InsecureReportOnlyOrigins, cfg.Auth.InsecureReportOnly = true, true
	}
	if cfg.Observe {
		cfg.Caps.ReportOnly, cfg.Rates.ReportOnly, cfg.Penalties.ReportOnly, cfg.Timeouts.ReportOnly = true, true, true, true
	}
	cfg.Messages = cfg.observedMessages(cfg.Messages)
	return cfg
}

// observedMessages returns m, which may be that of a further endpoint, with each field that
// Observe and InsecureObserve of cfg set.
func (cfg Config) observedMessages(m MessageConfig) MessageConfig {
	m.ReportOnly = m.ReportOnly || cfg.Observe || cfg.InsecureObserve
	m.InsecureReportOnlyForbidden = m.InsecureReportOnlyForbidden || cfg.InsecureObserve
	return m
}

// maxBytes returns how long a message of a connection may be. A longer one ends the connection.
func (p *endpointPolicy) maxBytes() int64 {
	if p.observe {
		return max(p.messages.MaxBytes, observeBytes)
	}
	return p.messages.MaxBytes
}

// observeForm reports a whole message whose type or length would have ended the connection
// without Config.Observe.
func (in *inbound) observeForm() {
	switch m := in.msg; {
	case in.c.who.awaiting.Load():
	case m.Binary && !in.policy.messages.Binary:
		in.c.refused(reason.MessageType, "", audit.ActionReport)
	case int64(len(m.Data)) > in.policy.messages.MaxBytes:
		in.gauges().refuse(limitSize)
		in.c.refused(reason.MessageTooBig, "", audit.ActionReport)
	}
}

// Tolerates reports a fault that the engine has found, and returns true, if the guard only
// reports faults of this kind.
func (in *inbound) Tolerates(f wire.Fault) bool {
	c := in.c
	switch {
	case f == wire.FaultIdle:
		if !c.first.timeouts.ReportOnly {
			return false
		}
	case !c.first.observe, c.who.awaiting.Load():
		return false
	}
	in.gauges().refuse(limitOf(f))
	c.refused(engineFault(&wire.Error{Fault: f}, false).why, "", audit.ActionReport)
	return true
}

// observeFlight notes how many places in flight are held. With Config.Observe it reports a handshake
// that would have waited for a place.
func (a *admission) observeFlight() {
	all, own := a.g.state.inFlight.levels(a.client)
	g := a.gauges()
	g.note(limitFlight, all)
	g.note(limitFlightEach, own)
	if !a.observe {
		return
	}
	tooMany := a.rates.MaxInFlightPerClient > 0 && own > a.rates.MaxInFlightPerClient
	if tooMany || a.rates.MaxInFlight > 0 && all > a.rates.MaxInFlight {
		over := noPlace(tooMany)
		g.refusedBy(over)
		a.report(over)
	}
}
