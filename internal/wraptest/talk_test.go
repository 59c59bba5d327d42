package wraptest_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/wsguard/wsguard/internal/wstest"
)

// talk is a conversation of a good client. What the client sees must be the
// same whether or not a guard stands between.
type talk struct {
	name string

	// run returns what the client has seen. The error says what is wrong with
	// it, whatever the library.
	run func(*target) (seen []string, err error)
}

var talks = []talk{
	{"text", talkText},
	{"binary", talkBinary},
	{"fragments, and a ping between", talkFragments},
	{"many messages in one segment", talkPipelined},
	{"pings", talkPings},
	{"close by the client", talkClose},
	{"close by the server", talkServerClose},
	{"head of the 101", talkHead},
	{"messages both ways at once", talkBoth},
	{"messages while nobody is read", talkPush},
}

// transcript is what a client sees of a connection. Control frames stand apart,
// since nothing orders them among messages.
type transcript struct {
	c        *session
	messages []string
	control  []string
}

// begin opens a connection.
func begin(s *target) (*transcript, error) {
	c, err := s.open()
	if err != nil {
		return nil, err
	}
	c.until = time.Now().Add(wrappedLimit) // bare and wrapped
	return &transcript{c: c}, nil
}

// read reads frames until the handler has said n texts and sent m pongs in all.
// A close frame or the end of the connection is an error before that.
func (tr *transcript) read(n, m int) error {
	for pongs := tr.pongs(); len(tr.messages) < n || pongs < m; pongs = tr.pongs() {
		if err := tr.frame(); err != nil {
			return fmt.Errorf("after %d of %d messages and %d of %d pongs: %w", len(tr.messages), n, pongs, m, err)
		}
	}
	return nil
}

func (tr *transcript) pongs() int { return len(tr.control) }

var errClosed = errors.New("close frame")

// frame reads a frame. The handlers of these tests do not fragment messages.
func (tr *transcript) frame() error {
	tr.c.Timeout = max(time.Until(tr.c.until), time.Nanosecond)
	f, err := tr.c.ReadFrame()
	if err != nil {
		return err
	}
	switch f.Opcode {
	case wstest.OpClose:
		tr.control = append(tr.control, "close "+closePayload(f.Payload))
		return errClosed
	case wstest.OpPong:
		tr.control = append(tr.control, fmt.Sprintf("pong %q", f.Payload))
	case wstest.OpPing:
		return errors.New("a ping")
	default:
		if !f.Fin {
			return errors.New("a fragment")
		}
		if text, ok := tr.c.target.lib.dialect.heard(string(f.Payload)); ok {
			tr.messages = append(tr.messages, fmt.Sprintf("%d %s", f.Opcode, text))
		}
	}
	return nil
}

func closePayload(p []byte) string {
	switch len(p) {
	case 0:
		return "1005"
	case 1:
		return fmt.Sprintf("of one byte, %q", p)
	}
	return fmt.Sprintf("%d %q", int(p[0])<<8|int(p[1]), p[2:])
}

// finish closes the connection as a client does that has had enough, and
// returns all that was seen.
func (tr *transcript) finish(code int, reason string) ([]string, error) {
	err := tr.c.WriteFrame(wstest.CloseFrame(code, reason))
	return tr.ended(err, fmt.Sprintf("%s %d", noAnswer, code))
}

// noAnswer is what a client sees in place of an answer to its close frame.
const noAnswer = "no answer to"

// ended reads to the end of the connection, after err. What was seen ends with
// a close frame, or else with otherwise.
func (tr *transcript) ended(err error, otherwise string) ([]string, error) {
	defer tr.c.Close()
	for err == nil {
		err = tr.frame()
	}
	switch {
	case err == errClosed:
		// The close code is what counts. How TCP ends is between kernels.
		err = nil
	case errors.Is(err, wstest.ErrProtocol) || errors.Is(err, os.ErrDeadlineExceeded):
		return nil, err
	default:
		tr.control = append(tr.control, otherwise)
		err = nil
	}
	if tr.c.target.lib.dialect.unordered {
		slices.Sort(tr.messages)
	}
	return append(tr.messages, tr.control...), err
}

// say sends texts, all in one write, each of which the handler echoes.
func (tr *transcript) say(texts ...string) error {
	var b []byte
	for i, text := range texts {
		b = wstest.AppendFrame(b, wstest.Text(tr.c.target.lib.dialect.say(i, text)))
	}
	_, err := tr.c.Write(b)
	return err
}

// expect returns an error unless the messages are texts.
func (tr *transcript) expect(opcode byte, texts ...string) error {
	want := make([]string, len(texts))
	for i, text := range texts {
		want[i] = fmt.Sprintf("%d %s", opcode, text)
	}
	got := slices.Clone(tr.messages)
	if tr.c.target.lib.dialect.unordered {
		slices.Sort(got)
		slices.Sort(want)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("got %.200q, want %.200q", got, want)
	}
	return nil
}

func talkText(s *target) ([]string, error) {
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	texts := []string{"", "x", "Grüß Gott, 世界 🌍", strings.Repeat("x", 125), strings.Repeat("x", 126), strings.Repeat("0123456789abcdef", 4<<10)}
	for i, text := range texts {
		if err = cmp.Or(tr.say(text), tr.read(i+1, 0)); err != nil {
			break
		}
	}
	err = cmp.Or(err, tr.expect(wstest.OpText, texts...))
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}

func talkBinary(s *target) ([]string, error) {
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	d := s.lib.dialect
	want := []string{"hello", strings.Repeat("\x00\xff\x80", 10<<10)}
	opcode := wstest.OpBinary
	if d.greet != "" { // JSON in, text out
		want, opcode = want[:1], wstest.OpText
	}
	for i, text := range want {
		err = cmp.Or(err, tr.c.WriteFrame(wstest.Binary([]byte(d.say(i, text)))), tr.read(i+1, 0))
	}
	err = cmp.Or(err, tr.expect(opcode, want...))
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}

// talkFragments sends a message in three fragments, cut inside a code point,
// with a ping and a pause before each of the last two.
func talkFragments(s *target) ([]string, error) {
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	const text = "three pieces of 世界"
	msg := s.lib.dialect.say(0, text)
	first := strings.Index(msg, "世") + 1
	second := strings.Index(msg, "界") + 2
	for i, part := range []string{msg[:first], msg[first:second], msg[second:]} {
		var b []byte
		opcode := wstest.OpText
		if i > 0 {
			opcode = wstest.OpContinuation
			b = wstest.AppendFrame(b, wstest.Ping(fmt.Appendf(nil, "between %d", i)))
		}
		_, werr := tr.c.Write(fragment(b, opcode, i == 2, []byte(part)))
		err = cmp.Or(err, werr, tr.read(0, i))
	}
	err = cmp.Or(err, tr.read(1, 2), tr.expect(wstest.OpText, text))
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}

func talkPipelined(s *target) ([]string, error) {
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	var texts []string
	for i := range 60 {
		texts = append(texts, fmt.Sprintf("message %d", i))
	}
	err = cmp.Or(tr.say(texts...), tr.read(len(texts), 0), tr.expect(wstest.OpText, texts...))
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}

func talkPings(s *target) ([]string, error) {
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	for i, payload := range []string{"", "ping", strings.Repeat("x", 125)} {
		err = cmp.Or(err, tr.c.WriteFrame(wstest.Ping([]byte(payload))), tr.read(0, i+1))
		if want := fmt.Sprintf("pong %q", payload); err == nil && tr.control[i] != want {
			err = fmt.Errorf("got %s, want %s", tr.control[i], want)
		}
	}
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}

// talkClose closes with each kind of code. How the handler answers is its own:
// what counts is that a guard changes nothing.
func talkClose(s *target) ([]string, error) {
	var all []string
	for _, end := range []struct {
		code   int
		reason string
	}{{1000, "done"}, {1001, ""}, {1005, ""}, {4321, "of the application"}} {
		tr, err := begin(s)
		if err != nil {
			return nil, err
		}
		err = cmp.Or(tr.say("hello"), tr.read(1, 0), tr.expect(wstest.OpText, "hello"))
		seen, ended := tr.finish(end.code, end.reason)
		if err = cmp.Or(err, ended); err != nil {
			return nil, err
		}
		all = append(all, seen...)
	}
	return all, nil
}

func talkServerClose(s *target) ([]string, error) {
	c, err := s.shake(s.good())
	if err != nil {
		return nil, err
	}
	c.until = time.Now().Add(wrappedLimit)
	tr := &transcript{c: c}
	seen, err := tr.ended(c.WriteFrame(wstest.Text(s.lib.dialect.shut)), "no close frame")
	if want := fmt.Sprintf("close %d %q", byeCode, s.lib.dialect.byeText); err == nil && !slices.Equal(seen, []string{want}) {
		err = fmt.Errorf("got %q, want %s", seen, want)
	}
	return seen, err
}

func talkHead(s *target) ([]string, error) {
	o := s.good()
	want := s.lib.dialect.subprotocol
	o.Header.Set("Sec-WebSocket-Protocol", "none.v9, "+want)
	c, err := s.shake(o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	h := c.res.Header
	if got := h.Values("Sec-WebSocket-Protocol"); !slices.Equal(got, []string{want}) {
		err = fmt.Errorf("subprotocol %q, want %q", got, want)
	}
	for name, want := range served {
		if got := h.Values(name); err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var seen []string
	for name, values := range h {
		switch name {
		case "Date", "Sec-Websocket-Accept": // which the client has checked
		default:
			seen = append(seen, fmt.Sprintf("%s: %q", name, values))
		}
	}
	slices.Sort(seen)
	return append([]string{c.res.Proto + " " + http.StatusText(c.res.StatusCode)}, seen...), err
}

// talkBoth sends messages while the handler sends others of its own.
func talkBoth(s *target) ([]string, error) {
	const n = 150
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	d := s.lib.dialect
	wrote := make(chan error, 1)
	go func() {
		err := tr.c.WriteFrame(wstest.Text(d.both(n)))
		for i := 0; i < n && err == nil; i++ {
			err = tr.c.WriteFrame(wstest.Text(d.say(i, fmt.Sprintf("echo %d %s", i, strings.Repeat("y", 10*i)))))
		}
		wrote <- err
	}()
	err = cmp.Or(tr.read(2*n, 0), <-wrote)
	var echoes, pushes []string
	for _, m := range tr.messages {
		if strings.Contains(m, "echo") {
			echoes = append(echoes, m)
		} else {
			pushes = append(pushes, m)
		}
	}
	for i := 0; i < n && err == nil; i++ {
		if want := fmt.Sprintf("1 %s", pushed(i, 0)); pushes[i] != want {
			err = fmt.Errorf("push %d is %q", i, pushes[i])
		}
		if want := fmt.Sprintf("1 echo %d ", i); !d.unordered && !strings.HasPrefix(echoes[i], want) {
			err = fmt.Errorf("echo %d is %.40q", i, echoes[i])
		}
	}
	tr.messages = append(echoes, pushes...)
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}

func talkPush(s *target) ([]string, error) {
	const n, size = 200, 5000
	tr, err := begin(s)
	if err != nil {
		return nil, err
	}
	var want []string
	for i := range n {
		want = append(want, pushed(i, size))
	}
	err = cmp.Or(tr.c.WriteFrame(wstest.Text(s.lib.dialect.push(n, size))), tr.read(n, 0), tr.expect(wstest.OpText, want...))
	seen, end := tr.finish(1000, "")
	return seen, cmp.Or(err, end)
}
