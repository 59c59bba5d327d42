// Command echo is wsguard's reference server. It sends every message back, and
// every guard is a flag, so that each of them can be tried and tested by itself.
//
//	go run ./examples/echo -tokens alice=T1 -message-rate 5/10
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if err == flag.ErrHelp {
			return
		}
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(2)
	}
}

// options are the flags that are not part of wsguard.Config.
type options struct {
	addr       string
	origins    list
	sameOrigin bool
	tokens     pairs
	tokenFrom  list
	tokenTTL   time.Duration
	tickets    bool
	wrap       bool
	adminToken string
	schema     string
	logFormat  string
	drain      time.Duration
	echo       echo
}

// run serves until ctx ends, then drains.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var cfg wsguard.Config
	var o options
	if err := parse(args, stderr, &cfg, &o); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if o.logFormat == "json" {
		log = slog.New(slog.NewJSONHandler(stderr, nil))
	}
	cfg.Logger = log

	ln, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	if o.sameOrigin { // Without a list of hosts, DNS rebinding could make any page one of the same origin.
		cfg.SameOrigin, cfg.InsecureSameOrigin = cfg.Hosts != nil, cfg.Hosts == nil
	}
	if cfg.Origins = o.origins; len(cfg.Origins) == 0 && !o.sameOrigin && !cfg.InsecureAnyOrigin {
		cfg.Origins = ownOrigins(o.addr, ln.Addr())
	}
	if err := authenticate(&cfg.Auth, &o); err != nil {
		return err
	}
	if o.wrap && cfg.Auth.Sources.FirstMessage {
		return errors.New("-wrap: the wrapped handler reads the first message itself, so -token-from first-message cannot be had")
	}
	if o.schema != "" {
		src, err := os.ReadFile(o.schema)
		if err != nil {
			return err
		}
		schema, err := wsguard.CompileSchema(src)
		if err != nil {
			return fmt.Errorf("%s: %w", o.schema, err)
		}
		cfg.Messages.Validator = schema
	}
	open := &room{}
	if o.adminToken != "" && !o.wrap {
		cfg.Attach = func(*http.Request, wsguard.Principal) (any, error) { return open.reserve(), nil }
	}
	guard, err := wsguard.New(cfg)
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	o.echo.greeting = bytes.Repeat([]byte("x"), o.echo.greetBytes)
	ws := guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		if s, ok := c.Value().(*seat); ok {
			s.take(c)
		}
		return o.echo.serve(ctx, c)
	})
	if o.wrap {
		ws = guard.Wrap(plainEcho(cfg.Subprotocols))
	}
	mux.Handle("/ws", ws)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]int{"connections": guard.Conns(), "goroutines": runtime.NumGoroutine()})
	})
	if o.tickets {
		mux.Handle("/ticket", guard.TicketHandler(nil))
	}
	if o.adminToken != "" {
		mux.Handle("POST /revoke", admin(o.adminToken, revoke(guard)))
		if !o.wrap {
			mux.Handle("POST /broadcast", admin(o.adminToken, broadcast(open, cfg.Messages.MaxBytes)))
		}
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PRI" { // This is the preface of HTTP/2. The mux does not route it, and the guard answers it.
				ws.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // It no longer applies after the upgrade.
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	fmt.Fprintf(stdout, "listening on http://%s\n", ln.Addr())
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}

	// The guard drains first, because http.Server.Shutdown does not see upgraded
	// connections. A connection that does not end in time is cut, which is no error.
	drain := context.Background()
	if o.drain >= 0 {
		if o.drain == 0 {
			o.drain = 5 * time.Second
		}
		var cancel context.CancelFunc
		drain, cancel = context.WithTimeout(drain, o.drain)
		defer cancel()
	}
	if err := guard.Shutdown(drain); err != nil {
		log.Warn("drain: cut what was left", "err", err)
	}
	// The HTTP requests that are left are answered at once. http.Server would wait
	// five seconds for connections that have not sent a request.
	brief, cancel := context.WithTimeout(drain, 200*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(brief); err != nil {
		srv.Close()
	}
	return nil
}

// plainEcho is an echo handler on coder/websocket that knows nothing of wsguard. The guard
// in front of it has checked the Origin.
func plainEcho(subprotocols []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: subprotocols})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		ctx := context.Background()
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return
			}
			if err := c.Write(ctx, typ, msg); err != nil {
				return
			}
		}
	})
}

// ownOrigins returns the origins of pages that are served from addr. asked is the
// address as the flag has it, which may be a host name.
func ownOrigins(asked string, addr net.Addr) []string {
	own := []string{"http://" + addr.String()}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return own
	}
	if net.ParseIP(host).IsUnspecified() {
		own = append(own, "http://localhost:"+port, "http://127.0.0.1:"+port, "http://[::1]:"+port)
	}
	if name, _, err := net.SplitHostPort(asked); err == nil && name != "" && !strings.Contains(name, ":") {
		own = append(own, "http://"+strings.TrimSuffix(name, ".")+":"+port)
	}
	return own
}

// echo says how the handler answers. Its zero value writes every message back.
type echo struct {
	writeBy    string // "send", or Write is used
	greet      int
	greetBytes int
	quitAfter  int // 0: never
	work       time.Duration
	greeting   []byte // greetBytes long
}

// serve is the handler of one connection.
func (e *echo) serve(ctx context.Context, c *wsguard.Conn) error {
	write := c.Write
	if e.writeBy == "send" {
		write = func(_ context.Context, typ wsguard.MessageType, msg []byte) error {
			return c.Send(typ, msg)
		}
	}
	for range e.greet {
		if err := write(ctx, wsguard.MessageText, e.greeting); err != nil {
			return err
		}
	}
	for answers := 1; ; answers++ {
		typ, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if e.work > 0 {
			select {
			case <-time.After(e.work):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := write(ctx, typ, msg); err != nil {
			return err
		}
		if answers == e.quitAfter {
			return nil
		}
	}
}

// authenticate sets who may connect: the holders of the tokens, or anybody if
// there are none.
func authenticate(auth *wsguard.AuthConfig, o *options) error {
	for _, from := range o.tokenFrom {
		switch from {
		case "header":
			auth.Sources.Header = true
		case "subprotocol":
			auth.Sources.Subprotocol = "bearer."
		case "cookie":
			auth.Sources.Cookie = "session"
		case "query":
			auth.Sources.InsecureQuery = "token"
		case "first-message":
			auth.Sources.FirstMessage = true
		default:
			return fmt.Errorf("-token-from: %q is none of header, subprotocol, query, cookie, first-message", from)
		}
	}
	if o.tickets {
		auth.Tickets = &wsguard.TicketConfig{}
	}
	if len(o.tokens) == 0 {
		auth.InsecureAnonymous = true
		return nil
	}
	keys := map[[sha256.Size]byte]wsguard.Principal{}
	for _, p := range o.tokens {
		if p.subject == "" || p.token == "" {
			return errors.New("-tokens: want subject=token") // package flag would show it
		}
		key := sha256.Sum256([]byte(p.token))
		if old, ok := keys[key]; ok && old.Subject != p.subject {
			return fmt.Errorf("-tokens: %s and %s have the same token", old.Subject, p.subject)
		}
		keys[key] = wsguard.Principal{Subject: p.subject}
	}
	known := wsguard.APIKeys(keys)
	auth.Verifier = func(ctx context.Context, token string) (wsguard.Principal, error) {
		p, err := known(ctx, token)
		if err == nil && o.tokenTTL > 0 {
			p.Expires = time.Now().Add(o.tokenTTL)
		}
		return p, err
	}
	return nil
}

// parse reads the flags. Their values go to cfg unchanged, and wsguard.New judges
// them. parse judges the values that are not part of a wsguard.Config.
func parse(args []string, stderr io.Writer, cfg *wsguard.Config, o *options) error {
	fs := flag.NewFlagSet("echo", flag.ContinueOnError)
	fs.SetOutput(stderr)

	fs.StringVar(&o.addr, "addr", "127.0.0.1:8080", "The server listens on this `address`.")
	fs.Var((*list)(&cfg.Hosts), "hosts", "The server answers to the hosts `a,b`. Without the flag it does not check the Host.")
	fs.Var(&o.origins, "origins", "Pages of the origins `a,b` may connect. The default is the server's own address. With -same-origin or -any-origin there is no default. file:// stands for pages from files, and http://localhost:* for any port.")
	fs.BoolVar(&o.sameOrigin, "same-origin", false, "Pages of the origin that the Host header names may connect, too. Use it with -hosts.")
	fs.BoolVar(&cfg.InsecureAnyOrigin, "any-origin", false, "Pages of every origin may connect.")
	fs.BoolVar(&cfg.InsecureAllowHTTP, "allow-http", false, "Every client may connect in clear text.")
	fs.Var((*list)(&cfg.Proxies.Trusted), "trusted-proxies", "The forwarding headers of proxies in `CIDR,…` are believed.")
	fs.StringVar(&cfg.Proxies.Header, "proxy-header", "", "The client's address is read from the header `NAME` of a trusted proxy (default X-Forwarded-For).")
	fs.Var((*list)(&cfg.Subprotocols), "subprotocols", "The server speaks the subprotocols `a,b`. It prefers the first.")
	fs.BoolVar(&cfg.Messages.Binary, "binary", false, "Binary messages are accepted as well.")
	fs.Func("log", "Log lines are written as `text|json` (default text).", choice(&o.logFormat, "text", "json"))
	fs.BoolVar(&cfg.AllowMissingOrigin, "allow-missing-origin", false, "Clients without an Origin may connect. This needs -hosts.")

	fs.BoolVar(&o.wrap, "wrap", false, "/ws is a plain echo handler of coder/websocket behind Guard.Wrap. The flags from -write-by on do not apply, and POST /broadcast is not served.")

	fs.Var(&o.tokens, "tokens", "The tokens T1 and T2 of `alice=T1,bob=T2` are accepted. Without the flag every client is anonymous.")
	fs.Var(&o.tokenFrom, "token-from", "A token may come in the places of this `list`: header,subprotocol,query,cookie,first-message (default header,subprotocol).")
	fs.Var((*duration)(&cfg.Auth.FirstMessageTimeout), "auth-timeout", "A first message with the token must arrive within this `duration`.")
	fs.Var((*rate)(&cfg.Auth.Failures), "auth-failures", "A client may fail to authenticate at the rate `R/B`.")
	fs.Var((*duration)(&o.tokenTTL), "token-ttl", "A token expires this `duration` after it was accepted. Without the flag it does not expire.")
	fs.BoolVar(&o.tickets, "tickets", false, "POST /ticket issues a ticket for /ws?ticket=… to the bearer of a token.")
	fs.StringVar(&o.adminToken, "admin-token", "", "POST /revoke and POST /broadcast are served to the bearer of this `token`.")

	fs.IntVar(&cfg.Caps.MaxConns, "max-conns", 0, "The server has at most `N` connections.")
	fs.IntVar(&cfg.Caps.MaxConnsPerClient, "max-conns-per-client", 0, "A client has at most `N` connections.")
	fs.IntVar(&cfg.Caps.MaxConnsPerSubject, "max-conns-per-subject", 0, "A subject has at most `N` connections.")
	fs.Var((*rate)(&cfg.Rates.Handshakes), "handshake-rate", "A client may make handshakes at the rate `R/B`.")
	fs.Var((*rate)(&cfg.Rates.Messages), "message-rate", "A connection may send messages at the rate `R/B`.")
	fs.Var((*rate)(&cfg.Rates.Bytes), "byte-rate", "A connection may send payload bytes at the rate `R/B`.")
	fs.Var((*rate)(&cfg.Rates.SubjectMessages), "subject-message-rate", "All connections of a subject together may send messages at the rate `R/B`.")
	fs.Func("rate-action", "The answer to a message over a rate is `close|reply|delay` (default close).", action(&cfg.Rates.Action, "close", "reply", "delay"))

	fs.StringVar(&o.schema, "schema", "", "Every message must be valid under the JSON Schema in `FILE`.")
	fs.Func("schema-action", "The answer to an invalid message is `close|reply` (default close).", action(&cfg.Messages.OnInvalid, "close", "reply"))
	fs.Int64Var(&cfg.Messages.MaxBytes, "max-message-bytes", 0, "A message has at most `N` bytes.")
	fs.IntVar(&cfg.Messages.MaxFragments, "max-fragments", 0, "A message has at most `N` frames.")
	fs.Var((*rate)(&cfg.Messages.ControlFrames), "control-rate", "A connection may send pings and pongs at the rate `R/B`.")
	fs.Var((*duration)(&cfg.Messages.Timeout), "message-timeout", "A message must be complete within this `duration` of its first byte.")
	fs.Var((*duration)(&cfg.Timeouts.Write), "write-timeout", "A write must end within this `duration`.")

	fs.Var((*duration)(&cfg.Timeouts.PingInterval), "ping", "The server sends a ping after this `duration`.")
	fs.Var((*duration)(&cfg.Timeouts.Pong), "pong-timeout", "A pong must arrive within this `duration`.")
	fs.Var((*duration)(&cfg.Timeouts.Idle), "idle", "A connection is closed after this `duration` without a message.")
	fs.Var((*duration)(&cfg.Timeouts.Lifetime), "lifetime", "A connection is closed after this `duration`.")
	fs.Var((*duration)(&o.drain), "drain", "On SIGTERM the server cuts the connections that are left after this `duration` (default 5s).")

	fs.Func("write-by", "The handler answers with the method `write|send` of the connection (default write).", choice(&o.echo.writeBy, "write", "send"))
	fs.IntVar(&o.echo.greet, "greet", 0, "The handler sends `N` text messages before it reads.")
	fs.IntVar(&o.echo.greetBytes, "greet-bytes", 1, "Each message of -greet is `N` times the letter x.")
	fs.IntVar(&o.echo.quitAfter, "quit-after", 0, "The handler returns after `N` answers. With 0 it does not.")
	fs.Var((*duration)(&o.echo.work), "work", "The handler works for this `duration` before each answer.")

	fs.Usage = func() {
		fmt.Fprint(stderr, `echo sends every message back.

R/B is a rate of R per second with a burst of B, each at most 1e9. A limit has
wsguard's default if its flag is missing or 0. A limit of -1 is off.

`)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	for name, d := range map[string]time.Duration{"token-ttl": o.tokenTTL, "drain": o.drain} {
		if d < 0 && d != wsguard.Off {
			return fmt.Errorf("-%s %v: must not be negative, unless it is -1", name, d)
		}
	}
	for name, n := range map[string]int{"greet": o.echo.greet, "greet-bytes": o.echo.greetBytes, "quit-after": o.echo.quitAfter} {
		if n < 0 {
			return fmt.Errorf("-%s %d: must not be negative", name, n)
		}
	}
	if o.echo.greetBytes > maxGreeting {
		return fmt.Errorf("-greet-bytes %d: must be at most %d", o.echo.greetBytes, maxGreeting)
	}
	if o.echo.work < 0 {
		return fmt.Errorf("-work %v: must not be negative", o.echo.work)
	}
	return nil
}

// maxGreeting bounds -greet-bytes, because the greeting is kept in memory.
const maxGreeting = 1 << 30

// list is a flag a,b,c. An empty value sets it to nil, as if it were not given.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = nil
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

// pairs is a flag a=x,b=y. A subject may have several tokens.
type pairs []struct{ subject, token string }

func (p *pairs) String() string { return "" } // holds secrets

func (p *pairs) Set(s string) error {
	*p = nil
	var l list
	l.Set(s)
	for _, part := range l {
		subject, token, _ := strings.Cut(part, "=")
		*p = append(*p, struct{ subject, token string }{subject, token})
	}
	return nil
}

// rate is a flag R/B. R alone has no burst.
type rate wsguard.Rate

func (r *rate) String() string {
	if *r == (rate{}) {
		return ""
	}
	return fmt.Sprintf("%v/%d", r.PerSecond, r.Burst)
}

func (r *rate) Set(s string) error {
	per, burst, hasBurst := strings.Cut(s, "/")
	var got rate
	var err error
	if got.PerSecond, err = strconv.ParseFloat(per, 64); err != nil || math.Abs(got.PerSecond) > maxRate {
		return errRate
	}
	if hasBurst {
		b, err := strconv.ParseFloat(burst, 64)
		if err != nil || b != math.Trunc(b) || math.Abs(b) > maxRate {
			return errRate
		}
		got.Burst = int(b)
	}
	*r = got
	return nil
}

// maxRate is the largest rate, and the largest burst.
const maxRate = 1e9

var errRate = errors.New("want R/B, such as 5/20, with R and B of at most 1e9")

// duration is a flag such as 1m30s. A value of -1 is wsguard.Off.
type duration time.Duration

func (d *duration) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

func (d *duration) Set(s string) error {
	if s == "-1" {
		*d = wsguard.Off
		return nil
	}
	got, err := time.ParseDuration(s)
	*d = duration(got)
	return err
}

func choice(to *string, allowed ...string) func(string) error {
	return func(s string) error {
		for _, a := range allowed {
			if s == a {
				*to = s
				return nil
			}
		}
		return fmt.Errorf("want one of %s", strings.Join(allowed, ", "))
	}
}

func action(to *wsguard.Action, allowed ...string) func(string) error {
	actions := map[string]wsguard.Action{
		"close": wsguard.ActionClose, "reply": wsguard.ActionReply, "delay": wsguard.ActionDelay,
	}
	return func(s string) error {
		var name string
		if err := choice(&name, allowed...)(s); err != nil {
			return err
		}
		*to = actions[name]
		return nil
	}
}
