package wsguard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// FirstMessage is the part of a protocol in which a connection presents its credential. It
// replaces the form that TokenSources.FirstMessage describes. [GraphQLWS] returns that of
// graphql-transport-ws. The application sees none of the messages that Take is asked about.
//
// Take and Accepted must return quickly. If a call takes longer than AuthConfig.VerifyTimeout,
// or panics, the connection is closed with 1013 unavailable. Many goroutines call them at
// the same time, for different connections.
type FirstMessage struct {
	// Hello is a text message that the guard sends when a connection opens that must
	// authenticate. It must be UTF-8. The default is empty, and nothing is sent.
	Hello []byte

	// Take is asked about each text message of the client until it returns a token. It must
	// neither change msg nor keep it. It returns an empty token and no error for a message
	// that may precede the credential. reply is a text message for the client, of at most
	// 256 bytes of UTF-8, which is sent before the token is verified. An empty reply is not
	// sent. A reply that is longer, or is not UTF-8, closes the connection with 1013
	// unavailable. Take cannot be nil.
	//
	// An error refuses the connection with 3000 unauthenticated, after reply is sent. The
	// guard drops the text of the error. ErrNoCredential says that the client presents no
	// credential, and counts against nobody. With AuthConfig.InsecureAnonymous it admits the
	// client as anonymous. ErrUnavailable closes the connection with 1013.
	//
	// Take is asked about at most 4 messages of a connection. A fifth closes it with 3000
	// unauthenticated. A binary message closes it with 1003 message_type.
	Take func(msg []byte) (token string, reply []byte, err error)

	// Accepted returns a text message that the guard sends when it has accepted the
	// credential and Attach has returned. The application cannot send one before it. The
	// Principal is the zero Principal if the client is anonymous. The message must be UTF-8,
	// and otherwise the connection is closed with 1013 unavailable. If the message is empty,
	// nothing is sent. The default, nil, sends nothing.
	Accepted func(Principal) []byte
}

const (
	// firstMessages is how many messages of a connection Take is asked about.
	firstMessages = 4

	// maxReply is how many bytes a reply of Take may have.
	maxReply = 256
)

// own returns a copy of f that shares no memory with it.
func (f *FirstMessage) own() *FirstMessage {
	if f == nil {
		return nil
	}
	own := *f
	own.Hello = append([]byte(nil), f.Hello...)
	return &own
}

// check adds the mistakes in f. sources are the sources of the AuthConfig.
func (f *FirstMessage) check(sources TokenSources, faults *faults) {
	if f == nil {
		return
	}
	if !sources.FirstMessage {
		faults.add("Auth.FirstMessage", "", "needs Sources.FirstMessage")
	}
	if f.Take == nil {
		faults.add("Auth.FirstMessage.Take", "", "must not be nil: it finds the credential")
	}
	if !utf8.Valid(f.Hello) {
		faults.add("Auth.FirstMessage.Hello", "", "must be UTF-8: it is a text message")
	}
}

// firstCredential reads messages until one is the credential, and returns its token. The
// error ended is set if the connection has ended. The error refused refuses the message that
// was read last.
func (c *Conn) firstCredential(ctx context.Context) (token string, refused, ended error) {
	protocol := c.first.auth.cfg.FirstMessage
	if protocol == nil {
		msg, err := c.firstMessage(ctx)
		if err != nil {
			return "", nil, err
		}
		token, refused = parseFirstMessage(msg)
		return token, refused, nil
	}
	if err := c.say(protocol.Hello); err != nil {
		return "", nil, err
	}
	for range firstMessages {
		msg, err := c.firstMessage(ctx)
		if err != nil {
			return "", nil, err
		}
		token, reply, refused := c.take(protocol, msg)
		if err := c.say(reply); err != nil {
			return "", nil, err
		}
		switch {
		case c.cause() != nil:
			return "", nil, c.cause()
		case token != "" || refused != nil:
			return token, refused, nil
		}
	}
	if _, err := c.firstMessage(ctx); err != nil {
		return "", nil, err
	}
	return "", deny(reason.Unauthenticated, "too many messages before the credential"), nil
}

// firstMessage reads one message. If it returns an error, that error has ended the connection.
func (c *Conn) firstMessage(ctx context.Context) ([]byte, error) {
	_, msg, err := c.read(ctx)
	if err != nil && c.cause() == nil {
		err = c.end(because(reason.AuthTimeout, "Accept's context ended"))
	}
	return msg, err
}

// say sends a message of the protocol, unless msg is empty. If it returns an error, that error
// has ended the connection.
func (c *Conn) say(msg []byte) error {
	if len(msg) == 0 {
		return nil
	}
	return c.write(context.Background(), MessageText, msg)
}

// take asks Take about a message.
func (c *Conn) take(protocol *FirstMessage, msg []byte) (token string, reply []byte, err error) {
	defer c.bounded("Take takes too long")()
	defer func() {
		if recover() != nil { // the value may quote the credential, so drop it
			token, reply, err = "", nil, deny(reason.Unavailable, "Take panicked")
		}
	}()
	token, reply, err = protocol.Take(msg)
	switch {
	case len(reply) > maxReply:
		return "", nil, deny(reason.Unavailable, "Take's reply is too long")
	case !utf8.Valid(reply):
		return "", nil, deny(reason.Unavailable, "Take's reply is not UTF-8")
	case err != nil:
		return "", reply, takeError(err)
	case len(token) > maxToken:
		return "", reply, deny(reason.Unauthenticated, "empty or over-long credential")
	}
	return token, reply, nil
}

// takeError returns the refusal for an error of Take. It drops the text of the error, which
// may hold the credential.
func takeError(err error) error {
	for _, harmless := range []error{ErrExpired, ErrNoCredential} {
		if errors.Is(err, harmless) {
			return harmless
		}
	}
	if errors.Is(err, reason.Unavailable) {
		return deny(reason.Unavailable, "Take cannot decide")
	}
	return deny(reason.Unauthenticated, "first message is not a credential")
}

// accepted asks Accepted for the message that follows Attach.
func (c *Conn) accepted(p Principal) (msg []byte, err error) {
	protocol := c.first.auth.cfg.FirstMessage
	if protocol == nil || protocol.Accepted == nil {
		return nil, nil
	}
	defer c.bounded("Accepted takes too long")()
	defer func() {
		if recover() != nil {
			msg, err = nil, deny(reason.Unavailable, "Accepted panicked")
		}
	}()
	if msg = protocol.Accepted(p.clone()); !utf8.Valid(msg) {
		return nil, deny(reason.Unavailable, "Accepted's message is not UTF-8")
	}
	return msg, nil
}

// bounded ends the connection if the function that it returns is not called within
// VerifyTimeout. So a hook on the goroutine that authenticates is bounded even if it never
// returns.
func (c *Conn) bounded(detail string) (stop func()) {
	late := time.AfterFunc(c.first.auth.cfg.VerifyTimeout, func() {
		defer c.survive()
		c.end(because(reason.Unavailable, detail))
	})
	return func() { late.Stop() }
}

// GraphQLWS returns the first messages of graphql-transport-ws, the protocol of the npm package
// graphql-ws. The token is the value of a member of the payload of connection_init, such as
// {"type":"connection_init","payload":{"Authorization":"Bearer TOKEN"}}. The name of the
// member is param, or Authorization if param is empty. The value is the token, with or without
// "Bearer " in front.
//
// The guard answers connection_init with connection_ack when it has accepted the token. It
// answers a ping that comes before connection_init with a pong. A connection_init without the
// member, or with null in it, presents no credential. Any other message refuses the connection.
// Messages must be strict JSON.
//
// List graphql-transport-ws in Config.Subprotocols, and use reason.GraphQL for
// Config.CloseCodes. The application gets the messages that follow connection_init.
func GraphQLWS(param string) *FirstMessage {
	if param == "" {
		param = "Authorization"
	}
	return &FirstMessage{
		Take:     func(msg []byte) (string, []byte, error) { return takeGraphQL(param, msg) },
		Accepted: func(Principal) []byte { return []byte(`{"type":"connection_ack"}`) },
	}
}

func takeGraphQL(param string, msg []byte) (token string, reply []byte, err error) {
	if jsonschema.Scan(msg, nil) != nil {
		return "", nil, ErrUnauthenticated
	}
	// encoding/json matches the names of a struct in any letter case, and those of a map exactly.
	var m, payload map[string]json.RawMessage
	var typ string
	if json.Unmarshal(msg, &m) != nil || json.Unmarshal(m["type"], &typ) != nil ||
		m["payload"] != nil && json.Unmarshal(m["payload"], &payload) != nil {
		return "", nil, ErrUnauthenticated
	}
	switch typ {
	case "ping":
		return "", []byte(`{"type":"pong"}`), nil
	case "connection_init":
	default:
		return "", nil, ErrUnauthenticated
	}
	value := payload[param]
	if value == nil || string(value) == "null" {
		return "", nil, ErrNoCredential
	}
	if json.Unmarshal(value, &token) != nil {
		return "", nil, ErrUnauthenticated
	}
	if hasPrefixFold(token, "Bearer ") {
		token = strings.TrimLeft(token[len("Bearer "):], " ")
	}
	if token == "" || strings.EqualFold(token, "Bearer") {
		return "", nil, ErrUnauthenticated
	}
	return token, nil, nil
}

// maxKept is how many bytes of headers an anonymous connection keeps for Attach.
const maxKept = 16 << 10

// kept returns the copy of the handshake's request that a connection keeps for Attach. It is
// nil if Attach cannot be called again, or if an anonymous client has sent more than maxKept.
func (a *admission) kept() *http.Request {
	if !a.await && headerBytes(a.stripped) > maxKept {
		return nil
	}
	if a.await || a.attach != nil && a.principal.anonymous() && (a.auth.cfg.Verifier != nil || a.auth.tickets != nil) {
		return detached(a.stripped, http.CanonicalHeaderKey(a.auth.cfg.Sources.CustomHeader))
	}
	return nil
}

// headerBytes returns how many bytes the headers and the URL of r have.
func headerBytes(r *http.Request) int {
	n := len(r.RequestURI)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}
