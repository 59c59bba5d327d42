// Command echo is wsguard's reference server: it sends every message back, and
// each guard is a flag, so that anyone can try and test any of them.
//
//	go run ./examples/echo -tokens alice=T1 -message-rate 5/10
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
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

// options are the flags that are no part of wsguard.Config.
type options struct {
	addr       string
	origins    list
	tokens     pairs
	tokenFrom  list
	tokenTTL   time.Duration
	tickets    bool
	adminToken string
	schema     string
	logFormat  string
	drain      time.Duration
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
	if cfg.Origins = o.origins; len(cfg.Origins) == 0 {
		cfg.Origins = ownOrigins(o.addr, ln.Addr())
	}
	if err := authenticate(&cfg.Auth, &o); err != nil {
		return err
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
	guard, err := wsguard.New(cfg)
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	ws := guard.Handler(echo)
	mux.Handle("/ws", ws)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]int{"connections": guard.Conns(), "goroutines": runtime.NumGoroutine()})
	})
	if o.tickets {
		mux.Handle("/ticket", guard.TicketHandler(nil))
	}
	if o.adminToken != "" {
		mux.Handle("POST /revoke", revoke(guard, o.adminToken))
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "PRI" { // HTTP/2, which the mux knows nothing of: the guard answers
				ws.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // ends with the upgrade
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
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

	// The guard first: http.Server.Shutdown knows nothing of upgraded
	// connections. Whoever does not go is cut, and that is no error.
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
	// What is left answers at once, or has not asked yet: http.Server would wait
	// five seconds for it.
	brief, cancel := context.WithTimeout(drain, 200*time.Millisecond)
	defer cancel()
	if err := srv.Shutdown(brief); err != nil {
		srv.Close()
	}
	return nil
}

// ownOrigins are what a page served from this address would send: as it was
// asked for, and as it is.
func ownOrigins(asked string, addr net.Addr) []string {
	own := []string{"http://" + addr.String()}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return own
	}
	if net.ParseIP(host).IsUnspecified() {
		own = append(own, "http://localhost:"+port, "http://127.0.0.1:"+port)
	}
	if name, _, err := net.SplitHostPort(asked); err == nil && name != "" && !strings.Contains(name, ":") {
		own = append(own, "http://"+strings.TrimSuffix(name, ".")+":"+port)
	}
	return own
}

func echo(ctx context.Context, c *wsguard.Conn) error {
	for {
		typ, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if err := c.Write(ctx, typ, msg); err != nil {
			return err
		}
	}
}

// authenticate sets who may connect: whoever has one of the tokens, or anybody.
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

// revoke ends the sessions of a subject, for whoever knows the admin token.
func revoke(guard *wsguard.Guard, adminToken string) http.Handler {
	want := sha256.Sum256([]byte(adminToken))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if len(r.Header["Authorization"]) != 1 || !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("Connection", "close") // whatever the body is
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		subject := r.PostFormValue("subject")
		if subject == "" {
			http.Error(w, "subject is missing", http.StatusBadRequest)
			return
		}
		guard.Revoke(subject)
		w.WriteHeader(http.StatusNoContent)
	})
}

// parse reads the flags. Their values go to cfg as they are: what is wrong
// with them is for wsguard.New to say.
func parse(args []string, stderr io.Writer, cfg *wsguard.Config, o *options) error {
	fs := flag.NewFlagSet("echo", flag.ContinueOnError)
	fs.SetOutput(stderr)

	fs.StringVar(&o.addr, "addr", "127.0.0.1:8080", "`address` to listen on")
	fs.Var((*list)(&cfg.Hosts), "hosts", "hosts that are served, `a,b`; none: not checked")
	fs.Var(&o.origins, "origins", "allowed origins, `a,b` (default: its own address)")
	fs.BoolVar(&cfg.InsecureAllowHTTP, "allow-http", false, "admit clear text from everybody")
	fs.Var((*list)(&cfg.Proxies.Trusted), "trusted-proxies", "`CIDR,…` whose X-Forwarded-For is believed")
	fs.Var((*list)(&cfg.Subprotocols), "subprotocols", "subprotocols, `a,b`")
	fs.BoolVar(&cfg.Messages.Binary, "binary", false, "accept binary messages as well")
	fs.Func("log", "`text` or json (default text)", choice(&o.logFormat, "text", "json"))
	fs.BoolVar(&cfg.AllowMissingOrigin, "allow-missing-origin", false, "admit handshakes without an Origin; needs -hosts")

	fs.Var(&o.tokens, "tokens", "`alice=T1,bob=T2`; none: anonymous")
	fs.Var(&o.tokenFrom, "token-from", "`list` of header,subprotocol,query,cookie,first-message (default header,subprotocol)")
	fs.Var((*duration)(&cfg.Auth.FirstMessageTimeout), "auth-timeout", "`duration` for a first message that is the credential")
	fs.Var((*rate)(&cfg.Auth.Failures), "auth-failures", "failed credentials of a client, `R/B`")
	fs.Var((*duration)(&o.tokenTTL), "token-ttl", "`duration` that a token is good for, from acceptance (default: for ever)")
	fs.BoolVar(&o.tickets, "tickets", false, "POST /ticket issues tickets for /ws?ticket=…")
	fs.StringVar(&o.adminToken, "admin-token", "", "bearer `token` of POST /revoke")

	fs.IntVar(&cfg.Caps.MaxConns, "max-conns", 0, "connections in all")
	fs.IntVar(&cfg.Caps.MaxConnsPerClient, "max-conns-per-client", 0, "connections of a client")
	fs.IntVar(&cfg.Caps.MaxConnsPerSubject, "max-conns-per-subject", 0, "connections of a subject")
	fs.Var((*rate)(&cfg.Rates.Handshakes), "handshake-rate", "handshakes of a client, `R/B`")
	fs.Var((*rate)(&cfg.Rates.Messages), "message-rate", "messages of a connection, `R/B`")
	fs.Var((*rate)(&cfg.Rates.Bytes), "byte-rate", "payload bytes of a connection, `R/B`")
	fs.Var((*rate)(&cfg.Rates.SubjectMessages), "subject-message-rate", "messages of a subject, `R/B`")
	fs.Func("rate-action", "`close`, reply or delay (default close)", action(&cfg.Rates.Action, "close", "reply", "delay"))

	fs.StringVar(&o.schema, "schema", "", "JSON Schema `file` that every message must fit")
	fs.Func("schema-action", "`close` or reply (default close)", action(&cfg.Messages.OnInvalid, "close", "reply"))
	fs.Int64Var(&cfg.Messages.MaxBytes, "max-message-bytes", 0, "largest message")
	fs.IntVar(&cfg.Messages.MaxFragments, "max-fragments", 0, "frames in a message")
	fs.Var((*rate)(&cfg.Messages.Control), "control-rate", "pings and pongs of a connection, `R/B`")
	fs.Var((*duration)(&cfg.Messages.Timeout), "message-timeout", "`duration` from a message's first byte to its last")
	fs.Var((*duration)(&cfg.Heartbeat.Write), "write-timeout", "`duration` of one write")

	fs.Var((*duration)(&cfg.Heartbeat.Ping), "ping", "`duration` between pings")
	fs.Var((*duration)(&cfg.Heartbeat.Pong), "pong-timeout", "`duration` to wait for a pong")
	fs.Var((*duration)(&cfg.Heartbeat.Idle), "idle", "`duration` without a message")
	fs.Var((*duration)(&cfg.Heartbeat.Lifetime), "lifetime", "`duration` of a connection")
	fs.Var((*duration)(&o.drain), "drain", "`duration` that SIGTERM waits for connections to go (default 5s)")

	fs.Usage = func() {
		fmt.Fprintln(stderr, "echo sends every message back. R/B is a rate per second and a burst; 0 is wsguard's default, -1 is off.")
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
	return nil
}

// list is a flag a,b,c. The last one given wins.
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

// rate is a flag R/B; R alone has no burst.
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
	if got.PerSecond, err = strconv.ParseFloat(per, 64); err != nil {
		return fmt.Errorf("want R/B, such as 5/20")
	}
	if hasBurst {
		b, err := strconv.ParseFloat(burst, 64)
		if err != nil || b != math.Trunc(b) || math.Abs(b) > 1e9 {
			return fmt.Errorf("want R/B, such as 5/20")
		}
		got.Burst = int(b)
	}
	*r = got
	return nil
}

// duration is a flag like 1m30s; -1 is off.
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
