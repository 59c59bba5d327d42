package wsguard

import (
	"maps"
	"net/http"
	"slices"
)

// EndpointConfig has the settings of one endpoint. The endpoints of a Guard share all other
// settings. The first endpoint of a Guard, which Guard.Handler, Guard.Accept and Guard.Wrap
// serve, has these settings in Config.
type EndpointConfig struct {
	// Name names the endpoint in events and in the log. It is cut to 256 bytes. The default is
	// the empty name, and not the name in the Guard's Config.
	Name string

	// Subprotocols is as in [Config]. The default is an empty list, and not the list of the
	// Guard's Config.
	Subprotocols []string

	// Messages is as in [Config]. A field that is zero has the default that its comment states,
	// and not the value of the Guard's Config. Config.Observe and Config.InsecureObserve of the
	// Guard apply to it.
	Messages MessageConfig

	// Attach is as in [Config]. The default, nil, is the Attach of the Guard.
	Attach func(*http.Request, Principal) (any, error)
}

// Endpoint is an endpoint of a Guard. It has its own subprotocols, messages and Attach, and
// shares everything else with the other endpoints of the Guard.
type Endpoint struct {
	g     *Guard // read-only
	index int    // in policy.endpoints; read-only
}

// policy returns the endpoint's newest policy.
func (e *Endpoint) policy() *endpointPolicy { return e.g.policy.Load().endpoints[e.index] }

// Endpoint returns a further endpoint of g, or an error that has every mistake in cfg at once,
// each as a *[ConfigError].
func (g *Guard) Endpoint(cfg EndpointConfig) (*Endpoint, error) {
	g.setting.Lock()
	defer g.setting.Unlock()
	further := append(slices.Clone(g.further), cfg.clone())
	if err := g.configure(g.cfg, further); err != nil {
		return nil, err
	}
	return &Endpoint{g: g, index: len(further)}, nil
}

// Reconfigure is like [Guard.Reconfigure] for the settings of this endpoint.
func (e *Endpoint) Reconfigure(cfg EndpointConfig) error {
	g := e.g
	g.setting.Lock()
	defer g.setting.Unlock()
	if e.index == 0 {
		own := g.cfg
		own.Name, own.Subprotocols, own.Messages, own.Attach = cfg.Name, cfg.Subprotocols, cfg.Messages, cfg.Attach
		return g.configure(own, g.further)
	}
	further := slices.Clone(g.further)
	further[e.index-1] = cfg.clone()
	return g.configure(g.cfg, further)
}

func (cfg EndpointConfig) clone() EndpointConfig {
	cfg.Subprotocols = slices.Clone(cfg.Subprotocols)
	cfg.Messages.Validator = ownTable(cfg.Messages.Validator)
	cfg.Messages.Outbound = ownTable(cfg.Messages.Outbound)
	cfg.Messages.Validators = maps.Clone(cfg.Messages.Validators)
	for name, v := range cfg.Messages.Validators {
		cfg.Messages.Validators[name] = ownTable(v)
	}
	return cfg
}

// ownTable returns v, or a copy if it is a Table, which its caller may change.
func ownTable(v Validator) Validator {
	t, ok := v.(*Table)
	if !ok || t == nil {
		return v
	}
	return t.clone()
}
