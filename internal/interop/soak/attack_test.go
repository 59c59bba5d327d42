package soak_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// attackKind is one way to attack. try does so once, until the server ends it or ctx ends.
type attackKind struct {
	name string
	try  func(*attacker, context.Context) error
}

// attackKinds are spread evenly over the attackers.
var attackKinds = []attackKind{
	{"flood of messages", flood(wstest.AppendFrame(nil, wstest.Text(string(message(1, 0)))))},
	{"flood of pings", flood(wstest.AppendFrame(nil, wstest.Ping([]byte("ping"))))},
	{"flood of empty fragments", emptyFragments},
	{"half a frame", halfFrame},
	{"slow header", slowHeader},
	{"slow body", slowBody},
	{"huge length", hugeLength},
	{"no mask", once(unmasked)},
	{"bad UTF-8", once(wstest.AppendFrame(nil, wstest.Text("\xff\xfe")))},
	{"bad JSON", once(wstest.AppendFrame(nil, wstest.Text(`{"seq":1,"text":"`)))},
	{"schema bomb", schemaBomb},
	{"never reads", neverReads},
	{"a byte a second", byteASecond},
	{"resets", resets},
	{"close frames", closeGames},
	{"flood of handshakes", handshakes(nil, 200)},
	{"foreign origin", handshakes(http.Header{"Origin": {"https://evil.example"}}, 20)},
	{"bad token", handshakes(http.Header{"Authorization": {"Bearer guessed"}}, 20)},
	{"half-closed", halfClosed},
	{"no pong", noPong},
	{"flood of TLS key updates", keyUpdates},
}

// order says what the attackers shall do.
type order struct {
	To        greeting
	Attackers int
}

// tally is what the attackers of one kind have done.
type tally struct {
	Tries   int64 // attempts
	Opened  int64 // handshakes that were accepted
	Refused int64 // handshakes that were refused
}

// attackMain attacks from the first line of in to the second one, and reports.
func attackMain(in *bufio.Scanner, out *json.Encoder) error {
	if !in.Scan() {
		return in.Err()
	}
	var o order
	if err := json.Unmarshal(in.Bytes(), &o); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	tallies := make([]struct{ tries, opened, refused atomic.Int64 }, len(attackKinds))
	var wg sync.WaitGroup
	for i := range o.Attackers {
		kind := i % len(attackKinds)
		a := &attacker{n: i, turn: i / len(attackKinds), to: o.To, from: net.IPv4(127, 0, 1, byte(1+i%60)), opened: &tallies[kind].opened, refused: &tallies[kind].refused}
		wg.Go(func() {
			for ctx.Err() == nil {
				tallies[kind].tries.Add(1)
				// The error is the server's way to end the attempt.
				attackKinds[kind].try(a, ctx)
				sleep(ctx, time.Duration(300+a.n)*time.Millisecond)
			}
		})
	}
	if err := out.Encode("attacking"); err != nil {
		return err
	}
	if !in.Scan() {
		return in.Err()
	}
	stop()
	wg.Wait()
	done := map[string]tally{}
	for i, k := range attackKinds {
		t := &tallies[i]
		done[k.name] = tally{t.tries.Load(), t.opened.Load(), t.refused.Load()}
	}
	return out.Encode(done)
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// attacker attacks from an address that a few others have too.
type attacker struct {
	n               int
	turn            int // the number among those of its kind, for what differs between them
	to              greeting
	from            net.IP
	opened, refused *atomic.Int64
}

// patienceOfAttackers bounds an attempt on a server that does not end it.
const patienceOfAttackers = 45 * time.Second

// dial connects. The end of ctx, or of the attacker's patience, closes the connection.
func (a *attacker) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: a.from}, Timeout: patienceOfAttackers}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patienceOfAttackers))
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return &attackConn{conn.(*net.TCPConn), stop}, nil
}

type attackConn struct {
	*net.TCPConn
	stop func() bool
}

func (c *attackConn) Close() error {
	c.stop()
	return c.TCPConn.Close()
}

// request is a handshake of a user with a good token.
func (a *attacker) request(path string, change http.Header) string {
	h := http.Header{
		"Host":                  {a.to.Addr},
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
		"Origin":                {origin},
		"Authorization":         {fmt.Sprintf("Bearer token-of-evil-%d", a.n)},
	}
	for name, values := range change {
		h[name] = values
	}
	var b strings.Builder
	b.WriteString("GET " + path + " HTTP/1.1\r\n")
	h.Write(&b)
	b.WriteString("\r\n")
	return b.String()
}

// shake makes a handshake over conn, and returns what reads the rest.
func (a *attacker) shake(conn net.Conn, path string, change http.Header) (*bufio.Reader, error) {
	if _, err := io.WriteString(conn, a.request(path, change)); err != nil {
		return nil, err
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		a.refused.Add(1)
		return nil, errors.New(res.Status)
	}
	a.opened.Add(1)
	return br, nil
}

func (a *attacker) open(ctx context.Context, path string) (net.Conn, *bufio.Reader, error) {
	conn, err := a.dial(ctx, a.to.Addr)
	if err != nil {
		return nil, nil, err
	}
	br, err := a.shake(conn, path, nil)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, br, nil
}

// floodBytes is how much one attempt sends, if the server lets it.
const floodBytes = 4 << 20

// flood sends a frame as fast as the server takes it.
func flood(frame []byte) func(*attacker, context.Context) error {
	chunk := bytes.Repeat(frame, 4096/len(frame))
	return func(a *attacker, ctx context.Context) error {
		conn, br, err := a.open(ctx, pathEcho)
		if err != nil {
			return err
		}
		defer conn.Close()
		return pour(conn, br, chunk)
	}
}

// pour sends floodBytes and reads until the server ends the connection.
func pour(conn net.Conn, br *bufio.Reader, chunk []byte) error {
	over := make(chan struct{})
	go func() {
		defer close(over)
		io.Copy(io.Discard, br)
	}()
	var err error
	for sent := 0; sent < floodBytes && err == nil; sent += len(chunk) {
		_, err = conn.Write(chunk)
	}
	<-over
	return err
}

func emptyFragments(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, pathEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	first := wstest.Text("")
	first.Fin = false
	if _, err := conn.Write(wstest.AppendFrame(nil, first)); err != nil {
		return err
	}
	first.Opcode = wstest.OpContinuation
	return pour(conn, br, bytes.Repeat(wstest.AppendFrame(nil, first), 600))
}

// halfFrame promises more than it sends.
func halfFrame(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, pathEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	frame := wstest.AppendFrame(nil, wstest.Text(string(message(1, 1000))))
	if _, err := conn.Write(frame[:1+a.n%500]); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, br)
	return err
}

func slowHeader(a *attacker, ctx context.Context) error {
	conn, err := a.dial(ctx, a.to.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, b := range []byte(a.request(pathEcho, nil)) {
		if _, err := conn.Write([]byte{b}); err != nil {
			return err
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// slowBody has the handshake announce a body.
func slowBody(a *attacker, ctx context.Context) error {
	conn, err := a.dial(ctx, a.to.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, a.request(pathEcho, http.Header{"Content-Length": {"100000"}})); err != nil {
		return err
	}
	for {
		if _, err := conn.Write([]byte{'x'}); err != nil {
			return err
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func hugeLength(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, pathEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	huge := wstest.Text("")
	length := []uint64{1 << 20, 1 << 32, 1 << 62, 1<<64 - 1}[a.turn%4]
	huge.Length, huge.LengthBytes = &length, 8
	if _, err := conn.Write(wstest.AppendFrame(nil, huge)); err != nil {
		return err
	}
	return pour(conn, br, make([]byte, 4096))
}

var unmasked = wstest.AppendFrame(nil, wstest.Frame{Fin: true, Opcode: wstest.OpText, Payload: message(1, 0)})

// once sends a frame, and the same again while the server does not close.
func once(frame []byte) func(*attacker, context.Context) error {
	return func(a *attacker, ctx context.Context) error {
		conn, br, err := a.open(ctx, pathEcho)
		if err != nil {
			return err
		}
		defer conn.Close()
		for range 5 {
			if _, err := conn.Write(frame); err != nil {
				return err
			}
			conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := io.Copy(io.Discard, br); !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
		return nil
	}
}

// schemaBomb sends what costs a JSON reader or a schema most, as often as rates allow.
func schemaBomb(a *attacker, ctx context.Context) error {
	bombs := []string{
		strings.Repeat(`{"seq":`, 4000),
		strings.Repeat("[", 30000),
		`{"seq":1` + strings.Repeat(`,"seq":1`, 3000) + `}`,
		`{"seq":1e` + strings.Repeat("9", 20000) + `}`,
		`{"seq":1,"text":"` + strings.Repeat(`\u00e9`, 5000) + `"}`,
	}
	conn, br, err := a.open(ctx, pathEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	go io.Copy(io.Discard, br)
	for i := 0; ; i++ {
		if _, err := conn.Write(wstest.AppendFrame(nil, wstest.Text(bombs[(a.turn+i)%len(bombs)]))); err != nil {
			return err
		}
		if err := sleep(ctx, 60*time.Millisecond); err != nil {
			return err
		}
	}
}

// neverReads asks for more than the buffers of the kernels hold.
func neverReads(a *attacker, ctx context.Context) error {
	path := []string{pathFeed, pathEcho, pathBurst}[a.turn%3]
	conn, _, err := a.open(ctx, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	frame := wstest.AppendFrame(nil, wstest.Text(string(message(1, 8000))))
	for {
		if path != pathFeed {
			if _, err := conn.Write(frame); err != nil {
				return err
			}
		}
		if err := sleep(ctx, 60*time.Millisecond); err != nil {
			return err
		}
		if path == pathFeed && conn.(*attackConn).gone() {
			return io.EOF
		}
	}
}

// gone reports whether the peer has closed or reset the connection, without reading from it.
func (c *attackConn) gone() bool {
	// A write of nothing would say nothing, and a pong is a frame that a server ignores.
	_, err := c.Write(wstest.AppendFrame(nil, wstest.Pong(nil)))
	time.Sleep(200 * time.Millisecond)
	return err != nil
}

// byteASecond reads too little for any message.
func byteASecond(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, pathFeed)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*attackConn).SetReadBuffer(4 << 10)
	for {
		if _, err := br.ReadByte(); err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

// resets connects and resets, before the handshake, after it, or within a frame.
func resets(a *attacker, ctx context.Context) error {
	for i := range 10 {
		conn, err := a.dial(ctx, a.to.Addr)
		if err != nil {
			return err
		}
		switch i % 3 {
		case 0:
			io.WriteString(conn, a.request(pathEcho, nil))
		case 1:
			a.shake(conn, pathEcho, nil)
		case 2:
			if _, err := a.shake(conn, pathEcho, nil); err == nil {
				conn.Write(wstest.AppendFrame(nil, wstest.Text(string(message(1, 1000))))[:500])
			}
		}
		conn.(*attackConn).SetLinger(0)
		conn.Close()
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// closeGames sends a wrong close frame, or a right one and more frames after it.
func closeGames(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, []string{pathEcho, pathFeed}[a.turn%2])
	if err != nil {
		return err
	}
	defer conn.Close()
	right := wstest.AppendFrame(nil, wstest.CloseFrame(1000, ""))
	huge := wstest.Frame{Fin: true, Opcode: wstest.OpText, Masked: true}
	length := uint64(1 << 40)
	huge.Length, huge.LengthBytes = &length, 8
	frames := [][]byte{
		wstest.AppendFrame(nil, wstest.Frame{Fin: true, Opcode: wstest.OpClose, Masked: true, Payload: []byte{3}}),
		wstest.AppendFrame(nil, wstest.CloseFrame(1006, "")),
		wstest.AppendFrame(nil, wstest.CloseFrame(1000, "\xff\xfe")),
		append(bytes.Clone(right), bytes.Repeat(right, 1000)...),
		append(bytes.Clone(right), wstest.AppendFrame(nil, huge)...),
		right,
	}
	if _, err := conn.Write(frames[a.turn/2%len(frames)]); err != nil {
		return err
	}
	// The attacker neither reads nor closes for five seconds.
	if err := sleep(ctx, 5*time.Second); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, br)
	return err
}

// handshakes makes many of them, each on a connection of its own.
func handshakes(change http.Header, count int) func(*attacker, context.Context) error {
	return func(a *attacker, ctx context.Context) error {
		for range count {
			conn, err := a.dial(ctx, a.to.Addr)
			if err != nil {
				return err
			}
			a.shake(conn, pathEcho, change)
			conn.Close()
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	}
}

// halfClosed ends its half of the connection and waits for the other one.
func halfClosed(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, []string{pathEcho, pathFeed}[a.turn%2])
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.Write(wstest.AppendFrame(nil, wstest.Text(string(message(1, 0)))))
	conn.(*attackConn).CloseWrite()
	_, err = io.Copy(io.Discard, br)
	return err
}

// noPong reads, and answers nothing.
func noPong(a *attacker, ctx context.Context) error {
	conn, br, err := a.open(ctx, pathEcho)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(io.Discard, br)
	return err
}

// keyUpdates sends TLS 1.3 KeyUpdates that ask for an answer, and reads none. A byte of a
// message now and then keeps crypto/tls from ending the connection by itself.
func keyUpdates(a *attacker, ctx context.Context) error {
	conn, err := a.dial(ctx, a.to.TLSAddr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second)) // ends a write that the server does not take
	conn.(*attackConn).SetReadBuffer(4 << 10)
	var secrets bytes.Buffer
	secure := tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, // an attacker does not care whom it attacks
		MinVersion:         tls.VersionTLS13,
		KeyLogWriter:       &secrets,
	})
	if _, err := a.shake(secure, pathEcho, nil); err != nil {
		return err
	}
	// crypto/tls has sent one record with the handshake. From here on the records are ours.
	w, err := wstest.NewRecordWriter(conn, secure.ConnectionState().CipherSuite, secrets.String(), 1)
	if err != nil {
		return err
	}
	frame := wstest.AppendFrame(nil, wstest.Text(string(message(1, 8000))))
	for i := 0; ; i++ {
		if err := w.Flood(frame[i%len(frame)]); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		// Without a pause the attackers would need more of the machine than the server.
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}
