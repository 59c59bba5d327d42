package wstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
)

// RecordWriter writes records of TLS 1.3 (RFC 8446, section 5.2) with
// TLS_AES_128_GCM_SHA256. crypto/tls itself sends no KeyUpdate before it gets one.
type RecordWriter struct {
	w      io.Writer
	buf    []byte
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// NewRecordWriter continues a connection after seq records of the client. secrets is the
// text that crypto/tls has written to KeyLogWriter.
func NewRecordWriter(w io.Writer, suite uint16, secrets string, seq uint64) (*RecordWriter, error) {
	if suite != tls.TLS_AES_128_GCM_SHA256 {
		return nil, errors.New("another cipher suite")
	}
	for line := range strings.Lines(secrets) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			if err != nil {
				return nil, err
			}
			r := &RecordWriter{w: w}
			if err := r.use(secret); err != nil {
				return nil, err
			}
			r.seq = seq
			return r, nil
		}
	}
	return nil, errors.New("no secret")
}

// use begins a new key.
func (r *RecordWriter) use(secret []byte) error {
	key, err := expand(secret, "key", 16)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	r.iv, err = expand(secret, "iv", 12)
	r.secret, r.seq = secret, 0
	return err
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func expand(secret []byte, label string, length int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(append(append(info, byte(len(label))), label...), 0)
	return hkdf.Expand(sha256.New, secret, string(info), length)
}

const (
	typeHandshake   = 22
	typeApplication = 23
)

// record appends a record to the buffer.
func (r *RecordWriter) record(typ byte, content []byte) {
	nonce := append([]byte(nil), r.iv...)
	for i := range 8 {
		nonce[4+i] ^= byte(r.seq >> (56 - 8*i))
	}
	r.seq++
	inner := append(append([]byte(nil), content...), typ)
	header := []byte{typeApplication, 3, 3}
	header = binary.BigEndian.AppendUint16(header, uint16(len(inner)+r.aead.Overhead()))
	r.buf = r.aead.Seal(append(r.buf, header...), nonce, inner, header)
}

// Application appends a record of data to what Flush writes.
func (r *RecordWriter) Application(data []byte) { r.record(typeApplication, data) }

// KeyUpdate appends a record that asks the peer for a KeyUpdate of its own.
func (r *RecordWriter) KeyUpdate() error {
	const keyUpdate, updateRequested = 24, 1
	r.record(typeHandshake, []byte{keyUpdate, 0, 0, 1, updateRequested})
	next, err := expand(r.secret, "traffic upd", 32)
	if err != nil {
		return err
	}
	return r.use(next)
}

// Flood appends a record of one byte, without which crypto/tls ends the connection, and 15
// KeyUpdates.
func (r *RecordWriter) Flood(b byte) error {
	r.Application([]byte{b})
	for range 15 {
		if err := r.KeyUpdate(); err != nil {
			return err
		}
	}
	return nil
}

// Flush writes the records of the buffer.
func (r *RecordWriter) Flush() error {
	_, err := r.w.Write(r.buf)
	r.buf = r.buf[:0]
	return err
}
