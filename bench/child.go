package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"
)

// Each server is a child process of this program, so that what it costs can be
// told from what the client costs. It prints its address, then a line of JSON
// for each line on its standard input, and goes when that ends.
const (
	childEnv   = "WSGUARD_BENCH_SERVER"  // the server's name; set: be that child
	profileEnv = "WSGUARD_BENCH_PROFILE" // prefix of the files that profiles go to
)

// What a child is asked.
const (
	askNow     = "now"     // what has been used up to now
	askSettled = "settled" // the same, after everything that can be collected has been
)

// stats are a child's answer.
type stats struct {
	CPU        time.Duration // user and system
	Mallocs    uint64
	HeapAlloc  uint64
	HeapInuse  uint64
	StackInuse uint64
	Goroutines int
}

func readStats() stats {
	// The CPU first: reading the rest stops the world.
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return stats{
		CPU:        time.Duration(ru.Utime.Nano() + ru.Stime.Nano()),
		Mallocs:    ms.Mallocs,
		HeapAlloc:  ms.HeapAlloc,
		HeapInuse:  ms.HeapInuse,
		StackInuse: ms.StackInuse,
		Goroutines: runtime.NumGoroutine(),
	}
}

// settle collects twice: what a pool held is dropped by the second collection
// only, and so is half of each stack that has become too large.
func settle() {
	for range 2 {
		time.Sleep(200 * time.Millisecond)
		runtime.GC()
	}
}

// child serves until in ends.
func child(name string, in io.Reader, out io.Writer) error {
	s, ok := findServer(name)
	if !ok {
		return fmt.Errorf("no server %q", name)
	}
	heap := ""
	if prefix := os.Getenv(profileEnv); prefix != "" {
		prefix += "." + strings.Trim(strings.Map(fileRune, name), "-")
		heap = prefix + ".heap.pprof"
		// Every small object is to be seen. It slows those that allocate:
		// with a profile, times are not to be compared.
		runtime.MemProfileRate = 512
		f, err := os.Create(filepath.Clean(prefix + ".cpu.pprof"))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second}
	if s.overTLS {
		cert, err := certificate()
		if err != nil {
			return err
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		srv.Handler = s.handler("https://" + ln.Addr().String())
		go srv.ServeTLS(ln, "", "")
	} else {
		srv.Handler = s.handler("http://" + ln.Addr().String())
		go srv.Serve(ln)
	}

	fmt.Fprintln(out, ln.Addr())
	answers := json.NewEncoder(out)
	questions := bufio.NewScanner(in)
	for questions.Scan() {
		if questions.Text() == askSettled {
			settle()
			if heap != "" {
				if err := writeHeapProfile(heap); err != nil {
					return err
				}
			}
		}
		if err := answers.Encode(readStats()); err != nil {
			return err
		}
	}
	return questions.Err()
}

// writeHeapProfile overwrites what an earlier call has written: the last one
// is of the most connections.
func writeHeapProfile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup("heap").WriteTo(f, 0)
}

// certificate is self-signed. The client does not look at it.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func fileRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}
