package wstest

import (
	"errors"
	"net"
	"time"
)

// Script is a net.Conn from which a stream comes in pieces, without a peer. What is written to it
// is lost, and deadlines mean nothing.
type Script struct {
	net.Conn
	Stream []byte // what is still to come
	Piece  int    // the most bytes that one Read returns; 0: all
	Over   bool   // a Read has found nothing more
}

var errScript = errors.New("the stream is not over")

func (s *Script) Read(p []byte) (int, error) {
	if len(s.Stream) == 0 {
		s.Over = true
		return 0, errScript
	}
	n := len(s.Stream)
	if s.Piece > 0 {
		n = min(n, s.Piece)
	}
	n = copy(p, s.Stream[:n])
	s.Stream = s.Stream[n:]
	return n, nil
}

func (s *Script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *Script) Close() error                     { return nil }
func (s *Script) SetDeadline(time.Time) error      { return nil }
func (s *Script) SetReadDeadline(time.Time) error  { return nil }
func (s *Script) SetWriteDeadline(time.Time) error { return nil }
