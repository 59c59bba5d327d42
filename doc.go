// Package wsguard makes a WebSocket endpoint safe by default.
//
// A [Guard] wraps the handlers of WebSocket endpoints and does the following for them:
//   - It refuses handshakes in clear text, from foreign origins, without a valid credential,
//     or over a limit.
//   - It passes on only messages of an accepted type, size, rate and schema.
//   - It finds peers that are silent, slow or gone.
//   - It ends every connection once, with one cause and one close code.
//   - It reports all of this to log/slog.
//
// # Usage
//
// Most programs need [New], [Guard.Handler], [Conn.Read], [Conn.Write] or [Conn.Send], and
// [Guard.Shutdown]:
//
//	guard, err := wsguard.New(wsguard.Config{
//		Origins:      []string{"https://app.example.com"},
//		Subprotocols: []string{"chat"}, // new WebSocket(url, ["chat", "bearer." + token])
//		Auth:         wsguard.AuthConfig{Verifier: verifier},
//	})
//	if err != nil {
//		log.Fatal(err) // err lists every mistake in the Config
//	}
//	http.Handle("/ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
//		for {
//			typ, msg, err := c.Read(ctx) // msg is valid until the next Read
//			if err != nil {
//				return err
//			}
//			if err := c.Write(ctx, typ, msg); err != nil {
//				return err
//			}
//		}
//	}))
//
// A Config must say which origins may connect, with Origins or with another of the fields for
// origins. It must say who may connect, with Auth. The zero value of every other field is a
// secure default. [Off] switches a limit off, and Rate{PerSecond: Off} switches a rate off.
// Any other value out of range is a [ConfigError]. The names of fields that weaken security
// begin with Insecure.
//
// To put a Guard in front of a running service, set Config.Observe first. The Guard then reports
// what its limits and its Validators would refuse or close, and lets it pass. [Guard.Suggest]
// says which limits fit the service.
//
// # Two doors
//
// A Guard has two ways in, and the same checks, limits and events behind both:
//   - With [Guard.Handler] and [Guard.Accept], the application reads and writes a [Conn].
//     Handler runs a function for each connection. Accept returns the Conn inside a handler
//     of your own, which keeps its request and its middleware around the connection.
//   - With [Guard.Wrap], a handler upgrades by itself. It may use another WebSocket library,
//     or be an httputil.ReverseProxy. Its code does not change. It gets only messages that
//     have passed all checks.
//
// [Guard.Endpoint] adds an endpoint that has messages of its own and shares everything else.
// Guards that are given the same [State] share their counters.
//
// Some checks can also stand alone in front of any http.Handler. These are a [RequestCheck] of
// the origin, of the host or of the transport, an [Authenticator], and a [ConnCap].
//
// # Behind a proxy
//
// By default the client is the peer of the TCP connection, and the Guard believes no header.
// Behind a proxy, name the proxy in [Config]:
//
//	Proxies: wsguard.Proxies{Trusted: []string{"10.0.0.0/8"}},
//
// The Guard then takes the client's address from X-Forwarded-For, or from the header that
// Proxies.Header names. The proxy must also say in X-Forwarded-Proto that the client used https
// or wss. Otherwise a handshake that reaches the server without TLS gets a 403. [Proxies] and
// [NewTLSCheck] have the rules, also for the header Forwarded (RFC 7239).
//
// If a proxy is missing from Trusted, all of its clients share the limits of one client. The
// Guard logs the warning one_client when 100 handshakes in a row have come from one address. If a
// trusted proxy does not send the header with the client's address, the proxy is the client, and
// the Guard logs the warning no_client_header at most once a minute.
//
// # Errors and close codes
//
// Package [github.com/wsguard/wsguard/reason] has a value for each reason to refuse a
// handshake or to end a connection. Its documentation says for each which HTTP status or close
// code the client sees, and what the client should do.
//
// A handshake that is refused gets a status, and a constant body that ends in the token of the
// reason. A connection that the Guard ends gets a close code, and the token as the text. From
// then on Read, Write and Send return a [*CloseError], and errors.Is finds the reason in it:
//
//	_, _, err := c.Read(ctx)
//	switch {
//	case errors.Is(err, io.EOF): // the peer has closed with 1000 or 1001
//	case errors.Is(err, reason.RateLimited): // the guard has closed with 1008 rate_limited
//	}
//
// A handler may return the error of Read as it is. When the connection has ended already, the
// result of the handler changes nothing. If the connection is open, the result of the handler
// closes it with one of these codes:
//   - 1000 for nil
//   - the code of a *CloseError, or of a reason that the application has made with [reason.New]
//   - 1011 for any other error
//
// A hook, such as a [Verifier] or a [Validator], refuses with any error. The client never sees
// the text of the error. The events of package [github.com/wsguard/wsguard/audit] have it,
// except for the errors of hooks that verify credentials. A Verifier, Attach, Authorize or
// Revalidate that cannot decide now returns an error that wraps [ErrUnavailable]. The client
// then gets a 503 or 1013. The refusal counts neither toward AuthConfig.Failures nor toward a
// ban.
//
// # Shutdown
//
// http.Server.Shutdown neither closes upgraded connections nor waits for them. Shut the Guard
// down first:
//
//	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
//	defer cancel()
//	guard.Shutdown(ctx)
//	srv.Shutdown(ctx)
//
// [Guard.Shutdown] refuses new handshakes with 503 and closes the connections with 1012, in
// batches, so that the clients do not all reconnect elsewhere at once. [Guard.Draining] is for
// a readiness probe.
//
// # Testing
//
// Package [github.com/wsguard/wsguard/wsguardtest] serves a handler in a test, in memory or over
// TCP, with a principal of the test's choice. It also checks a schema or a [Table] against a
// corpus of messages.
//
//	func TestHandler(t *testing.T) {
//		s := wsguardtest.NewServer(t, handler)
//		c := s.Dial(wsguardtest.As(wsguard.Principal{Subject: "alice"}))
//		c.WriteText(`{"type":"say","text":"hello"}`)
//		c.WantJSON(`{"type":"said","user":"alice","text":"hello"}`)
//	}
//
// A Guard also works with httptest.NewServer. The server listens on loopback, where clear text
// passes while Proxies is empty. The client must send a listed Origin and a credential. When
// Guard.Shutdown has returned nil, the Guard has no goroutine left. So a leak check passes, and
// a bubble of testing/synctest ends.
package wsguard
