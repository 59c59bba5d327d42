package wsguard

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/wire"
	"github.com/wsguard/wsguard/reason"
)

// Wrap guards a handler that upgrades by itself. It may use gorilla/websocket,
// coder/websocket, gws, gobwas or melody, or be an httputil.ReverseProxy in front of another
// server. The code of next does not change.
//
// The checks of a handshake run before next, which sees the request as [Config.Attach] does.
// In next, [PrincipalOf] returns the Principal of the client, and [ValueOf] the value of
// Attach. From the net.Conn that next hijacks, next reads only messages that have passed all
// checks, as one frame each. The guard checks each frame that next writes. The guard answers
// the client's pings, and next does not see them.
//
// Switch off the origin check of next's own library (CheckOrigin, InsecureSkipVerify). Do
// this only behind Wrap, because Wrap checks the origin instead. A refusal by next passes to
// the client, and is reported with [reason.Handler].
//
// The connection ends when next closes it, when the client leaves, or when the guard ends
// it. If the guard ends it, next reads a close frame and then EOF. The return of next does
// not end the connection. The slot is released when the connection has ended and next has
// returned. Compression is not negotiated.
//
// Wrap panics with a *ConfigError if next is nil. It also panics with
// TokenSources.FirstMessage, which needs [Guard.Handler] or [Guard.Accept].
func (g *Guard) Wrap(next http.Handler) http.Handler { return g.endpoint.Wrap(next) }

// Wrap is like [Guard.Wrap] for this endpoint.
func (e *Endpoint) Wrap(next http.Handler) http.Handler {
	if next == nil {
		panic(&ConfigError{Field: "Wrap", Reason: "the handler is nil"})
	}
	e.g.setting.Lock()
	defer e.g.setting.Unlock()
	if e.g.policy.Load().auth.cfg.Sources.FirstMessage {
		panic(errWrapFirstMessage())
	}
	e.g.wraps = true
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serveWrapped(w, r, next) })
}

func errWrapFirstMessage() *ConfigError {
	return &ConfigError{Field: "Auth.Sources.FirstMessage", Reason: "needs Guard.Handler: a handler behind Guard.Wrap reads the first message itself"}
}

// ValueOf returns the value that [Config.Attach] has returned for r. r must be the request
// that [Guard.Wrap] has passed to its handler, or have the context of that request. For any
// other request ValueOf returns nil.
func ValueOf(r *http.Request) any { return r.Context().Value(valueKey{}) }

type valueKey struct{}

// wrapping is the guard's side of one wrapped connection. It implements wire.WrapHooks for
// the engine, which calls it mostly under the writer's lock.
type wrapping struct {
	c     *Conn
	said  atomic.Pointer[CloseError] // the close frame that the handler has sent
	leave sync.Once                  // calls sessions.left
	told  atomic.Bool                // it has been reported that the handshake was accepted or refused
	a     atomic.Pointer[occurrence] // what that report says of the request; nil once it has been made

	mu      sync.Mutex
	over    context.CancelCauseFunc // ends the context of the handler's request
	drained bool                    // guarded by mu: the handler expects nothing more
	cause   error                   // guarded by mu: why the connection has ended; nil: it has not
}

// serveWrapped runs one handshake and its handler.
func (e *Endpoint) serveWrapped(w http.ResponseWriter, r *http.Request, next http.Handler) {
	a := e.admission(r)
	a.wrapped = true
	wr := &wrapping{}
	var c *Conn
	admitted := false
	defer func() {
		if !admitted { // refused, or a hook has panicked
			wr.left(e.g)
		}
	}()
	err := a.guarded(w, func() error {
		c = a.prepare()
		return nil
	})
	if err != nil {
		return
	}
	ctx, over := context.WithCancelCause(r.Context())
	wr.c, wr.over, c.wrap = c, over, wr
	about := a.event()
	about.ConnID, about.subprotocol, about.at = c.id, a.subprotocol, a.begun
	wr.a.Store(&about)
	ww := &wrapWriter{wr: wr, w: w, a: a, offer: a.offer()}
	defer ww.returned()
	admitted = true
	next.ServeHTTP(ww, a.forHandler(ctx, ww.offer))
}

// offer returns the offer of the request, which a 101 of the handler must fit.
func (a *admission) offer() wire.Offer {
	o := wire.Offer{Key: a.r.Header.Get("Sec-Websocket-Key"), Negotiated: a.subprotocol}
	switch {
	case len(a.subprotocols) == 0:
		o.Subprotocols = wire.HeaderTokens(a.stripped.Header, "Sec-Websocket-Protocol")
	case a.subprotocol != "":
		o.Subprotocols = []string{a.subprotocol}
	}
	return o
}

// forHandler returns the request that a wrapped handler sees.
func (a *admission) forHandler(ctx context.Context, offer wire.Offer) *http.Request {
	m := a.marks
	m.principals = slices.DeleteFunc(slices.Clone(m.principals), func(f found) bool { return f.by == a.g })
	if !a.principal.anonymous() {
		m = m.find(a.g, a.principal, nil)
	}
	ctx = context.WithValue(m.in(ctx), valueKey{}, a.value)
	r := a.stripped.WithContext(ctx)
	r.Header = r.Header.Clone()
	r.Header.Del("Sec-Websocket-Extensions")
	r.Header.Del("Sec-Websocket-Protocol")
	if len(offer.Subprotocols) > 0 {
		r.Header.Set("Sec-Websocket-Protocol", strings.Join(offer.Subprotocols, ", "))
	}
	return r
}

// left ends the handshake for a drain, which no longer waits for it.
func (wr *wrapping) left(g *Guard) { wr.leave.Do(g.sessions.left) }

// Opened opens the connection, because the handler's 101 has gone out.
func (wr *wrapping) Opened() {
	c := wr.c
	c.opened = time.Now()
	if !wr.told.Swap(true) {
		e := *wr.a.Swap(nil)
		e.Kind, e.Duration = audit.Accepted, time.Since(e.at)
		c.g.events.tell(e, nil)
	}
	c.list(true)
	wr.left(c.g)
	if c.g.banned(c.client) != nil {
		c.end(chosen(websocket.StatusTryAgainLater, reason.Banned.Token(), reason.Banned))
	}
}

// Refused reports that the handler has answered with another status than 101.
func (wr *wrapping) Refused(status int) { wr.refused(reason.Handler, status, "") }

// refused reports, once, that the handshake has not led to an open connection.
func (wr *wrapping) refused(why *reason.Reason, status int, detail string) {
	if wr.told.Swap(true) {
		return
	}
	e := *wr.a.Swap(nil)
	e.Kind, e.ConnID, e.Duration = audit.Refusal, "", time.Since(e.at)
	e.Err, e.Reason, e.Detail, e.Status = why, why.Token(), detail, status
	wr.c.g.events.tell(e, nil)
}

// BadAnswer reports that the client got a 502 in place of the handler's answer.
func (wr *wrapping) BadAnswer(detail string) {
	wr.refused(reason.Handler, http.StatusBadGateway, detail)
	wr.Closed("")
}

// Illegal ends the connection because the handler has written an illegal frame.
func (wr *wrapping) Illegal(detail string) { wr.c.end(fault("the wrapped handler wrote: " + detail)) }

// Closing notes the close frame with which the handler ends the connection.
func (wr *wrapping) Closing(code int, why string) {
	said := &CloseError{Code: StatusCode(code), Reason: why, err: reason.Closed}
	wr.said.CompareAndSwap(nil, said)
}

// Unsent forgets the close frame that Closing has noted.
func (wr *wrapping) Unsent() { wr.said.Store(nil) }

// Closed ends the connection because the handler has closed it.
func (wr *wrapping) Closed(detail string) {
	e := chosen(websocket.StatusAbnormalClosure, "", reason.Closed)
	e.detail = detail
	wr.c.end(e)
}

// Unanswered ends the connection because the handler has closed it without a response.
func (wr *wrapping) Unanswered() { wr.Closed("closed without a response") }

// Stalled cuts the connection because the handler has left a frame unfinished.
func (wr *wrapping) Stalled() {
	e := fault("the wrapped handler left a frame unfinished")
	e.cut = true
	wr.c.end(e)
}

// Sent counts messages that the handler has sent.
func (wr *wrapping) Sent(messages int, bytes int64) {
	c := wr.c
	c.writing.messages.Add(uint64(messages))
	c.writing.bytes.Add(uint64(bytes))
	c.tally.out.Add(uint64(messages))
	c.tally.outBytes.Add(uint64(bytes))
	charge(c.writing.sent.Load(), max(1, messages), int(bytes))
}

// Outbound reports whether the handler's messages are held and judged, and returns the
// largest size of a message.
func (wr *wrapping) Outbound() (max int64, hold bool) {
	m := &wr.c.e.policy().messages
	return m.MaxBytes, m.Outbound != nil
}

// Check judges a message that the handler sends.
func (wr *wrapping) Check(binary bool, msg []byte) bool {
	c := wr.c
	if !binary && !utf8.Valid(msg) {
		c.reportOwn(reason.InvalidUTF8, "outbound: text is not UTF-8")
		return false
	}
	return c.outbound(msg) == nil
}

// Drained notes that the handler expects nothing more of the connection.
func (wr *wrapping) Drained() {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.drained = true
	if wr.cause != nil {
		wr.over(wr.cause)
	}
}

// neverOpen reports the end of a connection whose 101 has not gone out.
func (wr *wrapping) neverOpen(why *reason.Reason, detail string) {
	if why == reason.Closed {
		why = reason.Handler
	}
	wr.refused(why, 0, detail)
}

// ended runs when the socket is closed. It ends the context of the handler's request when the
// handler has read the end of the connection, or has had the time for that. Before that,
// httputil.ReverseProxy would cut its backend off, because it does so when the context ends.
func (wr *wrapping) ended(cause error) {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	wr.cause = cause
	if left := wr.reads(cause); !wr.drained && left > 0 {
		time.AfterFunc(left, func() { wr.over(cause) })
		return
	}
	wr.over(cause)
}

// reads returns how much time the handler still has to read the end of the connection. If the
// peer is gone, the handler has none. If the peer has sent a close frame, it has the grace.
func (wr *wrapping) reads(cause error) time.Duration {
	switch left := wr.c.w.Left(); {
	case errors.Is(cause, reason.ConnectionLost):
		return 0
	case errors.Is(cause, reason.PeerClosed):
		return left - wr.c.first.timeouts.Linger
	default:
		return left
	}
}

// wrapWriter is the ResponseWriter of a wrapped handler. It has no Unwrap, because a handler
// could reach the connection below and bypass the guard. Like any ResponseWriter, it is used
// by one goroutine.
type wrapWriter struct {
	wr       *wrapping // not embedded, so that the handler cannot call its methods
	w        http.ResponseWriter
	a        *admission
	offer    wire.Offer
	status   int  // the status of the handler's answer; 0: none, or it has hijacked
	lost     bool // the client had left before a server error of the handler
	conn     *wire.Wrapped
	header   http.Header       // the header of the handler when conn is set; other goroutines use that of w then
	brw      *bufio.ReadWriter // those of net/http; nil: it needs them itself
	err      error             // why the connection cannot be hijacked
	hijacked bool              // Hijack has returned conn
}

// returned runs when the handler has returned, or panicked.
func (w *wrapWriter) returned() {
	v := recover()
	switch {
	case w.conn != nil:
		w.wr.c.w.Returned()
		if v != nil {
			w.wr.c.panicked(v)
		}
		w.wr.c.done()
	default:
		if v == nil && w.status == 0 {
			w.status = http.StatusOK // net/http writes it
		}
		w.a.unwind()
		w.wr.left(w.wr.c.g)
		switch {
		case w.lost:
			w.wr.refused(reason.ConnectionLost, 0, "")
		case w.status != 0:
			w.wr.Refused(w.status)
		}
		w.wr.over(nil)
	}
	if v != nil {
		panic(v)
	}
}

func (w *wrapWriter) Header() http.Header {
	if w.conn == nil {
		return w.w.Header()
	}
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

func (w *wrapWriter) WriteHeader(status int) {
	h := w.Header()
	switch {
	case w.conn != nil:
		return // the handler has answered already
	case status == http.StatusSwitchingProtocols:
		if w.take() == nil {
			h = w.Header()
			if w.a.subprotocol != "" && h.Get("Sec-Websocket-Protocol") == "" {
				h.Set("Sec-Websocket-Protocol", w.a.subprotocol) // some handlers read it there
			}
			_, w.err = w.conn.Write(wire.SwitchingProtocols(h.Clone()))
		}
		return
	case status >= 200 && w.status == 0:
		w.status = status
		// net/http cancels the context when the client leaves. A proxy then answers 502.
		w.lost = status >= 500 && w.a.r.Context().Err() == context.Canceled || errors.Is(w.err, reason.ConnectionLost)
		if w.err != nil { // no upgrade has happened
			for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
				h.Del(name)
			}
		}
		// Make it the first line, because net/http looks at that line only.
		h["Connection"] = append([]string{"close"}, h["Connection"]...)
	}
	w.w.WriteHeader(status)
}

// WriteHeaderNow sends the header, for libraries that know the ResponseWriter of gin.
func (w *wrapWriter) WriteHeaderNow() {
	if now, ok := w.w.(interface{ WriteHeaderNow() }); ok && w.conn == nil && w.status != 0 {
		now.WriteHeaderNow()
	}
}

func (w *wrapWriter) Write(p []byte) (int, error) {
	if w.conn != nil {
		return 0, http.ErrHijacked
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.w.Write(p)
}

func (w *wrapWriter) Flush() {
	if w.conn != nil {
		return
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	http.NewResponseController(w.w).Flush()
}

// Hijack returns the guarded connection. The Reader is empty, because frames that came with
// the handshake are judged after the 101.
func (w *wrapWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	switch {
	case w.hijacked:
		return nil, nil, http.ErrHijacked
	case w.status != 0:
		return nil, nil, errAnswered
	case w.conn == nil && w.err == nil:
		w.take()
	}
	if w.err != nil {
		return nil, nil, w.err
	}
	w.hijacked = true
	// Reuse the buffers of net/http, which no longer needs them.
	if w.brw != nil && w.brw.Reader.Size() >= hijackBytes && w.brw.Writer.Size() >= hijackBytes {
		w.brw.Reader.Reset(w.conn)
		w.brw.Writer.Reset(w.conn)
	} else {
		w.brw = bufio.NewReadWriter(bufio.NewReaderSize(w.conn, hijackBytes), bufio.NewWriterSize(w.conn, hijackBytes))
	}
	brw := w.brw
	w.brw = nil
	return w.conn, brw, nil
}

const hijackBytes = 4096

var errAnswered = errors.New("wsguard: the handler has answered already")

// take hands the connection to the engine. The engine hijacks it when the handler has answered,
// so that middleware can be told the status. If that is not possible, take hijacks it.
func (w *wrapWriter) take() (err error) {
	c := w.wr.c
	var brw *bufio.ReadWriter
	wc := wire.Later(w.w, w.a.r, c.first.wire)
	if wc == nil {
		wc, brw, err = wire.Hijack(w.w, c.first.wire)
	}
	if err != nil {
		w.err = denyCause(notTaken(w.a.r, err), err)
		return w.err
	}
	w.a.hand(c)
	c.w, w.brw = wc, brw
	c.prepare(2) // the socket, and the handler's return
	if h := w.w.Header(); len(h) > 0 {
		w.header = h.Clone()
	}
	w.conn = wc.Wrap(w.offer, w.wr)
	return nil
}

func (w *wrapWriter) SetReadDeadline(t time.Time) error {
	if w.conn != nil {
		return w.conn.SetReadDeadline(t)
	}
	return http.NewResponseController(w.w).SetReadDeadline(t)
}

func (w *wrapWriter) SetWriteDeadline(t time.Time) error {
	if w.conn != nil {
		return w.conn.SetWriteDeadline(t)
	}
	return http.NewResponseController(w.w).SetWriteDeadline(t)
}

func (w *wrapWriter) EnableFullDuplex() error {
	if w.conn != nil {
		return http.ErrHijacked
	}
	return http.NewResponseController(w.w).EnableFullDuplex()
}
