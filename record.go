package wsguard

import (
	"context"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// occurrence is an event with what only its record has.
type occurrence struct {
	audit.Event
	who         clientKey       // the client of a Refusal, a Violation or an Accepted
	ctx         context.Context // that of the request, without its end; nil: there is no request
	at          time.Time       // when the admission of the request began; used by wrapping only
	method      string          // of the request
	scheme      string          // of the request, as schemeOf says
	subprotocol string          // of an Accepted
	until       time.Time       // of a Banned
	strikes     int             // of a Banned
	connections int             // of a Revoked and a SignedOut
	spike       *spikeChange    // of a SpikeStart and a SpikeOver
}

// about returns the request that the occurrence is about.
func (o *occurrence) about() audit.Request {
	return audit.Request{
		Method: o.method, Scheme: o.scheme, Path: o.Path, Endpoint: o.Endpoint, RequestID: o.RequestID, Subject: o.Subject,
		Client: o.Client, Origin: o.Origin, Host: o.Host,
	}
}

// on returns the connection that the occurrence is about.
func (o *occurrence) on() audit.Connection {
	return audit.Connection{ID: o.ConnID, Endpoint: o.Endpoint, Subject: o.Subject, Client: o.Client, Origin: o.Origin, Host: o.Host}
}

// record returns the occurrence as a value of the type for its kind.
func (o *occurrence) record() audit.Record {
	switch o.Kind {
	case audit.Accepted:
		return audit.HandshakeAccepted{Time: o.Time, Request: o.about(), ConnID: o.ConnID, Subprotocol: o.subprotocol, Duration: o.Duration}
	case audit.Refusal:
		return o.refused()
	case audit.Violation:
		if o.ConnID == "" {
			return o.refused()
		}
		return audit.MessageRefused{Time: o.Time, Connection: o.on(), Err: o.Err, Reason: o.Reason, Detail: o.Detail, Action: o.Action}
	case audit.Open:
		return audit.ConnectionOpened{Time: o.Time, Connection: o.on()}
	case audit.Refresh:
		return audit.ConnectionRefreshed{Time: o.Time, Connection: o.on()}
	case audit.Close:
		return audit.ConnectionClosed{
			Time: o.Time, Connection: o.on(), Err: o.Err, Reason: o.Reason, Detail: o.Detail, By: o.By,
			Operator: o.Operator, Code: o.Code, PeerCode: o.PeerCode, Duration: o.Duration, Stats: o.Stats,
		}
	case audit.Banned:
		return audit.ClientBanned{
			Time: o.Time, Client: o.Client, Reason: o.Reason, Detail: o.Detail, Until: o.until, Strikes: o.strikes,
			Report: o.Report, Operator: o.Operator,
		}
	case audit.Lifted:
		return audit.BanLifted{Time: o.Time, Client: o.Client, Operator: o.Operator}
	case audit.Ticket:
		return audit.TicketSold{Time: o.Time, Request: o.about()}
	case audit.Revoked:
		return audit.SubjectRevoked{Time: o.Time, Subject: o.Subject, Connections: o.connections, Operator: o.Operator}
	case audit.SignedOut:
		return audit.LoginSignedOut{Time: o.Time, Connections: o.connections, Operator: o.Operator}
	case audit.Restored:
		return audit.SubjectRestored{Time: o.Time, Subject: o.Subject, Operator: o.Operator}
	case audit.SpikeStart, audit.SpikeOver:
		return o.spike.record(o.Time)
	case audit.Reconfigured:
		return audit.GuardReconfigured{Time: o.Time}
	}
	return audit.OperatorWarned{
		Time: o.Time, Reason: o.Reason, Detail: o.Detail, ConnID: o.ConnID, Client: o.Client, Origin: o.Origin,
		Err: o.Err, Stack: o.Stack,
	}
}

func (o *occurrence) refused() audit.Record {
	return audit.HandshakeRefused{
		Time: o.Time, Request: o.about(), Err: o.Err, Reason: o.Reason, Detail: o.Detail, Status: o.Status,
		Code: o.Code, Report: o.Report, Duration: o.Duration,
	}
}

// event returns an occurrence that is about the admission's request.
func (a *admission) event() occurrence {
	e := occurrence{who: a.client.key(), Event: audit.Event{
		Subject: a.principal.Subject, Client: a.client.String(), Origin: a.r.Header.Get("Origin"), Host: a.r.Host,
		Endpoint: a.name, RequestID: a.askRequestID(),
	}}
	if a.r.URL != nil {
		e.Path = a.r.URL.Path
	}
	if !a.client.valid() {
		e.Client, e.who = a.g.clientOf(a.r)
	}
	if a.g.events.observer.call != nil {
		e.ctx = context.WithoutCancel(a.r.Context())
		e.method, e.scheme = sanitize(a.r.Method, maxField), a.policy.schemeOf(a.r)
	}
	return e
}

// askRequestID returns the ID of the admission's request, as Config.RequestID says.
func (a *admission) askRequestID() (id string) {
	defer func() {
		if recover() != nil {
			id = ""
		}
	}()
	if a.policy.requestID != nil {
		return a.policy.requestID(a.r)
	}
	if a.w != nil {
		if id = a.w.Header().Get("X-Request-Id"); id != "" {
			return id
		}
	}
	return a.r.Header.Get("X-Request-Id")
}
