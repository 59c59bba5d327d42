package wire

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds the head of a wrapped handler's response.
const maxAnswer = 16 << 10

// Offer has the parts of a request that a wrapped handler's 101 must fit.
type Offer struct {
	Key          string   // Sec-WebSocket-Key of the request
	Subprotocols []string // that were offered on to the handler
	Negotiated   string   // the guard's own choice; the engine adds it where the handler names none
}

// acceptOf is the Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(strings.TrimSpace(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// answer is the head of a wrapped handler's response.
type answer struct {
	status int
	head   []byte // as it may go out
	fault  string // why it may not
}

// cutHead returns the length of a whole response head at the front of b, 0 if there is
// none yet.
func cutHead(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// judgeAnswer judges a whole response head.
func judgeAnswer(head []byte, offer Offer) answer {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodGet})
	if err != nil || resp.StatusCode < 100 || !wellFormed(head) {
		return answer{fault: "not an HTTP response"}
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
	case resp.StatusCode < 200: // the final response is still to come
		return answer{status: resp.StatusCode, head: head}
	default:
		return answer{status: resp.StatusCode, head: closing(head)}
	}
	upgrade := HeaderTokens(resp.Header, "Upgrade")
	named := HeaderTokens(resp.Header, "Sec-Websocket-Protocol")
	switch accept := resp.Header["Sec-Websocket-Accept"]; {
	case !resp.ProtoAtLeast(1, 1):
		return answer{fault: "a 101 of another HTTP version"}
	case len(upgrade) != 1 || !strings.EqualFold(upgrade[0], "websocket"):
		return answer{fault: "a 101 without Upgrade: websocket"}
	case !HasToken(resp.Header, "Connection", "upgrade"):
		return answer{fault: "a 101 without Connection: Upgrade"}
	case len(accept) != 1 || strings.TrimSpace(accept[0]) != acceptOf(offer.Key):
		return answer{fault: "a 101 whose Sec-WebSocket-Accept does not fit"}
	case len(HeaderTokens(resp.Header, "Sec-Websocket-Extensions")) > 0:
		return answer{fault: "a 101 that names an extension"}
	case len(named) > 1 || len(named) == 1 && !slices.Contains(offer.Subprotocols, named[0]):
		return answer{fault: "a 101 that names a subprotocol that was not offered"}
	}
	if len(named) == 0 && offer.Negotiated != "" {
		head = slices.Concat(head[:len(head)-2], []byte("Sec-WebSocket-Protocol: "+offer.Negotiated+"\r\n\r\n"))
	}
	return answer{status: resp.StatusCode, head: head}
}

// wellFormed reports whether the client certainly splits a head into the same lines as the
// engine. A bare CR or LF, or a line that continues another, could hide bytes from the engine.
func wellFormed(head []byte) bool {
	for i, line := range bytes.Split(head[:len(head)-4], []byte("\r\n")) {
		name, _, ok := bytes.Cut(line, []byte(":"))
		if bytes.ContainsAny(line, "\r\n\x00") || i > 0 && (!ok || len(name) == 0 || bytes.ContainsAny(name, " \t")) {
			return false
		}
	}
	return true
}

// closing replaces the Connection header of a response head by "close".
func closing(head []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.SplitAfterSeq(head[:len(head)-2], []byte("\r\n")) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if !bytes.EqualFold(bytes.TrimSpace(name), []byte("Connection")) {
			b.Write(line)
		}
	}
	b.WriteString("Connection: close\r\n\r\n")
	return b.Bytes()
}

// announcementOf returns what middleware is told of a response with this head. It returns nil if
// net/http would not send the same head. That is so for an interim response, and for one whose
// body has no simple framing.
func announcementOf(status int, head []byte, timeout time.Duration) *announcement {
	h := http.Header{}
	for i, line := range strings.Split(string(head[:len(head)-4]), "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if i == 0 {
			continue
		}
		switch key := http.CanonicalHeaderKey(name); key {
		case "Connection", "Upgrade", "Date", "Trailer", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding":
			name = key // net/http looks for them
		}
		h[name] = append(h[name], strings.Trim(value, " \t"))
	}
	length, coding := h["Content-Length"], h["Transfer-Encoding"]
	switch {
	case status == http.StatusSwitchingProtocols:
		withoutBody(h)
	case status < 200, len(length)+len(coding) > 1, len(coding) == 1 && coding[0] != "chunked":
		return nil
	case len(length) == 1:
		if _, err := strconv.ParseUint(length[0], 10, 63); err != nil {
			return nil
		}
	case len(coding) == 0:
		h["Transfer-Encoding"] = []string{"identity"} // net/http then adds no framing
	}
	return &announcement{status: status, header: h, timeout: timeout}
}

// badGateway is the head of the response that replaces a 101 that does not fit.
const badGateway = "HTTP/1.1 502 Bad Gateway\r\n" +
	"Connection: close\r\n" +
	"Cache-Control: no-store\r\n" +
	"Content-Type: text/plain; charset=utf-8\r\n" +
	"X-Content-Type-Options: nosniff\r\n" +
	"Content-Length: 20\r\n\r\n"

const badGatewayBody = "Bad Gateway: handler"
