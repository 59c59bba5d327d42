//go:build !unix

package wire

import "net"

// socket is nothing here: it is not seen.
type socket struct{ rc any }

func rawOf(any) any { return nil }

func (s *socket) peek() peeked                { return peekBytes }
func (s *socket) read([]byte) (int, error)    { return 0, net.ErrClosed }
func (s *socket) queued() (int64, bool)       { return 0, false }
func (s *socket) acknowledged() (int64, bool) { return 0, false }
func (s *socket) leftByPeer() bool            { return false }
