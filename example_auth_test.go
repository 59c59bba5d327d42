package wsguard_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
)

// keys are what the examples accept: a long random key each, of which the server
// has the hash only.
var keys = wsguard.APIKeys(map[[32]byte]wsguard.Principal{
	sha256.Sum256([]byte("K1-q0XkIv9tD7mG2")): {Subject: "alice", SessionID: "laptop", Scopes: []string{"say"}},
	sha256.Sum256([]byte("K2-u8ZrWc4hJ5nB6")): {Subject: "bob"},
})

// greet serves who it is that has connected.
func greet(auth wsguard.AuthConfig) (*wsguard.Guard, *httptest.Server) {
	guard, err := wsguard.New(wsguard.Config{
		Origins:      []string{"https://app.example.com"},
		Subprotocols: []string{"chat"},
		Auth:         auth,
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	return guard, httptest.NewServer(guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		if err := c.Write(ctx, wsguard.MessageText, []byte("hello, "+c.Principal().Subject)); err != nil {
			return err
		}
		_, _, err := c.Read(ctx)
		return err
	}))
}

// dial connects as a page of https://app.example.com would.
func dial(url string, header http.Header, subprotocols ...string) (*websocket.Conn, error) {
	if header == nil {
		header = http.Header{}
	}
	header.Set("Origin", "https://app.example.com")
	c, res, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
	if err != nil && res != nil {
		return nil, errors.New(res.Status)
	}
	return c, err
}

// hear prints the next message, or how the connection ended.
func hear(c *websocket.Conn, err error) {
	if err != nil {
		fmt.Println(err)
		return
	}
	_, msg, err := c.Read(context.Background())
	var end websocket.CloseError
	switch {
	case errors.As(err, &end):
		fmt.Println(int(end.Code), end.Reason)
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println(string(msg))
	}
}

// Programs send "Authorization: Bearer …", pages cannot.
func ExampleTokenSources_header() {
	_, srv := greet(wsguard.AuthConfig{Verifier: keys, Sources: wsguard.TokenSources{Header: true}})
	defer srv.Close()

	hear(dial(srv.URL, http.Header{"Authorization": {"Bearer K1-q0XkIv9tD7mG2"}}))
	hear(dial(srv.URL, http.Header{"Authorization": {"Bearer guess"}}))
	// Output:
	// hello, alice
	// 401 Unauthorized
}

// A page can send a token beside its subprotocol:
// new WebSocket(url, ["chat", "bearer." + token]). The server never says it back.
func ExampleTokenSources_subprotocol() {
	_, srv := greet(wsguard.AuthConfig{Verifier: keys, Sources: wsguard.TokenSources{Subprotocol: "bearer."}})
	defer srv.Close()

	c, err := dial(srv.URL, nil, "chat", "bearer.K1-q0XkIv9tD7mG2")
	hear(c, err)
	fmt.Println(c.Subprotocol())
	// Output:
	// hello, alice
	// chat
}

// A cookie comes with every handshake of the browser's, whoever's page makes it:
// it counts only with a listed Origin, and a missing one is refused.
func ExampleTokenSources_cookie() {
	_, srv := greet(wsguard.AuthConfig{Verifier: keys, Sources: wsguard.TokenSources{Cookie: "session"}})
	defer srv.Close()

	hear(dial(srv.URL, http.Header{"Cookie": {"session=K2-u8ZrWc4hJ5nB6"}}))
	// Output: hello, bob
}

// The first message can be the credential. There is a cap of its own on
// connections that owe one, a deadline and a size.
func ExampleTokenSources_firstMessage() {
	_, srv := greet(wsguard.AuthConfig{Verifier: keys, Sources: wsguard.TokenSources{FirstMessage: true}})
	defer srv.Close()

	c, err := dial(srv.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	c.Write(context.Background(), websocket.MessageText, []byte(`{"type":"auth","token":"K1-q0XkIv9tD7mG2"}`))
	hear(c, nil)

	c, _ = dial(srv.URL, nil)
	c.Write(context.Background(), websocket.MessageText, []byte(`{"type":"auth","token":"guess"}`))
	hear(c, nil)
	// Output:
	// hello, alice
	// 3000 unauthenticated
}

// A query ends up in logs that are not wsguard's: prefer a ticket.
func ExampleTokenSources_insecureQuery() {
	_, srv := greet(wsguard.AuthConfig{Verifier: keys, Sources: wsguard.TokenSources{InsecureQuery: "token"}})
	defer srv.Close()

	hear(dial(srv.URL+"/?token=K1-q0XkIv9tD7mG2", nil))
	// Output: hello, alice
}

// A page logs in as it always has, buys a ticket with its session, and connects
// with new WebSocket("wss://…/ws?ticket=" + ticket). It opens one connection,
// within 30 s, from the origin that bought it.
func ExampleGuard_TicketHandler() {
	guard, srv := greet(wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{}})
	defer srv.Close()
	login := func(r *http.Request) (wsguard.Principal, error) {
		c, err := r.Cookie("session") // stands for whatever you have
		if err != nil || c.Value != "alice's" {
			return wsguard.Principal{}, wsguard.ErrUnauthenticated
		}
		return wsguard.Principal{Subject: "alice"}, nil
	}
	shop := httptest.NewServer(guard.TicketHandler(login))
	defer shop.Close()

	req, _ := http.NewRequest("POST", shop.URL, nil)
	req.Header.Set("Origin", "https://app.example.com")
	req.Header.Set("Cookie", "session=alice's")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	var bought struct{ Ticket string }
	json.NewDecoder(res.Body).Decode(&bought)
	res.Body.Close()

	hear(dial(srv.URL+"/?ticket="+bought.Ticket, nil))
	hear(dial(srv.URL+"/?ticket="+bought.Ticket, nil))
	// Output:
	// hello, alice
	// 401 Unauthorized
}

// The laptop's connections end, and its credential opens no others.
func ExampleAdmin_SignOut() {
	guard, srv := greet(wsguard.AuthConfig{Verifier: keys})
	defer srv.Close()
	header := http.Header{"Authorization": {"Bearer K1-q0XkIv9tD7mG2"}}

	c, err := dial(srv.URL, header)
	hear(c, err)
	guard.Admin().SignOut("laptop")
	hear(c, nil)
	hear(dial(srv.URL, header))
	// Output:
	// hello, alice
	// 3000 revoked
	// 401 Unauthorized
}

// Every few minutes somebody is asked whether the account still is what it was.
// An error closes the connection with 3000; ErrUnavailable with 1013.
func ExampleAuthConfig_revalidate() {
	var closed atomic.Bool
	active := func(subject string) (bool, error) { return !closed.Load(), nil } // a look into your database
	_, srv := greet(wsguard.AuthConfig{
		Verifier:        keys,
		RevalidateEvery: 100 * time.Millisecond,
		Revalidate: func(_ context.Context, p wsguard.Principal) (wsguard.Principal, error) {
			switch ok, err := active(p.Subject); {
			case err != nil:
				return p, fmt.Errorf("%w: %w", wsguard.ErrUnavailable, err)
			case !ok:
				return p, wsguard.ErrUnauthenticated
			}
			return p, nil
		},
	})
	defer srv.Close()

	c, err := dial(srv.URL, http.Header{"Authorization": {"Bearer K2-u8ZrWc4hJ5nB6"}})
	hear(c, err)
	closed.Store(true) // the account, while its connection is open
	hear(c, nil)
	// Output:
	// hello, bob
	// 3000 unauthenticated
}

// The page sends a newer token over the connection before the old one expires.
func ExampleConn_Refresh() {
	verify := func(_ context.Context, token string) (wsguard.Principal, error) {
		subject, life, _ := strings.Cut(token, " ") // stands for a JWT
		ttl, err := time.ParseDuration(life)
		return wsguard.Principal{Subject: subject, Expires: time.Now().Add(ttl)}, err
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth:    wsguard.AuthConfig{Verifier: verify},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	srv := httptest.NewServer(guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		for {
			_, msg, err := c.Read(ctx)
			if err != nil {
				return err
			}
			if token, ok := strings.CutPrefix(string(msg), "refresh "); ok {
				if err := c.Refresh(ctx, token); err != nil {
					return err
				}
				c.Write(ctx, wsguard.MessageText, []byte("refreshed"))
			}
		}
	}))
	defer srv.Close()

	c, err := dial(srv.URL, http.Header{"Authorization": {"Bearer alice 1m"}})
	if err != nil {
		log.Fatal(err)
	}
	c.Write(context.Background(), websocket.MessageText, []byte("refresh alice 1h"))
	hear(c, nil)
	c.Write(context.Background(), websocket.MessageText, []byte("refresh bob 1h")) // nobody becomes somebody else
	hear(c, nil)
	// Output:
	// refreshed
	// 1008 refresh
}

// Who may send which messages: a scope for each type, and nothing that has none.
func ExampleTable() {
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth:    wsguard.AuthConfig{Verifier: keys},
		Messages: wsguard.MessageConfig{
			Validator: &wsguard.Table{Types: map[string]wsguard.Rule{
				"say": {Scope: "say"},
				"ban": {Scope: "moderate"},
			}},
			OnForbidden: wsguard.ActionReply,
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	srv := httptest.NewServer(guard.Handler(echo))
	defer srv.Close()

	c, err := dial(srv.URL, http.Header{"Authorization": {"Bearer K1-q0XkIv9tD7mG2"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, msg := range []string{`{"type":"say"}`, `{"type":"ban"}`, `{"type":"fly"}`} {
		c.Write(context.Background(), websocket.MessageText, []byte(msg))
		hear(c, nil)
	}
	// Output:
	// {"type":"say"}
	// {"error":"forbidden"}
	// 1008 unknown_type
}
