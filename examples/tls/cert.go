package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

// files is a certificate in two PEM files. When the files change, the next TLS handshakes use
// the new certificate.
type files struct {
	cert, key string // read-only
	log       *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	changed [2]time.Time     // guarded by mu: when the files of current were changed
	looked  time.Time        // guarded by mu: when get looked at the files last
}

// pause is the shortest time between two looks at the files.
const pause = time.Second

// get is for tls.Config.GetCertificate. If the new files cannot be used, perhaps because only
// one of them has been replaced yet, it keeps the old certificate and tries again later.
func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= pause {
		f.looked = now
		if err := f.reload(); err != nil {
			f.log.Warn("the certificate is not reloaded", "error", err)
		}
	}
	return f.current, nil
}

// load reads the files for the first time.
func (f *files) load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reload()
}

// reload reads the files if they have changed. The caller holds mu.
func (f *files) reload() error {
	var changed [2]time.Time
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		changed[i] = info.ModTime()
	}
	if f.current != nil && changed == f.changed {
		return nil
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return err
	}
	f.current, f.changed = &c, changed
	return nil
}

// selfSigned returns a certificate for localhost that no browser trusts.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	leaf, parseErr := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, errors.Join(err, parseErr)
}
