package main

import (
	"errors"
	"net"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

// listen returns a listener for the balancer, whose connections have the client's
// address as their RemoteAddr.
func listen(addr string, trusted []string, headerTimeout time.Duration) (net.Listener, error) {
	for _, t := range trusted {
		if strings.HasSuffix(t, "/0") {
			return nil, errors.New("-trusted " + t + ": any client could say who it is")
		}
	}
	// A header says whatever its sender likes. From these addresses there must
	// be one; all others are dropped before a byte of theirs is read, header or
	// not, so that nobody comes in past the balancer. The policies named USE,
	// which guess whether there is a header, are for migrations.
	policy, err := proxyproto.TrustProxyHeaderFromRanges(trusted)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &proxyproto.Listener{
		Listener:   l,
		ConnPolicy: policy,
		// The header is read on the connection's own goroutine: a slow one
		// keeps nobody waiting.
		ReadHeaderTimeout: headerTimeout,
		ValidateHeader:    validate,
	}, nil
}

// validate lets pass what a TCP balancer can mean: a client's address, or LOCAL
// (UNKNOWN in version 1), which is the balancer itself that looks whether we are
// alive.
func validate(h *proxyproto.Header) error {
	if _, _, ok := h.TCPAddrs(); !ok && !h.Command.IsLocal() {
		return errors.New("no TCP client in the PROXY header")
	}
	return nil
}
