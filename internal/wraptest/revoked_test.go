package wraptest_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/wsguard/wsguard/internal/wraptest"
)

// TestRevokedBeforeTheUpgrade revokes a credential after the guard has let its
// handshake pass, and before the handler upgrades. No library may panic, and
// the client must get a refusal, or 3000 right after the 101.
func TestRevokedBeforeTheUpgrade(t *testing.T) {
	if !wraptest.CanWrap() {
		t.Skip("the Guard of this tree has no Wrap")
	}
	for _, lib := range libraries {
		if lib.own != nil {
			continue
		}
		t.Run(lib.name, func(t *testing.T) {
			if lib.start != nil {
				lib.start(t)
			}
			begun, goOn := make(chan struct{}), make(chan struct{})
			slow := *lib
			slow.handler = func() (http.Handler, func()) {
				h, free := lib.handler()
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					close(begun)
					<-goOn
					h.ServeHTTP(w, r)
				}), free
			}
			s := slow.serve(t, true, nil)
			defer s.stop()
			done := make(chan error, 1)
			go func() { done <- s.revoked() }()
			<-begun
			s.guard.Admin().Revoke(goodToken)
			close(goOn)
			if err := errors.Join(<-done, s.emptied()); err != nil {
				t.Error(err)
			}
		})
	}
}

// revoked opens a connection that must not stay.
func (s *target) revoked() error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	res, err := c.HandshakeWith(s.good())
	switch {
	case err != nil:
		return err
	case res.StatusCode == http.StatusSwitchingProtocols:
		c.until = time.Now().Add(s.limit)
		return c.ended(3000)
	case res.StatusCode < 400:
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}
