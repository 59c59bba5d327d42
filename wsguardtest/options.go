package wsguardtest

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/wsguard/wsguard"
)

// An Option says how a server of [NewServer], [NewServerFunc] or [NewHTTPServer] works. Each
// [DialOption] is an Option, too.
type Option interface {
	server(*serverOptions)
}

// A DialOption says how a client connects. As an [Option] of a server it holds for all clients
// of the server. An option of [Server.Dial] comes after those of the server.
type DialOption interface {
	Option
	dial(*dialOptions)
}

// serverOptions are what the Options of a server say.
type serverOptions struct {
	config     wsguard.Config
	configured bool // config is set
	tcp        bool
	goroutines []string // names of functions
	dial       []DialOption
}

// dialOptions are what the DialOptions of a client say.
type dialOptions struct {
	path         string
	host         string
	header       http.Header // a name without a value removes a field of the handshake
	subprotocols []string
	principal    wsguard.Principal
	from         netip.Addr // the zero Addr: the listener's default
	timeout      time.Duration
	err          error
}

type serverOption func(*serverOptions)

func (f serverOption) server(o *serverOptions) { f(o) }

type dialOption func(*dialOptions)

func (f dialOption) server(o *serverOptions) { o.dial = append(o.dial, f) }
func (f dialOption) dial(o *dialOptions)     { f(o) }

// Config is the configuration of the Guard. The default is the zero Config. The server changes
// these fields:
//   - If no field says which origins may connect, Origins has an origin of the server's, which
//     its clients send.
//   - If no field says who may connect, Auth.InsecureAnonymous is true.
//   - Auth.Verifier also accepts what [As] presents, and calls the Verifier of cfg for any
//     other credential. Auth.Sources also has Header, and it does not have TicketsOnly.
//   - OnEvent records the event in [Server.Events] before it calls the OnEvent of cfg.
//   - Logger is one that discards all lines, if cfg has none.
//
// The test fails if [wsguard.New] refuses the Config. With NewHTTPServer, which has no Guard,
// the test fails, too.
func Config(cfg wsguard.Config) Option {
	return serverOption(func(o *serverOptions) { o.config, o.configured = cfg, true })
}

// TCP makes the server listen on a port of 127.0.0.1. The default is a listener in memory. A
// test in a bubble of testing/synctest fails with TCP, because time in a bubble does not pass
// while a goroutine waits for the network.
func TCP() Option {
	return serverOption(func(o *serverOptions) { o.tcp = true })
}

// AllowGoroutines makes the server ignore goroutines that are left when the test has ended, if
// their stack has a function whose name contains the text function. An example is
// "database/sql.(*DB).connectionOpener" for a database that outlives the test.
func AllowGoroutines(function string) Option {
	return serverOption(func(o *serverOptions) { o.goroutines = append(o.goroutines, function) })
}

// As makes the client that of a principal, without a real credential. The Guard treats p as the
// result of its Verifier, and so p.Expires and p.IssuedAt count. The zero Principal stands for a
// client without a credential, which is the default.
//
// The client sends the field Authorization with a [Token]. A Guard that the server has made
// accepts it. Any other Guard must have [Verify] as its Verifier and Header among its Sources.
func As(p wsguard.Principal) DialOption {
	return dialOption(func(o *dialOptions) { o.principal = p })
}

// Origin is the Origin of the handshake. With an empty origin there is none, as from a program.
// The default is an origin that the Config admits. If the Config admits only handshakes without
// an Origin, the default is none. With NewHTTPServer, whose Config is not known, the default is
// the server's own origin, such as "http://127.0.0.1:8080".
func Origin(origin string) DialOption { return Header("Origin", origin) }

// Header sets a field of the handshake. It replaces the default of the field, and the value of
// an earlier option. With an empty value the handshake lacks the field.
func Header(name, value string) DialOption {
	return dialOption(func(o *dialOptions) {
		name := http.CanonicalHeaderKey(name)
		if o.header[name] = nil; value != "" {
			o.header[name] = []string{value}
		}
	})
}

// Host is the Host of the handshake. The default is the first entry of Config.Hosts. Without
// Hosts it is the address of the server.
func Host(host string) DialOption {
	return dialOption(func(o *dialOptions) { o.host = host })
}

// Path is the path of the handshake, with the query if there is one, such as "/ws?room=7". The
// default is "/".
func Path(path string) DialOption {
	return dialOption(func(o *dialOptions) { o.path = path })
}

// Subprotocols are the subprotocols that the client offers. The default is the list
// Config.Subprotocols of the Guard, and none with NewHTTPServer. A call without names offers
// none.
func Subprotocols(names ...string) DialOption {
	names = slices.Clone(names)
	return dialOption(func(o *dialOptions) { o.subprotocols = names })
}

// From is the address of the client, such as "127.0.0.2". The default is 127.0.0.1 for all
// clients, which makes them one client for the limits of the Guard. A Guard refuses clear text
// from an address that is not loopback, unless its Config has InsecureAllowHTTP. With [TCP], the
// machine must have the address.
func From(addr string) DialOption {
	return dialOption(func(o *dialOptions) {
		if o.from, o.err = netip.ParseAddr(addr); o.err != nil {
			o.err = fmt.Errorf("From: %w", o.err)
		}
	})
}

// Timeout is how long each call of the client waits. The default is 10 s, and less if the test
// must end before. In a bubble of testing/synctest the default is 24 hours, because waiting costs
// nothing there.
func Timeout(d time.Duration) DialOption {
	return dialOption(func(o *dialOptions) {
		if o.timeout = d; d <= 0 {
			o.err = fmt.Errorf("Timeout: %v is not positive", d)
		}
	})
}
