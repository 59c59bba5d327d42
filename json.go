package wsguard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
)

// misfit is an error of encoding/json whose text leaves out the quoted parts of the message,
// because the text of a handler's error goes to the log.
type misfit struct {
	into any
	err  error
}

func (e *misfit) Error() string { return fmt.Sprintf("wsguard: the message does not fit a %T", e.into) }
func (e *misfit) Unwrap() error { return e.err }

// ReadJSON reads the next message, and decodes it into a new T with encoding/json. It decodes
// the bytes that the Validator has checked.
//
// If the message does not fit T, ReadJSON returns an error that wraps that of encoding/json, and
// the connection stays open. A message that passes a Schema can still fail to fit T, if the
// Schema admits more than T. Other errors are those of [Conn.Read]. Once the connection has
// ended, the error is a *[CloseError].
func ReadJSON[T any](ctx context.Context, c *Conn) (v T, err error) {
	_, msg, err := c.Read(ctx)
	if err == nil {
		if err = json.Unmarshal(msg, &v); err != nil {
			err = &misfit{v, err}
		}
	}
	return v, err
}

// WriteJSON encodes v with encoding/json and writes it as a text message, as [Conn.Write] does. If
// v cannot be encoded, WriteJSON returns the error of encoding/json, wrapped. It then sends
// nothing, and the connection stays open.
//
// The message is what json.Marshal returns. So <, >, &, U+2028 and U+2029 within strings are
// escaped, and no line end follows the value. Use Write for JSON that is encoded already.
func WriteJSON(ctx context.Context, c *Conn, v any) error {
	return withJSON(v, func(msg []byte) error { return c.Write(ctx, MessageText, msg) })
}

// SendJSON encodes v as [WriteJSON] does and queues it as a text message, as [Conn.Send] does. Use
// [Guard.Prepare] to send one value to many connections, because SendJSON encodes it each time.
func SendJSON(c *Conn, v any) error {
	return withJSON(v, func(msg []byte) error { return c.Send(MessageText, msg) })
}

// jsonBuffer is an Encoder with the memory that it writes to.
type jsonBuffer struct {
	bytes.Buffer
	enc *json.Encoder
}

// maxJSONBuffer is the largest memory that is kept for another value.
const maxJSONBuffer = 64 << 10

var jsonBuffers = sync.Pool{New: func() any {
	b := new(jsonBuffer)
	b.enc = json.NewEncoder(b)
	return b
}}

// withJSON calls send with the encoded v. The bytes are valid until send returns.
func withJSON(v any, send func([]byte) error) error {
	b := jsonBuffers.Get().(*jsonBuffer)
	b.Reset()
	if err := b.enc.Encode(v); err != nil {
		return fmt.Errorf("wsguard: %w", err)
	}
	err := send(bytes.TrimSuffix(b.Bytes(), []byte("\n"))) // an Encoder ends each value with a line end
	if b.Cap() <= maxJSONBuffer {
		jsonBuffers.Put(b)
	}
	return err
}
