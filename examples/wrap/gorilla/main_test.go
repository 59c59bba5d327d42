package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

const (
	origin = "https://app.example.com"
	key    = "0123456789abcdef"
)

func serve(t *testing.T) (url string) {
	t.Helper()
	h, err := newHandler(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"
}

func header(origin, key string) http.Header {
	return http.Header{"Origin": {origin}, "Authorization": {"Bearer " + key}}
}

func TestEcho(t *testing.T) {
	conn, _, err := websocket.DefaultDialer.Dial(serve(t), header(origin, key))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	typ, msg, err := conn.ReadMessage()
	if err != nil || typ != websocket.TextMessage || string(msg) != "hello" {
		t.Fatalf("got %d %q, %v", typ, msg, err)
	}

	// The guard's limits hold although the handler sets none.
	if err := conn.WriteMessage(websocket.TextMessage, make([]byte, 100<<10)); err != nil {
		t.Fatal(err)
	}
	var closed *websocket.CloseError
	if _, _, err := conn.ReadMessage(); !errors.As(err, &closed) || closed.Code != websocket.CloseMessageTooBig {
		t.Fatalf("got %v, want close code 1009", err)
	}
}

func TestRefused(t *testing.T) {
	url := serve(t)
	for want, h := range map[int]http.Header{
		http.StatusForbidden:    header("https://evil.example", key),
		http.StatusUnauthorized: header(origin, "wrong"),
	} {
		_, res, err := websocket.DefaultDialer.Dial(url, h)
		if err == nil || res == nil || res.StatusCode != want {
			t.Errorf("got %v, want status %d", err, want)
		}
	}
}
