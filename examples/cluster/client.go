package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// stepTimeout is how long one step of the demonstration may take.
const stepTimeout = 10 * time.Second

// person is a browser without a screen. It has one cookie for all instances, because cookies do
// not know ports.
type person struct {
	name string
	http *http.Client
}

// newPerson logs in at an instance.
func newPerson(ctx context.Context, at *process, name, key string) (*person, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	p := &person{name, &http.Client{Jar: jar}}
	body, err := json.Marshal(map[string]string{"name": name, "key": key})
	if err != nil {
		return nil, err
	}
	status, answer, err := p.post(ctx, at, "/login", string(body))
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s cannot log in: %d %s", name, status, answer)
	}
	return p, nil
}

// post returns the status and the body of the answer.
func (p *person) post(ctx context.Context, at *process, path, body string) (int, string, error) {
	return p.do(ctx, "POST", at, path, body)
}

func (p *person) do(ctx context.Context, method string, at *process, path, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, at.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Origin", at.url)
	req.Header.Set("Content-Type", "application/json")
	res, err := p.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, strings.TrimSpace(string(b)), err
}

// operate calls a handler for operators and wants a 200.
func (p *person) operate(ctx context.Context, at *process, method, path, body string) (string, error) {
	status, answer, err := p.do(ctx, method, at, "/operator/chat/"+path, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s %s: %d %s", method, path, status, answer)
	}
	return answer, err
}

// ticket buys a ticket. refused is the answer of an instance that sells none.
func (p *person) ticket(ctx context.Context, at *process) (ticket, refused string, err error) {
	status, answer, err := p.post(ctx, at, "/ticket", "")
	if err != nil {
		return "", "", err
	}
	if status != http.StatusOK {
		return "", fmt.Sprintf("%d %s", status, answer), nil
	}
	var sold struct{ Ticket string }
	err = json.Unmarshal([]byte(answer), &sold)
	return sold.Ticket, "", err
}

// socket is a connection to an instance.
type socket struct {
	ws   *websocket.Conn
	at   *process
	name string
}

// dial opens a connection with a ticket. refused is the answer of an instance that refuses.
func (p *person) dial(ctx context.Context, at *process, ticket string) (s *socket, refused string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, at.url+"/ws?ticket="+ticket, &websocket.DialOptions{
		HTTPHeader: http.Header{"Origin": {at.url}},
	})
	if err == nil {
		ws.SetReadLimit(1 << 20)
		return &socket{ws, at, p.name}, "", nil
	}
	if res == nil {
		return nil, "", err
	}
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	return nil, fmt.Sprintf("%d %s", res.StatusCode, strings.TrimSpace(string(body))), nil
}

// try buys a ticket and opens a connection with it.
func (p *person) try(ctx context.Context, at *process) (s *socket, refused string, err error) {
	ticket, refused, err := p.ticket(ctx, at)
	if err != nil || refused != "" {
		return nil, refused, err
	}
	return p.dial(ctx, at, ticket)
}

// connect is try where nothing may be refused.
func (p *person) connect(ctx context.Context, at *process) (*socket, error) {
	s, refused, err := p.try(ctx, at)
	if err == nil && refused != "" {
		err = fmt.Errorf("%s cannot connect to %s: %s", p.name, at.url, refused)
	}
	return s, err
}

// message is what the demonstration reads of a message of the chat.
type message struct {
	Type, Room, Name, Text string
	People                 []string
	History                []struct{ Text string }
}

func (s *socket) send(ctx context.Context, m map[string]string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return s.ws.Write(ctx, websocket.MessageText, b)
}

func (s *socket) say(ctx context.Context, room, text string) error {
	return s.send(ctx, map[string]string{"type": "say", "room": room, "text": text, "id": text})
}

// join enters a room and returns what the instance says of it.
func (s *socket) join(ctx context.Context, room string) (message, error) {
	if err := s.send(ctx, map[string]string{"type": "join", "room": room}); err != nil {
		return message{}, err
	}
	return s.until(ctx, func(m message) bool { return m.Type == "joined" && m.Room == room })
}

// until reads on to the first message that fits.
func (s *socket) until(ctx context.Context, fits func(message) bool) (message, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for {
		_, b, err := s.ws.Read(ctx)
		if err != nil {
			return message{}, fmt.Errorf("%s at %s: %w", s.name, s.at.url, err)
		}
		var m message
		if err := json.Unmarshal(b, &m); err != nil {
			return message{}, err
		}
		if fits(m) {
			return m, nil
		}
	}
}

// closed reads on to the end, and returns what the close frame says. It is empty if there was none.
func (s *socket) closed(ctx context.Context) (string, error) {
	_, err := s.until(ctx, func(message) bool { return false })
	var ce websocket.CloseError
	switch {
	case errors.As(err, &ce):
		return fmt.Sprintf("%d %s", ce.Code, ce.Reason), nil
	case errors.Is(err, context.DeadlineExceeded):
		return "", err
	}
	return "", nil
}
