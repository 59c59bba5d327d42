package operator

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/wsguard/wsguard"
)

const (
	maxBody   = 8 << 10                 // bytes
	maxBan    = 10 * 365 * 24 * 60 * 60 // seconds
	maxReason = 123                     // bytes of a close frame's text (RFC 6455 §5.5)
)

// readBody returns the body of a POST.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, *failure) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || kind != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, fail(http.StatusUnsupportedMediaType, "content_type", "the body must be application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fail(http.StatusRequestEntityTooLarge, "body_too_large", "the body may have "+strconv.Itoa(maxBody)+" bytes")
	case err != nil:
		return nil, fail(http.StatusBadRequest, "body", "the body cannot be read")
	case !utf8.Valid(body):
		return nil, fail(http.StatusBadRequest, "body", "the body is not UTF-8")
	}
	return body, nil
}

// decode reads the only value of a body into v.
func decode(body []byte, v any) *failure {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("json: more than one value")
		}
	}
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) && kind.Field != "" {
		return badField(kind.Field, "must not be a "+kind.Value)
	}
	if err != nil {
		return fail(http.StatusBadRequest, "body", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// need returns a failure if a field of a body is empty.
func need(field, value string) *failure {
	if value == "" {
		return badField(field, "must be set")
	}
	return nil
}

func badField(field, what string) *failure {
	return fail(http.StatusBadRequest, "field", strconv.Quote(field)+" "+what)
}

func (h *handler) kick(admin wsguard.Admin, body []byte) *failure {
	var in struct {
		ID   string `json:"id"`
		Code int    `json:"code"`
		Text string `json:"text"`
	}
	if f := decode(body, &in); f != nil {
		return f
	}
	switch code := in.Code; {
	case in.ID == "":
		return need("id", in.ID)
	case code != 0 && code != 1000 && code != 1001 && code != 1008 && (code < 1011 || code > 1013) && (code < 3000 || code > 4999):
		return badField("code", "must be 1000, 1001, 1008, 1011, 1012, 1013, or from 3000 to 4999")
	case len(in.Text) > maxReason:
		return badField("text", "may have "+strconv.Itoa(maxReason)+" bytes")
	}
	if !admin.Kick(in.ID, wsguard.StatusCode(in.Code), in.Text) {
		return fail(http.StatusNotFound, "no_connection", "there is no open connection with this id")
	}
	return nil
}

func (h *handler) ban(admin wsguard.Admin, body []byte) *failure {
	var in struct {
		Client  string `json:"client"`
		Seconds int64  `json:"seconds"`
		Why     string `json:"why"`
	}
	if f := decode(body, &in); f != nil {
		return f
	}
	if f := need("client", in.Client); f != nil {
		return f
	}
	if in.Seconds < 1 || in.Seconds > maxBan {
		return badField("seconds", "must be from 1 to "+strconv.Itoa(maxBan))
	}
	if err := admin.Ban(in.Client, time.Duration(in.Seconds)*time.Second, in.Why); err != nil {
		return fail(http.StatusBadRequest, "ban", strings.TrimPrefix(err.Error(), "wsguard: "))
	}
	return nil
}

func (h *handler) lift(admin wsguard.Admin, body []byte) *failure {
	var in struct {
		Client string `json:"client"`
	}
	if f := decode(body, &in); f != nil {
		return f
	}
	if f := need("client", in.Client); f != nil {
		return f
	}
	if !admin.Lift(in.Client) {
		return fail(http.StatusNotFound, "no_ban", "exactly this client is not banned")
	}
	return nil
}

func (h *handler) revoke(admin wsguard.Admin, body []byte) *failure {
	return subject(admin.Revoke, body)
}

func (h *handler) restore(admin wsguard.Admin, body []byte) *failure {
	return subject(admin.Restore, body)
}

// subject calls act with the subject that the body names.
func subject(act func(subject string), body []byte) *failure {
	var in struct {
		Subject string `json:"subject"`
	}
	if f := decode(body, &in); f != nil {
		return f
	}
	if f := need("subject", in.Subject); f != nil {
		return f
	}
	act(in.Subject)
	return nil
}

func (h *handler) signOut(admin wsguard.Admin, body []byte) *failure {
	var in struct {
		SessionID string `json:"session_id"`
	}
	if f := decode(body, &in); f != nil {
		return f
	}
	if f := need("session_id", in.SessionID); f != nil {
		return f
	}
	admin.SignOut(in.SessionID)
	return nil
}
