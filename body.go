package wsguard

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/wsguard/wsguard/reason"
)

// net/http reads the rest of a request's body when the handler has returned, before it
// writes the answer. Without http.Server.ReadTimeout it waits for the body indefinitely.
// So a handler that answers a request with a body sets the read deadline itself.

const (
	bodyWait  = 250 * time.Millisecond // how long settleBody waits for the rest of a body
	bodyBytes = 256 << 10              // how much of it settleBody reads; as much as net/http
)

// hasBody reports whether a request says that a body follows.
func hasBody(r *http.Request) bool { return r.ContentLength != 0 || len(r.TransferEncoding) > 0 }

// settleBody reads the rest of a body, in bounded time, before the handler answers the
// request. It reports whether the connection can serve another request. If it cannot, the
// answer must say that the connection closes. The read deadline then stays set, and bounds
// what net/http still reads.
func settleBody(w http.ResponseWriter, r *http.Request) (reusable bool) {
	if !hasBody(r) || r.ProtoMajor != 1 {
		return true // HTTP/2 resets the stream
	}
	rc := http.NewResponseController(w)
	if r.Header.Get("Expect") != "" {
		// Reading would ask the client for the body.
		rc.SetReadDeadline(time.Now())
		return false
	}
	if rc.SetReadDeadline(time.Now().Add(bodyWait)) != nil {
		return true // there is no deadline here, so only http.Server.ReadTimeout bounds net/http
	}
	if _, err := io.CopyN(io.Discard, r.Body, bodyBytes+1); err != io.EOF {
		return false
	}
	// net/http reads from the connection from here on, and would take a timeout for the end
	// of the connection.
	rc.SetReadDeadline(time.Time{})
	return true
}

// lentBody is a request's body while the application's login may read it. The login may
// still be in a Read when the handler has to answer. That Read must end first, because
// net/http would otherwise clear the read deadline and wait for the body.
type lentBody struct {
	body io.Reader // read-only

	mu       sync.Mutex // held during a Read of body
	taken    bool       // guarded by mu: there are no more Reads
	complete bool       // guarded by mu: it has been read to its end
}

// Read reads the body. If the body does not come in time, the error wraps
// reason.Unavailable, so that the sale does not count as a failed credential.
func (b *lentBody) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken {
		return 0, fmt.Errorf("%w: %w", reason.Unavailable, http.ErrBodyReadAfterClose)
	}
	n, err = b.body.Read(p)
	b.complete = b.complete || err == io.EOF
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: %w", reason.Unavailable, err)
	}
	return n, err
}

// Close does nothing, because net/http closes the body.
func (b *lentBody) Close() error { return nil }

// takeBack ends the Read that is under way, if there is one, and allows no other. It
// reports whether the body has been read to its end.
func (b *lentBody) takeBack(w http.ResponseWriter) (complete bool) {
	if !b.mu.TryLock() {
		if http.NewResponseController(w).SetReadDeadline(time.Now()) != nil {
			return false
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.taken = true
	return b.complete
}
