package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/wsguard/wsguard"
)

// object is an object of JSON.
type object = map[string]any

var (
	textArgument = object{"type": "object", "properties": object{"text": object{"type": "string"}}, "required": []string{"text"}}
	tools        = []object{
		{"name": "count_words", "description": "Counts the words of a text.", "inputSchema": textArgument},
		{"name": "summarize", "description": "Has the client's model summarize a text.", "inputSchema": textArgument},
	}
)

// methods has what the methods need.
type methods struct {
	sampled *wsguard.Schema // of the client's result of sampling/createMessage
}

// handle is the handler of all methods. The guard has checked the call against its schema.
func (m *methods) handle(ctx context.Context, p *peer, call message) (any, error) {
	switch call.Method {
	case "initialize":
		var params struct {
			Capabilities struct{ Sampling json.RawMessage }
		}
		if err := json.Unmarshal(call.Params, &params); err != nil {
			return nil, err
		}
		p.sampling.Store(params.Capabilities.Sampling != nil)
		return object{
			"protocolVersion": "2025-03-26",
			"capabilities":    object{"tools": object{}},
			"serverInfo":      object{"name": "wsguard-example", "version": "1"},
		}, nil
	case "tools/list":
		return object{"tools": tools}, nil
	case "tools/call":
		var params struct {
			Name      string
			Arguments struct{ Text string }
		}
		if err := json.Unmarshal(call.Params, &params); err != nil {
			return nil, err
		}
		text, err := m.call(ctx, p, params.Name, params.Arguments.Text)
		if err != nil {
			text = err.Error() // for the client's model, which may try something else
		}
		return object{"content": []object{{"type": "text", "text": text}}, "isError": err != nil}, nil
	case "ping", "notifications/initialized", "notifications/cancelled":
		return object{}, nil
	}
	return nil, &rpcError{-32601, "no such method"} // the guard refuses it, as there is no schema
}

// call runs a tool.
func (m *methods) call(ctx context.Context, p *peer, tool, text string) (string, error) {
	switch {
	case tool == "count_words":
		return strconv.Itoa(len(strings.Fields(text))), nil
	case !p.sampling.Load():
		return "", errors.New("the client has no language model")
	}
	result, err := p.call(ctx, "sampling/createMessage", object{
		"messages":  []object{{"role": "user", "content": object{"type": "text", "text": "Summarize: " + text}}},
		"maxTokens": 200,
	}, m.sampled)
	if err != nil {
		return "", fmt.Errorf("the client's language model: %w", err)
	}
	var message struct {
		Content struct{ Text string }
	}
	err = json.Unmarshal(result, &message)
	return message.Content.Text, err
}
