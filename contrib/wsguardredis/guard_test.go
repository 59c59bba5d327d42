package wsguardredis_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
)

// serve starts an instance of a service, and returns its URL.
func serve(t *testing.T, s *wsguardredis.Store) string {
	t.Helper()
	guard, err := wsguard.New(wsguard.Config{
		InsecureAllowHTTP: true,
		Origins:           []string{"https://app.example.com"},
		Auth: wsguard.AuthConfig{
			Verifier: func(_ context.Context, token string) (wsguard.Principal, error) {
				if token != "T" {
					return wsguard.Principal{}, wsguard.ErrUnauthenticated
				}
				return wsguard.Principal{Subject: "alice"}, nil
			},
			Tickets: &wsguard.TicketConfig{Store: s},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ticket", guard.TicketHandler(nil))
	mux.Handle("/ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		return c.Write(ctx, wsguard.MessageText, []byte(c.Principal().Subject))
	}))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		guard.Shutdown(context.Background())
		server.Close()
	})
	return server.URL
}

// buy asks an instance for a ticket. It returns the status, and the ticket if there is one.
func buy(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("POST", url+"/ticket", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer T")
	r.Header.Set("Origin", "https://app.example.com")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var sold struct{ Ticket string }
	json.NewDecoder(resp.Body).Decode(&sold)
	return resp.StatusCode, sold.Ticket
}

// connect presents a ticket to an instance. It returns the status, and the subject if it is 101.
func connect(t *testing.T, url, ticket string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, resp, err := websocket.Dial(ctx, url+"/ws?ticket="+ticket, &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {"https://app.example.com"}},
	})
	if resp == nil {
		t.Fatal(err)
	}
	if err != nil {
		return resp.StatusCode, ""
	}
	defer c.CloseNow()
	_, subject, err := c.Read(ctx)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(subject)
}

// A ticket that one instance has issued opens one connection at another. While Redis is gone,
// the answer is a 503.
func TestTicketsAcrossInstances(t *testing.T) {
	t.Parallel()
	redis := miniredis.RunT(t)
	instance := func() string {
		return serve(t, newStore(t, impatient(t, redis.Addr()), wsguardredis.Options{Timeout: slowest}))
	}
	a, b := instance(), instance()
	status, ticket := buy(t, a)
	if status != 200 || ticket == "" {
		t.Fatalf("a ticket: %d", status)
	}
	if status, subject := connect(t, b, ticket); status != 101 || subject != "alice" {
		t.Errorf("at the other instance: %d %q", status, subject)
	}
	for _, url := range []string{a, b} {
		if status, _ := connect(t, url, ticket); status != 401 {
			t.Errorf("a used ticket: %d, want 401", status)
		}
	}
	_, ticket = buy(t, a)
	redis.Close()
	if status, _ := connect(t, b, ticket); status != 503 {
		t.Errorf("without Redis: %d, want 503", status)
	}
	if status, _ := buy(t, a); status != 503 {
		t.Errorf("a ticket without Redis: %d, want 503", status)
	}
}
