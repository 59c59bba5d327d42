package wsguard

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// policy is a compiled Config. It is immutable, and Reconfigure compiles another one. A
// handshake loads the policy once. A connection keeps the policy of its handshake for
// timeouts, queues and frames. It loads the newest one with Endpoint.policy once per message,
// send and refresh.
type policy struct {
	client       identify
	origin       originRule
	host         hostRule
	insecureHTTP bool
	loopbackOnly bool
	auth         authRule
	caps         CapConfig
	rates        RateConfig
	penalties    PenaltyConfig
	id           string // names the policy in memories that outlive it
	timeouts     TimeoutConfig
	send         SendConfig
	codes        map[*reason.Reason]StatusCode
	observe      bool                       // Config.Observe
	requestID    func(*http.Request) string // nil: the header X-Request-Id
	spikeFactor  float64                    // 0: no spikes are looked for
	broken       *reason.Reason             // why a piece whose configuration has faults refuses every request; nil: it has none

	endpoints []*endpointPolicy // by Endpoint.index
}

// policies counts the policies that were compiled.
var policies atomic.Uint64

func newPolicyID() string { return strconv.FormatUint(policies.Add(1), 36) }

// endpointPolicy is a policy with the settings of one of its endpoints. It is immutable.
type endpointPolicy struct {
	*policy
	name         string
	subprotocols []string
	messages     MessageConfig
	attach       func(*http.Request, Principal) (any, error)
	wire         *wire.Config
}

// compile returns the policy of cfg with its further endpoints, whose lists must not change
// any more. It adds every fault to f. The caller must not use a policy with faults. endings
// bounds how many endings may wait for their peer at the same time.
func compile(cfg Config, further []EndpointConfig, endings chan struct{}, f *faults) *policy {
	cfg = cfg.observed()
	p := &policy{
		id:           newPolicyID(),
		client:       cfg.Proxies.resolver(f),
		origin:       newOriginRule(cfg, f),
		host:         newHostRule(cfg.Hosts, f),
		insecureHTTP: cfg.InsecureAllowHTTP,
		loopbackOnly: newLoopbackRule(cfg, f),
		auth:         newAuthRule(cfg.Auth, f),
		caps:         cfg.Caps.resolve(f),
		rates:        cfg.Rates.resolve(f),
		penalties:    cfg.Penalties.resolve(f),
		timeouts:     cfg.Timeouts.resolve(f),
		send:         cfg.Send.resolve(f),
		codes:        cfg.CloseCodes,
		requestID:    cfg.RequestID,
		observe:      cfg.Observe,
		spikeFactor:  resolveSpikeFactor(cfg.SpikeFactor, f),
	}
	if t := p.auth.tickets; t != nil && t.Store == nil && cfg.Shared.Tickets != nil {
		t.Store, t.shared = cfg.Shared.Tickets, cfg.Shared.Tickets
	}
	if p.origin.missing && p.host.list == nil {
		f.add("AllowMissingOrigin", "", "needs a Hosts list: without an Origin nothing else stops DNS rebinding")
	}
	if entry := p.origin.opaque(); entry != "" && p.auth.cfg.Sources.Cookie != "" {
		f.add("Origins", entry, "with Auth.Sources.Cookie it would let in pages of everybody: take a ticket or a token for pages of the origin "+entry)
	}
	if p.origin.any && p.auth.cfg.Authenticate != nil {
		f.add("InsecureAnyOrigin", "", "with Auth.Authenticate every site could use the logins of its visitors")
	}
	if p.origin.any && p.auth.cfg.Sources.Cookie != "" {
		f.add("InsecureAnyOrigin", "", "with Auth.Sources.Cookie every site could use the cookies of its visitors")
	}
	for why, code := range p.codes {
		if why == nil || why.Code() == 0 || why == reason.Closed || why == reason.PeerClosed {
			f.add("CloseCodes", why, "not a reason of the guard's to close")
		} else if !sendable(code) {
			f.add("CloseCodes", int(code), "cannot be sent")
		}
	}
	own := EndpointConfig{cfg.Name, cfg.Subprotocols, cfg.Messages, cfg.Attach}
	for _, e := range append([]EndpointConfig{own}, further...) {
		if e.Attach == nil {
			e.Attach = cfg.Attach
		}
		e.Messages = cfg.observedMessages(e.Messages)
		p.endpoints = append(p.endpoints, p.endpoint(e, endings, f))
	}
	return p
}

// endpoint compiles the settings of one endpoint.
func (p *policy) endpoint(cfg EndpointConfig, endings chan struct{}, f *faults) *endpointPolicy {
	e := &endpointPolicy{policy: p, name: cfg.Name, subprotocols: cfg.Subprotocols, attach: cfg.Attach}
	for i, s := range e.subprotocols {
		if !isToken(s) {
			f.add("Subprotocols", s, "not a token of RFC 9110")
		} else if slices.Contains(e.subprotocols[:i], s) {
			f.add("Subprotocols", s, "listed twice")
		} else if prefix := p.auth.cfg.Sources.Subprotocol; prefix != "" && strings.HasPrefix(s, prefix) {
			f.add("Subprotocols", s, "begins with Auth.Sources.Subprotocol: it would be taken for a credential")
		}
	}
	e.messages = cfg.Messages.resolve(e.subprotocols, f)
	p.rates.checkBytes(e.messages.MaxBytes, f)
	h, control := p.timeouts, e.messages.ControlFrames
	if control.off() {
		control = Rate{}
	}
	e.wire = &wire.Config{
		PingInterval: h.PingInterval, PongTimeout: h.Pong, IdleTimeout: h.Idle, MessageTimeout: e.messages.Timeout,
		WriteTimeout: h.Write, CloseGrace: h.CloseGrace, Linger: h.Linger, LingerBytes: lingerBytes,
		MaxFragments: e.messages.MaxFragments, ControlRate: control.PerSecond, ControlBurst: control.Burst,
		Endings: endings,
	}
	return e
}

const (
	maxEndings  = 256      // how many endings may wait for their peer at the same time
	lingerBytes = 16 << 20 // how many bytes one of them reads and drops
)

// alone returns the policy of a piece that stands alone. All other steps let a request pass,
// but LoopbackOnly holds.
func alone(cfg Config, f *faults) *policy {
	off := Rate{PerSecond: Off}
	p := &policy{id: newPolicyID(), client: cfg.Proxies.resolver(f), requestID: cfg.RequestID, insecureHTTP: true, loopbackOnly: newLoopbackRule(cfg, f)}
	p.origin.none = true
	p.penalties.Violations = off
	p.auth.cfg.Failures = off
	p.auth.cfg.VerifyTimeout = 5 * time.Second // for OriginFunc
	p.rates.Handshakes = off
	p.rates.MaxInFlight, p.rates.MaxInFlightPerClient = 256, 8
	p.endpoints = []*endpointPolicy{{policy: p, name: cfg.Name}}
	return p
}
