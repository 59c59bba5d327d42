package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// inFlight is how many messages of a connection are on their way at once.
const inFlight = 8

// limitPerRound ends a round that hangs.
const limitPerRound = time.Minute

// message is one text message as the client sends it and as it comes back.
type message struct {
	sent []byte // inFlight masked frames, one behind the other
	one  int    // bytes of one of them
	echo []byte // one frame of the server's
}

func newMessage(size int) *message {
	const head, tail = `{"type":"chat","room":"lobby","text":"`, `"}`
	const pattern = "The quick brown fox jumps over the lazy dog. "
	text := bytes.Repeat([]byte(pattern), size/len(pattern)+1)[:size-len(head)-len(tail)]
	payload := slices.Concat([]byte(head), text, []byte(tail))
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}

	frame := append(frameHeader(0x80, size), key[:]...)
	for i, b := range payload {
		frame = append(frame, b^key[i&3])
	}
	return &message{
		sent: bytes.Repeat(frame, inFlight),
		one:  len(frame),
		echo: append(frameHeader(0, size), payload...),
	}
}

// frameHeader is that of a final text frame (RFC 6455 §5.2).
func frameHeader(masked byte, size int) []byte {
	const finText = 0x81
	switch {
	case size < 126:
		return []byte{finText, masked | byte(size)}
	case size <= 0xffff:
		return binary.BigEndian.AppendUint16([]byte{finText, masked | 126}, uint16(size))
	}
	return binary.BigEndian.AppendUint64([]byte{finText, masked | 127}, uint64(size))
}

// handshake is the request that every server gets, but for its origin.
func handshake(addr, origin string) string {
	return "GET /ws HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Origin: " + origin + "\r\nAuthorization: Bearer " + token + "\r\n\r\n"
}

// client is one connection of the load. It knows just enough of WebSocket to
// check what comes back: the less it costs, the more of the machine is left to
// the servers.
type client struct {
	conn net.Conn
	buf  []byte
}

func dial(p *process) (*client, error) {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	origin := "http://" + p.addr
	if p.tls {
		origin = "https://" + p.addr
		// The server is a child of this program, and has made its certificate itself.
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	conn.SetDeadline(time.Now().Add(limitPerRound))
	if _, err := conn.Write([]byte(handshake(p.addr, origin))); err != nil {
		conn.Close()
		return nil, err
	}
	// The server has nothing to say before the first message: what it sends
	// is the answer, and nothing else.
	answer := make([]byte, 0, 4096)
	for !bytes.HasSuffix(answer, []byte("\r\n\r\n")) && len(answer) < cap(answer) {
		n, err := conn.Read(answer[len(answer):cap(answer)])
		answer = answer[:len(answer)+n]
		if err != nil {
			conn.Close()
			return nil, err
		}
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		conn.Close()
		status, _, _ := strings.Cut(string(answer), "\r\n")
		return nil, errors.New("handshake refused: " + status)
	}
	return &client{conn: conn}, nil
}

// echo sends n messages, inFlight at a time, and waits for all of them.
func (c *client) echo(m *message, n int) error {
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	c.conn.SetDeadline(time.Now().Add(limitPerRound))
	sent, got := 0, 0
	at := 0 // in the frame that is being received
	for got < n {
		// As many as have come back, in one write.
		if k := min(inFlight-(sent-got), n-sent); k > 0 {
			if _, err := c.conn.Write(m.sent[:k*m.one]); err != nil {
				return err
			}
			sent += k
		}
		r, err := c.conn.Read(c.buf)
		if err != nil {
			return err
		}
		for p := c.buf[:r]; len(p) > 0; {
			k := min(len(p), len(m.echo)-at)
			if !bytes.Equal(p[:k], m.echo[at:at+k]) {
				return fmt.Errorf("message %d did not come back as it was sent", got)
			}
			p = p[k:]
			if at += k; at == len(m.echo) {
				at = 0
				got++
			}
		}
	}
	return nil
}

// crowd is several clients of one server.
type crowd []*client

func dialAll(p *process, n int) (crowd, error) {
	c := make(crowd, n)
	err := parallel(8, n, func(i int) (err error) {
		c[i], err = dial(p)
		return err
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c crowd) close() {
	for _, cl := range c {
		if cl != nil {
			cl.conn.Close()
		}
	}
}

// echo has every client send n messages, all clients at once.
func (c crowd) echo(m *message, n int) error {
	return parallel(len(c), len(c), func(i int) error { return c[i].echo(m, n) })
}

// parallel calls f for 0 to n-1 from this many goroutines, and returns the
// first error.
func parallel(workers, n int, f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	next := make(chan int)
	for range workers {
		wg.Go(func() {
			var first error
			for i := range next {
				if first == nil {
					first = f(i)
				}
			}
			if first != nil {
				errs <- first
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	close(errs)
	return <-errs
}
