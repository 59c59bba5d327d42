package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard"
)

const (
	maxAnswers  = 32               // how many messages of a connection are answered at the same time
	callTimeout = 30 * time.Second // how long the server waits for a response
)

// message is what a client sends: a call or a response.
type message struct {
	ID     json.RawMessage // as the client has written it; nil: a notification
	Method string          // empty: a response
	Params json.RawMessage
	Result json.RawMessage
	Error  *rpcError
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return e.Message }

// peer is the server's side of a connection.
type peer struct {
	conn     *wsguard.Conn // read-only
	sampling atomic.Bool   // the client has a language model

	mu      sync.Mutex
	lastID  int                     // guarded by mu: the id of the server's last call
	waiting map[string]chan message // guarded by mu: where the response to a call goes, by its id
}

// handler returns the result of a call of the client's.
type handler func(ctx context.Context, p *peer, call message) (result any, err error)

// serve answers the calls of a connection with h. It calls h on other goroutines, because h may
// wait for a response that has yet to be read.
func serve(ctx context.Context, c *wsguard.Conn, h handler) error {
	p := &peer{conn: c, waiting: map[string]chan message{}}
	var answers sync.WaitGroup
	defer answers.Wait() // ctx has ended by then
	places := make(chan struct{}, maxAnswers)
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		msg = bytes.TrimSpace(msg)
		batch := msg[0] == '['
		if !batch {
			msg = slices.Concat([]byte("["), msg, []byte("]"))
		}
		var calls []message
		if err := json.Unmarshal(msg, &calls); err != nil {
			return err // cannot be: the guard has checked that it is JSON-RPC
		}
		if calls = p.settle(calls); len(calls) == 0 {
			continue
		}
		select {
		case places <- struct{}{}:
			answers.Go(func() {
				p.answer(ctx, calls, batch, h)
				<-places
			})
		default:
			p.answer(ctx, calls, batch, busy)
		}
	}
}

// settle hands the responses among messages to the calls that wait for them, and returns the
// other messages.
func (p *peer) settle(messages []message) (calls []message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		if m.Method != "" {
			calls = append(calls, m)
		} else if response, ok := p.waiting[string(m.ID)]; ok {
			delete(p.waiting, string(m.ID))
			response <- m // there is room for it
		}
	}
	return calls
}

// answer calls h for each call, and sends the results in one message. There is none for a
// notification.
func (p *peer) answer(ctx context.Context, calls []message, batch bool, h handler) {
	var responses []object
	for _, call := range calls {
		result, err := h(ctx, p, call)
		if call.ID != nil {
			responses = append(responses, response(call.ID, result, err))
		}
	}
	switch {
	case len(responses) == 0:
	case batch:
		p.send(ctx, responses)
	default:
		p.send(ctx, responses[0])
	}
}

func response(id json.RawMessage, result any, err error) object {
	if err == nil {
		return object{"jsonrpc": "2.0", "id": id, "result": result}
	}
	var e *rpcError
	if !errors.As(err, &e) {
		e = &rpcError{-32603, "internal error"} // the text of err may be none of the client's business
	}
	return object{"jsonrpc": "2.0", "id": id, "error": e}
}

func busy(context.Context, *peer, message) (any, error) {
	return nil, &rpcError{-32000, "the server is busy"}
}

// call calls a method of the client. It returns the result if the schema accepts it.
func (p *peer) call(ctx context.Context, method string, params any, schema *wsguard.Schema) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response := make(chan message, 1)
	p.mu.Lock()
	p.lastID++
	id := strconv.Itoa(p.lastID)
	p.waiting[id] = response
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, id)
	}()
	if err := p.send(ctx, object{"jsonrpc": "2.0", "id": json.RawMessage(id), "method": method, "params": params}); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case m := <-response:
		if m.Error != nil {
			return nil, m.Error
		}
		return m.Result, schema.Validate(m.Result)
	}
}

// send sends v as JSON. It leaves the characters <, > and & in an id as they are.
func (p *peer) send(ctx context.Context, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	return p.conn.Write(ctx, wsguard.MessageText, bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}
