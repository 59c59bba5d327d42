package wraptest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/reason"
)

const graphqlOrigin = "https://app.example.com"

// graphqlClient is a client of npm's graphql-ws, with its own rules when to connect again.
type graphqlClient struct {
	Name        string            `json:"name"`
	Path        string            `json:"path"` // of the URL, with a query that says how the server ends the connection
	Params      map[string]string `json:"params,omitempty"`
	Query       string            `json:"query"`
	Ping        bool              `json:"ping"`        // send a ping before connection_init
	RetryErrors bool              `json:"retryErrors"` // shouldRetry is always true
}

// graphqlSeen is what a client did.
type graphqlSeen struct {
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"` // "retries", "gives up" or "completes"
	Codes   []int    `json:"codes"`   // of the close frames
	Texts   []string `json:"texts"`
	Pongs   int      `json:"pongs"`
	Data    string   `json:"data"` // what the subscription got
}

// runGraphQLClients runs clients against a server. It skips the test without node or the
// packages.
func runGraphQLClients(t *testing.T, server string, clients []graphqlClient) map[string]graphqlSeen {
	t.Helper()
	program, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node")
	}
	if _, err := os.Stat(filepath.Join("testdata", "node", "node_modules", "graphql-ws")); err != nil {
		t.Skip("no graphql-ws: npm ci in testdata/node")
	}
	list, err := json.Marshal(clients)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "graphql.js", "ws"+strings.TrimPrefix(server, "http"), graphqlOrigin, string(list))
	cmd.Dir = filepath.Join("testdata", "node")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	all := map[string]graphqlSeen{}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var seen graphqlSeen
		if err := d.Decode(&seen); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		all[seen.Name] = seen
	}
	return all
}

// graphqlServer serves subscriptions behind a Guard. Each gets the name of the subject. Then the
// server ends the connection as the query of the URL says.
func graphqlServer(t *testing.T) (*wsguard.Guard, *httptest.Server) {
	t.Helper()
	schema, err := wsguard.CompileSchema([]byte(`{"properties":{"payload":{"properties":{"query":{"maxLength":100}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	var g *wsguard.Guard
	cfg := wsguard.Config{
		Origins:           []string{graphqlOrigin},
		InsecureAllowHTTP: true,
		Subprotocols:      []string{"graphql-transport-ws"},
		Auth: wsguard.AuthConfig{
			Sources:      wsguard.TokenSources{FirstMessage: true},
			FirstMessage: wsguard.GraphQLWS(""),
			Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				p := wsguard.Principal{Subject: token, IssuedAt: time.Now()}
				switch token {
				case "bad":
					return p, errors.New("bad")
				case "short":
					p.Expires = time.Now().Add(500 * time.Millisecond)
				case "down":
					return p, wsguard.ErrUnavailable
				case "banned":
					return p, g.Admin().Ban("127.0.0.1", time.Minute, "in a test")
				}
				return p, nil
			},
		},
		Messages:   wsguard.MessageConfig{Validator: schema},
		CloseCodes: reason.GraphQL(),
		Caps:       wsguard.CapConfig{MaxConnsPerSubject: 1},
		Logger:     slog.New(slog.DiscardHandler),
		Attach:     func(r *http.Request, _ wsguard.Principal) (any, error) { return r.URL.Query(), nil },
	}
	off := wsguard.Rate{PerSecond: wsguard.Off}
	cfg.Rates.Handshakes = off
	cfg.Rates.MaxInFlightPerClient, cfg.Caps.MaxUnauthenticated = wsguard.Off, wsguard.Off
	if g, err = wsguard.New(cfg); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/graphql", g.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		var m graphqlMessage
		if err := json.Unmarshal(msg, &m); err != nil || m.Type != "subscribe" {
			return fmt.Errorf("the application got %s", msg)
		}
		next := graphqlMessage{m.ID, "next", map[string]any{"data": map[string]any{"who": c.Principal().Subject}}}
		if err := c.Write(ctx, wsguard.MessageText, []byte(next.String())); err != nil {
			return err
		}
		query := c.Value().(url.Values)
		switch query.Get("do") {
		case "kick":
			g.Admin().Kick(c.ID(), 0, "")
		case "revoke":
			g.Admin().Revoke(c.Principal().Subject)
		case "shutdown":
			go g.Shutdown(context.Background())
		case "close":
			code, err := strconv.Atoi(query.Get("code"))
			if err != nil {
				return err
			}
			c.Close(wsguard.StatusCode(code), "")
		}
		<-ctx.Done()
		return nil
	}))
	mux.HandleFunc("/refused", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "later", http.StatusServiceUnavailable) })
	s := httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Shutdown(ctx)
		s.Close()
	})
	return g, s
}

func bearerParam(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// The client of npm's graphql-ws authenticates in connection_init. It connects again after an
// expiry, a drain and a full server. It gives up after a kick, a revocation, an invalid message
// and a refused credential.
func TestGraphQLWSClient(t *testing.T) {
	_, s := graphqlServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	full, _, err := websocket.Dial(ctx, s.URL+"/graphql", &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {graphqlOrigin}}, Subprotocols: []string{"graphql-transport-ws"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer full.CloseNow()
	if err := full.Write(ctx, websocket.MessageText, []byte(`{"type":"connection_init","payload":{"Authorization":"full"}}`)); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := full.Read(ctx); err != nil || string(msg) != `{"type":"connection_ack"}` {
		t.Fatalf("%s, %v", msg, err)
	}

	type expectation struct {
		client  graphqlClient
		outcome string
		code    int
		text    string
		data    string
	}
	named := func(name, do string) graphqlClient {
		return graphqlClient{Name: name, Path: "/graphql?do=" + do, Params: bearerParam(name), Query: "subscription { who }", Ping: true}
	}
	invalid := named("invalid", "")
	invalid.Query = strings.Repeat("x", 101)
	silent := graphqlClient{Name: "no params", Path: "/graphql", Query: "subscription { who }"}
	refused := graphqlClient{Name: "refused", Path: "/refused", Query: "subscription { who }"}
	stubborn := graphqlClient{Name: "stubborn", Path: "/refused", Query: "subscription { who }", RetryErrors: true}
	wants := []expectation{
		{named("short", "nothing"), "retries", 4403, "expired", "short"},
		{named("kicked", "kick"), "gives up", 1008, "kicked", "kicked"},
		{named("revoked", "revoke"), "gives up", 4401, "revoked", "revoked"},
		{named("bad", ""), "gives up", 4401, "unauthenticated", ""},
		{silent, "gives up", 4401, "unauthenticated", ""},
		{named("down", ""), "retries", 1013, "unavailable", ""},
		{named("full", ""), "retries", 1013, "max_subject_conns", ""},
		{invalid, "gives up", 4400, "schema", ""},
		// Without a 101 the client has an error and no close code.
		{refused, "gives up", 1006, "", ""},
		{stubborn, "retries", 1006, "", ""},
	}
	var clients []graphqlClient
	for _, want := range wants {
		clients = append(clients, want.client)
	}
	seen := runGraphQLClients(t, s.URL, clients)
	for _, want := range wants {
		got := seen[want.client.Name]
		if want.client.Ping && got.Pongs == 0 {
			t.Errorf("%s: %d pongs before connection_ack", want.client.Name, got.Pongs)
		}
		if got.Outcome != want.outcome || got.Data != want.data || len(got.Codes) > 0 && (got.Codes[0] != want.code || got.Texts[0] != want.text) || len(got.Codes) == 0 && want.code != 1006 {
			t.Errorf("%s: %+v; want %s after %d %s", want.client.Name, got, want.outcome, want.code, want.text)
		}
	}
}

// A drain makes the client of npm's graphql-ws connect again, and a ban makes it give up.
func TestGraphQLWSClientDrainAndBan(t *testing.T) {
	for _, tt := range []struct {
		name, do, outcome string
		code              int
	}{{"alice", "shutdown", "retries", 1012}, {"banned", "", "gives up", 4429}} {
		_, s := graphqlServer(t)
		client := graphqlClient{Name: tt.name, Path: "/graphql?do=" + tt.do, Params: bearerParam(tt.name), Query: "subscription { who }"}
		got := runGraphQLClients(t, s.URL, []graphqlClient{client})[tt.name]
		if got.Outcome != tt.outcome || len(got.Codes) == 0 || got.Codes[0] != tt.code {
			t.Errorf("%s: %+v; want %s after %d", tt.name, got, tt.outcome, tt.code)
		}
	}
}

// The client of npm's graphql-ws obeys each close code of reason.GraphQL as
// docs/close-codes.md says.
func TestGraphQLWSCodes(t *testing.T) {
	_, s := graphqlServer(t)
	again := map[*reason.Reason]bool{
		reason.HandlerDone: true, reason.Lifetime: true, reason.Draining: true, reason.Expired: true,
		reason.MaxConns: true, reason.MaxSubjectConns: true, reason.HandshakeRate: true, reason.Guessing: true, reason.Unavailable: true,
		reason.Idle: true, reason.PongTimeout: true, reason.AuthTimeout: true,
		reason.MessageTimeout: true, reason.WriteTimeout: true, reason.QueueFull: true,

		reason.Banned: false, reason.Unauthenticated: false, reason.Revoked: false, reason.Forbidden: false, reason.Kicked: false, reason.Replaced: false,
		reason.Protocol: false, reason.MessageType: false, reason.InvalidUTF8: false, reason.InvalidJSON: false, reason.MessageTooBig: false,
		reason.Schema: false, reason.UnknownType: false, reason.JSONLimit: false, reason.RateLimited: false, reason.ControlFlood: false,
		reason.Fragments: false, reason.Refresh: false, reason.Unexpected: false, reason.Internal: false,
	}
	for why := range reason.GraphQL() {
		if _, ok := again[why]; !ok {
			t.Errorf("%s is not tested", why.Token())
		}
	}
	var clients []graphqlClient
	for why := range again {
		code, ok := reason.GraphQL()[why]
		if !ok {
			code = why.Code()
		}
		name := "because of " + why.Token()
		clients = append(clients, graphqlClient{Name: name, Path: fmt.Sprintf("/graphql?do=close&code=%d", code), Params: bearerParam(name), Query: "subscription { who }"})
	}
	seen := runGraphQLClients(t, s.URL, clients)
	for why, retries := range again {
		got := seen["because of "+why.Token()]
		if want := map[bool]string{true: "retries", false: "gives up"}[retries]; got.Outcome != want {
			t.Errorf("%s: %+v, want %s", why.Token(), got, want)
		}
	}
}
