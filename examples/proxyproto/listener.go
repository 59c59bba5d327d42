package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/wsguard/wsguard"
)

// listen returns a listener for the balancer, whose connections have the client's
// address as their RemoteAddr.
func listen(addr string, trusted []string, headerTimeout time.Duration) (net.Listener, error) {
	// A header says whatever its sender likes, so trust in every address would let
	// any client say who it is. wsguard refuses that of its own proxies, too.
	if _, err := wsguard.NewTLSCheck(wsguard.Config{Proxies: wsguard.Proxies{Trusted: trusted}}); err != nil {
		return nil, fmt.Errorf("-trusted: %w", err)
	}
	// From these addresses there must be a header; all others are dropped before a byte of theirs is read, header or
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
