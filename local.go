package wsguard

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/wsguard/wsguard/internal/clientip"
	"github.com/wsguard/wsguard/reason"
)

// localSubject is the Subject of all clients of a Config of LocalConfig. They are programs of
// one user, and have one token.
const localSubject = "local"

// LocalConfig returns a Config for a server that serves programs on its own machine, such as a
// local agent, an MCP server or a development tool. addr is the address of the listener, from
// its method Addr. It must be a TCP address on loopback.
//
// The Config has LoopbackOnly and AllowMissingOrigin. Its Hosts are localhost, 127.0.0.1 and [::1]
// with the port of addr, and addr itself if it is another loopback address. It lists no Origins, so
// no web page may connect. To admit pages, add their origins, and Subprotocols so that they can
// send the token. The application sets all other fields before it calls New.
//
// A client must present the token in tokenFile, in the Authorization header or in a
// subprotocol that begins with "bearer.". Its Principal has the Subject "local". All clients
// share the limits of that subject, such as Caps.MaxConnsPerSubject.
//
// If tokenFile does not exist, LocalConfig creates it with mode 0600 and a new random token of
// 256 bits. Its directory must exist. If tokenFile exists, it must be a regular file of the
// user of this process, and group and others must have no permission. It must have 16 to 512
// characters of a token (RFC 9110), and nothing else but a newline at its end. On Windows, and
// where files have no owner, LocalConfig does not check the owner and the permissions. Use a
// directory there that only the user can read. To change the token, delete the file and start
// the server again.
//
// An error says what to do. It contains no part of the token.
func LocalConfig(addr net.Addr, tokenFile string) (Config, error) {
	hosts, err := localHosts(addr)
	if err != nil {
		return Config{}, fmt.Errorf("wsguard: LocalConfig: %w", err)
	}
	token, err := tokenIn(tokenFile)
	if err != nil {
		return Config{}, fmt.Errorf("wsguard: LocalConfig: the token file %q %w", tokenFile, err)
	}
	return Config{
		LoopbackOnly:       true,
		Hosts:              hosts,
		AllowMissingOrigin: true,
		Auth: AuthConfig{
			Verifier: APIKeys(map[[sha256.Size]byte]Principal{sha256.Sum256([]byte(token)): {Subject: localSubject}}),
			Sources:  TokenSources{Header: true, Subprotocol: "bearer."},
		},
	}, nil
}

// localHosts returns the hosts under which programs on this machine reach a listener.
func localHosts(addr net.Addr) ([]string, error) {
	if addr == nil {
		return nil, errors.New("the address is nil: pass the Addr of the listener")
	}
	text := addr.String()
	if !strings.HasPrefix(addr.Network(), "tcp") {
		return nil, fmt.Errorf("the address %s is of the network %q: only TCP has loopback addresses", text, addr.Network())
	}
	if strings.HasPrefix(text, ":") {
		text = "0.0.0.0" + text // so net.TCPAddr writes an address without an IP
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, fmt.Errorf("the address %s is not an IP address with a port: pass the Addr of the listener", text)
	}
	ip := ap.Addr().Unmap().WithZone("")
	switch {
	case ip.IsUnspecified():
		return nil, fmt.Errorf("a listener on %s takes connections from the whole network: listen on 127.0.0.1:%d", ap.Addr(), ap.Port())
	case !ip.IsLoopback():
		return nil, fmt.Errorf("the address %s is not on loopback, so other machines can reach it: listen on 127.0.0.1:%d", ap.Addr(), ap.Port())
	case ap.Port() == 0:
		return nil, errors.New("the port is 0: listen first, and pass the Addr of the listener, which has the real port")
	}
	var hosts []string
	for _, name := range []string{"localhost", "127.0.0.1", "::1", ip.String()} {
		if host := net.JoinHostPort(name, strconv.Itoa(int(ap.Port()))); !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts, nil
}

// The token file has one token, whose length in bytes is within these bounds.
const (
	minLocalToken = 16
	maxLocalToken = 512
)

// tokenWait is how long tokenIn waits for another process that has created the file and not
// written it yet.
const tokenWait = time.Second

// tokenIn returns the token in a file, and creates the file if it does not exist. The text of
// its errors follows the name of the file.
func tokenIn(name string) (string, error) {
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if err := createToken(name); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	for end := time.Now().Add(tokenWait); ; time.Sleep(10 * time.Millisecond) {
		b, written, err := readToken(name)
		if err != nil {
			return "", err
		}
		// A file without a newline may be incomplete if it is new.
		if bytes.HasSuffix(b, []byte("\n")) || len(b) > maxLocalToken || time.Since(written) > tokenWait || time.Now().After(end) {
			return parseToken(b)
		}
	}
}

// createToken creates a file with a new token. If the name exists, even as a symbolic link to
// nothing, the error wraps fs.ErrExist.
func createToken(name string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot be created: its directory must exist, and this user must be able to write to it: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(name)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot be created: %w", err)
	}
	if exposed(info) != "" {
		return errors.New("cannot be kept from other users, because its file system does not keep the mode 0600: choose a directory on another one")
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	if _, err = f.WriteString(base64.RawURLEncoding.EncodeToString(secret[:]) + "\n"); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot be written: %w", err)
	}
	return nil
}

// readToken returns the content of a token file and when it was written. It judges the file
// that it has opened, so that nobody can exchange the file after a check.
func readToken(name string) (b []byte, written time.Time, err error) {
	named, err := os.Lstat(name)
	if err != nil {
		return nil, written, fmt.Errorf("cannot be read: %w", err)
	}
	switch mode := named.Mode(); {
	case mode&fs.ModeSymlink != 0:
		return nil, written, errors.New("is a symbolic link, which may lead to a file of another user: name the file itself")
	case mode.IsDir():
		return nil, written, errors.New("is a directory: name a file in it")
	case !mode.IsRegular():
		return nil, written, errors.New("is not a regular file: name another one")
	}
	f, err := os.OpenFile(name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, written, fmt.Errorf("cannot be read: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, written, fmt.Errorf("cannot be read: %w", err)
	}
	if !os.SameFile(named, info) {
		return nil, written, errors.New("was replaced by another file just now: start again")
	}
	if why := exposed(info); why != "" {
		return nil, written, errors.New(why)
	}
	if b, err = io.ReadAll(io.LimitReader(f, maxLocalToken+3)); err != nil { // with CRLF, and one byte too many
		return nil, written, fmt.Errorf("cannot be read: %w", err)
	}
	return b, info.ModTime(), nil
}

// parseToken returns the token in the content of a token file.
func parseToken(b []byte) (string, error) {
	const remedy = ": delete the file, and the server creates one with a new token"
	token := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case token == "":
		return "", errors.New("is empty" + remedy)
	case len(token) > maxLocalToken:
		return "", fmt.Errorf("has more than %d bytes, so it is not a token%s", maxLocalToken, remedy)
	case !isToken(token):
		return "", errors.New("has a character that is not allowed in a token, such as a space, a second line or a slash" + remedy)
	case len(token) < minLocalToken:
		return "", fmt.Errorf("has a token of fewer than %d bytes, which can be guessed%s", minLocalToken, remedy)
	}
	return token, nil
}

// newLoopbackRule returns LoopbackOnly of a Config.
func newLoopbackRule(cfg Config, f *faults) bool {
	if cfg.LoopbackOnly && len(cfg.Proxies.Trusted) > 0 {
		f.add("LoopbackOnly", "", "cannot be combined with Proxies.Trusted: every client of a proxy on this machine has a peer on loopback")
	}
	return cfg.LoopbackOnly
}

// checkLoopback refuses a request whose TCP peer is on another machine if LoopbackOnly is set.
// It looks at the peer's own address and at no header.
func (a *admission) checkLoopback() error {
	if !a.loopbackOnly {
		return nil
	}
	switch peer, unix, err := clientip.Peer(a.r.RemoteAddr); {
	case err != nil:
		return denyCause(reason.ClientAddress, err)
	case unix:
		return deny(reason.ClientAddress, "LoopbackOnly is set, and the peer is a unix socket, which has no address")
	case !peer.IsLoopback():
		return deny(reason.ClientAddress, "LoopbackOnly is set, and the peer is not on loopback")
	}
	return nil
}
