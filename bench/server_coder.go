package main

import (
	"context"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"golang.org/x/time/rate"
)

// coderBare is the library that wsguard stands on with nothing around it: no
// limit, no deadline, no check but its own.
func coderBare(string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		ctx := context.Background()
		for {
			typ, msg, err := c.Read(ctx)
			if err != nil {
				return
			}
			if c.Write(ctx, typ, msg) != nil {
				return
			}
		}
	})
}

// coderCareful is what the library's documentation leads a careful user to: a
// context with a timeout for each message and each write, a read limit, an
// origin, a rate, text only, and a goroutine that pings.
func coderCareful(origin string) http.Handler {
	const (
		idle     = time.Minute
		write    = 5 * time.Second
		interval = 25 * time.Second
	)
	u, err := url.Parse(origin)
	if err != nil {
		panic(err)
	}
	opts := &websocket.AcceptOptions{OriginPatterns: []string{u.Host}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, opts)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(maxMessage)
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go keepAlive(ctx, cancel, c, interval, write)
		limiter := rate.NewLimiter(1e9, 1e9)
		for {
			typ, msg, err := readWithin(ctx, c, idle)
			if err != nil {
				return
			}
			switch {
			case typ != websocket.MessageText:
				c.Close(websocket.StatusUnsupportedData, "")
				return
			case !limiter.Allow():
				c.Close(websocket.StatusPolicyViolation, "rate")
				return
			case !utf8.Valid(msg):
				c.Close(websocket.StatusInvalidFramePayloadData, "")
				return
			}
			if writeWithin(ctx, c, write, typ, msg) != nil {
				return
			}
		}
	})
}

func readWithin(ctx context.Context, c *websocket.Conn, d time.Duration) (websocket.MessageType, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return c.Read(ctx)
}

func writeWithin(ctx context.Context, c *websocket.Conn, d time.Duration, typ websocket.MessageType, msg []byte) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return c.Write(ctx, typ, msg)
}

func keepAlive(ctx context.Context, cancel func(), c *websocket.Conn, every, timeout time.Duration) {
	defer cancel()
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		ping, stop := context.WithTimeout(ctx, timeout)
		err := c.Ping(ping)
		stop()
		if err != nil {
			return
		}
	}
}
