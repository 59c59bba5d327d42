package main

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// message is a Message of schema.graphql.
type message struct{ who, text string }

// chat has the resolvers.
type chat struct {
	kickUser func(name string) int // read-only

	mu        sync.Mutex
	listeners map[chan message]struct{} // guarded by mu
}

func newChat(kick func(string) int) *chat {
	return &chat{kickUser: kick, listeners: map[chan message]struct{}{}}
}

// say sends a message to all listeners. It drops a listener that has not taken the last 16
// messages, so that a slow client delays nobody.
func (c *chat) say(ctx context.Context, text string) message {
	m := message{sessionOf(ctx).user.Subject, text}
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.listeners {
		select {
		case l <- m:
		default:
			delete(c.listeners, l)
			close(l)
		}
	}
	return m
}

// listen returns the messages from now on, until ctx ends. The channel is closed if the caller
// does not keep up.
func (c *chat) listen(ctx context.Context) <-chan message {
	l := make(chan message, 16)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[l] = struct{}{}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, l)
	})
	return l
}

func (c *chat) listening() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.listeners)
}

func (c *chat) kick(ctx context.Context, name string) (int, error) {
	if !slices.Contains(sessionOf(ctx).user.Scopes, "moderate") {
		return 0, errors.New("only moderators may kick")
	}
	return c.kickUser(name), nil
}
