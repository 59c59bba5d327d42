package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const (
	origin = "https://app.example.com"
	key    = "0123456789abcdef"
)

// serve starts a proxy in front of a server that tells each client which header
// fields it has got, by HTTP or as the first message of a WebSocket.
func serve(t *testing.T) (addr string, upgrades *atomic.Int32) {
	t.Helper()
	upgrades = new(atomic.Int32)
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			json.NewEncoder(w).Encode(r.Header)
			return
		}
		upgrades.Add(1)
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.WriteJSON(r.Header)
		conn.ReadMessage()
	}))
	t.Cleanup(backend.Close)
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHandler(u, origin, key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), upgrades
}

// users are the values of all fields that a server could take for identity.
func users(h http.Header) (values []string) {
	for name, v := range h {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), identity) {
			values = append(values, v...)
		}
	}
	return values
}

// Ways to forge an identity, or to have the proxy strip its own.
var forged = map[string]http.Header{
	"nothing":         {},
	"the same name":   {identity: {"mallory"}},
	"twice":           {identity: {"mallory", "eve"}},
	"in another case": {"x-USER": {"mallory"}},
	"with underscore": {"X_User": {"mallory"}},
	"hop by hop":      {"Connection": {"Upgrade, " + identity}},
}

func TestIdentity(t *testing.T) {
	addr, _ := serve(t)
	for name, extra := range forged {
		t.Run(name, func(t *testing.T) {
			res, br := request(t, addr, "GET / HTTP/1.1", extra)
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %d", res.StatusCode)
			}
			if got := users(firstMessage(t, br)); len(got) != 1 || got[0] != "alice" {
				t.Errorf("the backend sees %q, want alice", got)
			}
		})
	}
}

// Plain HTTP goes past the guard. Nobody is known there, whatever the request
// says, and nothing is upgraded.
func TestPlain(t *testing.T) {
	addr, _ := serve(t)
	for name, extra := range forged {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range extra {
			req.Header[name] = values
		}
		req.Header.Set("Connection", "close")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var h http.Header
		err = json.NewDecoder(res.Body).Decode(&h)
		res.Body.Close()
		if got := users(h); err != nil || len(got) != 0 {
			t.Errorf("%s: the backend sees %q, %v", name, got, err)
		}
	}
}

// No request without a credential reaches the backend's upgrade, whatever it
// says of the upgrade that it wants.
func TestNoWayRound(t *testing.T) {
	addr, upgrades := serve(t)
	for _, line := range []string{"GET / HTTP/1.1", "POST / HTTP/1.1", "GET / HTTP/1.0"} {
		for _, extra := range []http.Header{
			{"Upgrade": {"websocket"}},
			{"Upgrade": {"WEBSOCKET"}},
			{"Upgrade": {"websocket, h2c"}},
			{"Upgrade": {"h2c", "websocket"}},
			{"Upgrade": {"", "websocket"}},
			{"Upgrade": {"websocket/13"}},
			{"Connection": {"keep-alive, Upgrade"}},
			{"Connection": {"keep-alive"}},
			{"Sec-WebSocket-Version": {"8"}},
			{"Sec-WebSocket-Key": nil},
		} {
			extra["Authorization"] = nil
			if res, _ := request(t, addr, line, extra); res.StatusCode < 400 {
				t.Errorf("%s, %v: status %d", line, extra, res.StatusCode)
			}
		}
	}
	if n := upgrades.Load(); n != 0 {
		t.Errorf("the backend was asked for %d upgrades", n)
	}
}

// request sends a good handshake, but for the fields of extra, as they are.
func request(t *testing.T, addr, line string, extra http.Header) (*http.Response, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	h := http.Header{
		"Host": {addr}, "Origin": {origin}, "Authorization": {"Bearer " + key},
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
		"Sec-WebSocket-Version": {"13"}, "Sec-WebSocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}
	for name, values := range extra {
		h[name] = values
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\r\n", line)
	for name, values := range h {
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	if _, err := io.WriteString(conn, b.String()+"\r\n"); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res, br
}

// firstMessage reads a text message of one frame.
func firstMessage(t *testing.T, br *bufio.Reader) (h http.Header) {
	t.Helper()
	head := make([]byte, 4)
	if _, err := io.ReadFull(br, head); err != nil {
		t.Fatal(err)
	}
	if head[0] != 0x81 || head[1] != 126 {
		t.Fatalf("frame begins with %x", head)
	}
	msg := make([]byte, int(head[2])<<8|int(head[3]))
	if _, err := io.ReadFull(br, msg); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(msg, &h); err != nil {
		t.Fatal(err)
	}
	return h
}
