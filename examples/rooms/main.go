// Rooms is a chat server with rooms. Its users join and leave, see who is there, and send messages
// to all in a room. The package hub has the rooms, and can be copied.
//
//	go run ./examples/rooms
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/examples/rooms/hub"
)

// maxRooms is how many rooms a connection may be in.
const maxRooms = 5

// schema says what clients may send.
//
//go:embed schema.json
var schema []byte

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "The server listens on this loopback `address`.")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, addr string, stdout io.Writer) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	// A real server knows its users from their login. docs/authentication.md says how.
	keys, commands := map[[32]byte]wsguard.Principal{}, ""
	for _, name := range []string{"alice", "bob"} {
		key := rand.Text()
		keys[sha256.Sum256([]byte(key))] = wsguard.Principal{Subject: name}
		commands += fmt.Sprintf("%s: npx wscat -c ws://%s -H \"Authorization: Bearer %s\"\n", name, l.Addr(), key)
	}
	cfg, err := config()
	if err != nil {
		return err
	}
	cfg.Hosts, cfg.AllowMissingOrigin = []string{l.Addr().String()}, true // For pages, list their Origins.
	cfg.Auth.Verifier = wsguard.APIKeys(keys)
	guard, err := wsguard.New(cfg)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: guard.Handler(newChat(guard).serve), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	io.WriteString(stdout, commands)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

// config has the limits of messages and queues.
func config() (wsguard.Config, error) {
	messages, err := wsguard.CompileSchema(schema)
	return wsguard.Config{
		Messages: wsguard.MessageConfig{Validator: messages, OnInvalid: wsguard.ActionReply},
		Rates:    wsguard.RateConfig{Action: wsguard.ActionReply},
		Send:     wsguard.SendConfig{MaxMessages: 1000},  // A slower member is closed with queue_full.
		Timeouts: wsguard.TimeoutConfig{Idle: time.Hour}, // People read more than they write.
	}, err
}

// chat is what the server does with messages.
type chat struct {
	hub *hub.Hub[string]
}

// message is what clients and the server send.
type message struct {
	Type   string   `json:"type"` // join, leave or say from a client; joined, here, gone, said or problem from the server
	Room   string   `json:"room,omitempty"`
	Name   string   `json:"name,omitempty"`
	Text   string   `json:"text,omitempty"`
	People []string `json:"people,omitempty"`
}

func newChat(guard *wsguard.Guard) *chat {
	return &chat{&hub.Hub[string]{
		Guard: guard,
		Joined: func(room string, people []string) []byte {
			return encode(message{Type: "joined", Room: room, People: people})
		},
		Changed: func(room, name string, here bool) []byte {
			if here {
				return encode(message{Type: "here", Room: room, Name: name})
			}
			return encode(message{Type: "gone", Room: room, Name: name})
		},
	}}
}

// serve handles one connection. Its messages have passed the guard.
func (s *chat) serve(ctx context.Context, c *wsguard.Conn) error {
	name, joined := c.Principal().Subject, map[string]func(){}
	for {
		m, err := wsguard.ReadJSON[message](ctx, c)
		if err != nil {
			return err
		}
		leave, in := joined[m.Room]
		switch {
		case m.Type == "join" && len(joined) >= maxRooms && !in:
			err = problem(c, m.Room, "You are in too many rooms.")
		case m.Type == "join" && !in:
			joined[m.Room] = s.hub.Join(m.Room, c, name)
		case m.Type != "join" && !in:
			err = problem(c, m.Room, "You are not in this room.")
		case m.Type == "leave":
			leave()
			delete(joined, m.Room)
		case m.Type == "say":
			err = s.hub.Broadcast(m.Room, encode(message{Type: "said", Room: m.Room, Name: name, Text: m.Text}))
		}
		if err != nil {
			return err
		}
	}
}

func problem(c *wsguard.Conn, room, text string) error {
	return wsguard.SendJSON(c, message{Type: "problem", Room: room, Text: text})
}

func encode(m message) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // cannot happen, because a message has only strings
	}
	return b
}
