package wraptest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/lxzan/gws"
	"github.com/olahol/melody"
	xnet "golang.org/x/net/websocket"

	"github.com/wsguard/wsguard"
)

// maxMessage is the limit of those libraries whose default is too small for the
// conversations.
const maxMessage = 1 << 20

func noStop() {}

// gorilla/websocket.

type gorillaPeer struct {
	mu   sync.Mutex
	conn *gorilla.Conn
}

func (p *gorillaPeer) send(binary bool, msg []byte) error {
	typ := gorilla.TextMessage
	if binary {
		typ = gorilla.BinaryMessage
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.WriteMessage(typ, msg)
}

func (p *gorillaPeer) close(code int, reason string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, reason))
}

func gorillaEcho() (http.Handler, func()) {
	upgrader := gorilla.Upgrader{Subprotocols: []string{plain.subprotocol}, EnableCompression: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, served.Clone())
		if err != nil {
			return
		}
		defer conn.Close()
		p := &gorillaPeer{conn: conn}
		for {
			typ, msg, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if err := answer(p, typ == gorilla.BinaryMessage, msg); err != nil {
				return
			}
		}
	}), noStop
}

// coder/websocket.

type coderPeer struct {
	r    *http.Request
	conn *coder.Conn
}

func (p coderPeer) send(binary bool, msg []byte) error {
	typ := coder.MessageText
	if binary {
		typ = coder.MessageBinary
	}
	return p.conn.Write(p.r.Context(), typ, msg)
}

func (p coderPeer) close(code int, reason string) error {
	return p.conn.Close(coder.StatusCode(code), reason)
}

func coderEcho() (http.Handler, func()) {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addServed(w.Header())
		conn, err := coder.Accept(w, r, &coder.AcceptOptions{
			Subprotocols:    []string{plain.subprotocol},
			CompressionMode: coder.CompressionContextTakeover,
		})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(maxMessage)
		p := coderPeer{r, conn}
		for {
			typ, msg, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if err := answer(p, typ == coder.MessageBinary, msg); err != nil {
				return
			}
		}
	}), noStop
}

// lxzan/gws. Its handler returns while the connection lives on.

type gwsPeer struct{ conn *gws.Conn }

func (p gwsPeer) send(binary bool, msg []byte) error {
	op := gws.OpcodeText
	if binary {
		op = gws.OpcodeBinary
	}
	return p.conn.WriteMessage(op, msg)
}

func (p gwsPeer) close(code int, reason string) error {
	return p.conn.WriteClose(uint16(code), []byte(reason))
}

type gwsHandler struct{ gws.BuiltinEventHandler }

func (gwsHandler) OnPing(conn *gws.Conn, payload []byte) { _ = conn.WritePong(payload) }

func (gwsHandler) OnMessage(conn *gws.Conn, message *gws.Message) {
	defer message.Close()
	_ = answer(gwsPeer{conn}, message.Opcode == gws.OpcodeBinary, message.Bytes())
}

func gwsEcho() (http.Handler, func()) {
	header := served.Clone()
	upgrader := gws.NewUpgrader(gwsHandler{}, &gws.ServerOption{
		SubProtocols:      []string{plain.subprotocol},
		ResponseHeader:    header,
		PermessageDeflate: gws.PermessageDeflate{Enabled: true},
		CheckUtf8Enabled:  true,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go conn.ReadLoop()
	}), noStop
}

// gobwas/ws, as its README uses it: a goroutine of its own reads and answers,
// the handler returns.

type gobwasPeer struct {
	mu   sync.Mutex
	conn net.Conn
}

func (p *gobwasPeer) send(binary bool, msg []byte) error {
	op := ws.OpText
	if binary {
		op = ws.OpBinary
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return wsutil.WriteServerMessage(p.conn, op, msg)
}

func (p *gobwasPeer) close(code int, reason string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ws.WriteFrame(p.conn, ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusCode(code), reason)))
}

func gobwasEcho() (http.Handler, func()) {
	upgrader := ws.HTTPUpgrader{
		Header:   served.Clone(),
		Protocol: func(s string) bool { return s == plain.subprotocol },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, _, err := upgrader.Upgrade(r, w)
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			p := &gobwasPeer{conn: conn}
			for {
				msg, op, err := wsutil.ReadClientData(conn)
				if err != nil {
					return
				}
				if err := answer(p, op == ws.OpBinary, msg); err != nil {
					return
				}
			}
		}()
	}), noStop
}

// olahol/melody.

type melodyPeer struct{ session *melody.Session }

func (p melodyPeer) send(binary bool, msg []byte) error {
	if binary {
		return p.session.WriteBinary(msg)
	}
	return p.session.Write(msg)
}

func (p melodyPeer) close(code int, reason string) error {
	return p.session.CloseWithMsg(melody.FormatCloseMessage(code, reason))
}

func melodyEcho() (http.Handler, func()) {
	m := melody.New()
	m.Config.MaxMessageSize = maxMessage
	m.Config.MessageBufferSize = 4096 // it drops what does not fit
	m.Upgrader.Subprotocols = []string{plain.subprotocol}
	m.Upgrader.EnableCompression = true
	m.HandleMessage(func(s *melody.Session, msg []byte) { _ = answer(melodyPeer{s}, false, msg) })
	m.HandleMessageBinary(func(s *melody.Session, msg []byte) { _ = answer(melodyPeer{s}, true, msg) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addServed(w.Header())
		_ = m.HandleRequest(w, r)
	}), func() { _ = m.Close() }
}

// golang.org/x/net/websocket.

type xnetMessage struct {
	payloadType byte
	data        []byte
}

var xnetCodec = xnet.Codec{
	Marshal: func(v any) ([]byte, byte, error) {
		m := v.(xnetMessage)
		return m.data, m.payloadType, nil
	},
	Unmarshal: func(data []byte, payloadType byte, v any) error {
		*v.(*xnetMessage) = xnetMessage{payloadType, data}
		return nil
	},
}

type xnetPeer struct{ conn *xnet.Conn }

func (p xnetPeer) send(binary bool, msg []byte) error {
	m := xnetMessage{xnet.TextFrame, msg}
	if binary {
		m.payloadType = xnet.BinaryFrame
	}
	return xnetCodec.Send(p.conn, m)
}

// close sends a close frame without a reason: the library has no way to give
// one.
func (p xnetPeer) close(code int, _ string) error { return p.conn.WriteClose(code) }

func xnetEcho() (http.Handler, func()) {
	header := served.Clone()
	return xnet.Server{
		Config: xnet.Config{Header: header},
		Handshake: func(config *xnet.Config, r *http.Request) error {
			var err error
			if config.Origin, err = xnet.Origin(config, r); err != nil || config.Origin == nil {
				return errors.New("no origin")
			}
			for _, p := range config.Protocol {
				if p == plain.subprotocol {
					config.Protocol = []string{p}
					return nil
				}
			}
			config.Protocol = nil
			return nil
		},
		Handler: func(conn *xnet.Conn) {
			p := xnetPeer{conn}
			for {
				var m xnetMessage
				if err := xnetCodec.Receive(conn, &m); err != nil {
					return
				}
				if err := answer(p, m.payloadType == xnet.BinaryFrame, m.data); err != nil {
					return
				}
			}
		},
	}, noStop
}

// The guard's own door.

type ownPeer struct {
	ctx  context.Context
	conn *wsguard.Conn
}

func (p ownPeer) send(binary bool, msg []byte) error {
	typ := wsguard.MessageText
	if binary {
		typ = wsguard.MessageBinary
	}
	return p.conn.Write(p.ctx, typ, msg)
}

func (p ownPeer) close(code int, reason string) error {
	return p.conn.Close(wsguard.StatusCode(code), reason)
}

func ownEcho(g *wsguard.Guard) http.Handler {
	h := g.Handler(func(ctx context.Context, conn *wsguard.Conn) error {
		p := ownPeer{ctx, conn}
		for {
			typ, msg, err := conn.Read(ctx)
			if err != nil {
				return err
			}
			if err := answer(p, typ == wsguard.MessageBinary, msg); err != nil {
				return err
			}
		}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addServed(w.Header())
		h.ServeHTTP(w, r)
	})
}
