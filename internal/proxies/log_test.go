package proxies

import (
	"bufio"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/wsguard/wsguard"
)

// hijackable is a recorder that passes for a connection until the guard takes it.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("there is no connection")
}

// The lines that docs/operations.md shows are those that a guard logs.
func TestLogLines(t *testing.T) {
	trusted := []string{"10.0.0.0/8"}
	var got []string
	for _, tt := range []struct {
		trusted []string
		peer    string
		header  []string
		times   int
		reason  string
	}{
		{nil, "10.0.0.2:1", []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "https"}, 1, "insecure_transport"},
		{trusted, "10.0.0.2:1", []string{"X-Forwarded-For", "192.0.2.1"}, 1, "insecure_transport"},
		{trusted, "10.0.0.2:1", []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "http"}, 1, "insecure_transport"},
		{trusted, "@", []string{"X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "https"}, 1, "client_address"},
		{trusted, "10.0.0.2:1", []string{"X-Forwarded-Proto", "https"}, 1, "no_client_header"},
		{nil, "10.0.0.2:1", nil, 100, "one_client"},
	} {
		var log strings.Builder
		g, err := wsguard.New(wsguard.Config{
			Origins: []string{origin},
			Proxies: wsguard.Proxies{Trusted: tt.trusted},
			Auth:    wsguard.AuthConfig{InsecureAnonymous: true},
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range tt.times {
			r := httptest.NewRequest("GET", "/ws", nil)
			r.RemoteAddr, r.Host = tt.peer, host
			r.Header = http.Header{
				"Origin": {origin}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
			}
			for i := 0; i < len(tt.header); i += 2 {
				r.Header.Set(tt.header[i], tt.header[i+1])
			}
			g.Handler(echo).ServeHTTP(hijackable{httptest.NewRecorder()}, r)
		}
		line := regexp.MustCompile(`(?m)^.* reason=` + tt.reason + ` .*$`).FindString(log.String())
		if line == "" {
			t.Errorf("no line has the reason %s:\n%s", tt.reason, log.String())
		}
		got = append(got, line)
	}
	want := strings.Join(got, "\n") + "\n"
	for _, b := range blocks(t, "text") {
		if b == want {
			return
		}
	}
	t.Errorf("docs/operations.md does not have the block\n%s", want)
}
