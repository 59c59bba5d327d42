package proxies

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/client/js"
	"github.com/wsguard/wsguard/store"
)

// instanceEnv makes the test's program an instance of the service. Its value is an instance as
// JSON.
const instanceEnv = "WSGUARD_PROXIES_INSTANCE"

// TestMain runs the tests, or an instance. Instances are processes of their own, because
// only a process can be killed.
func TestMain(m *testing.M) {
	if text := os.Getenv(instanceEnv); text != "" {
		var in instance
		err := json.Unmarshal([]byte(text), &in)
		if err == nil {
			err = in.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

//go:embed testdata/roll.js
var rollPage []byte

// instance is one of the two servers behind nginx.
type instance struct {
	Addr     string
	Database string // the address of the database
	Origin   string // of the pages
	Wrap     bool   // the second door
}

// drainTime is what an instance has for its drain. Connections are closed over the first half.
const drainTime = 6 * time.Second

// run serves until SIGTERM, and then drains.
func (in instance) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	db := database{url: "http://" + in.Database}
	page, err := url.Parse(in.Origin)
	if err != nil {
		return err
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{in.Origin},
		Hosts:   []string{page.Host},
		Proxies: wsguard.Proxies{Trusted: []string{"127.0.0.1"}},
		Auth:    wsguard.AuthConfig{Tickets: &wsguard.TicketConfig{Store: db, MaxPerSubject: 100}},
		// All clients of the test are one person at one address.
		Caps:   wsguard.CapConfig{MaxConnsPerSubject: 100},
		Rates:  wsguard.RateConfig{SubjectMessages: wsguard.Rate{PerSecond: wsguard.Off}, ClientMessages: wsguard.Rate{PerSecond: wsguard.Off}},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", in.Addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: in.handler(guard, db), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	fmt.Println("listening")
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return errors.Join(guard.Shutdown(ctx), srv.Shutdown(ctx))
}

func (in instance) handler(guard *wsguard.Guard, db database) http.Handler {
	const cookie = "__Host-session"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: cookie, Value: rand.Text(), Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
		w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src data:")
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, `<!doctype html><title>roll</title><link rel="icon" href="data:,"><script type="module" src="/roll.js"></script>`)
	})
	mux.HandleFunc("GET /roll.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
		w.Write(rollPage)
	})
	mux.Handle("GET /wsguard.js", js.Handler())
	mux.Handle("POST /ticket", guard.TicketHandler(func(r *http.Request) (wsguard.Principal, error) {
		c, err := r.Cookie(cookie)
		if err != nil {
			return wsguard.Principal{}, wsguard.ErrNoCredential
		}
		return wsguard.Principal{Subject: c.Value}, nil
	}))
	mux.Handle("GET /ws", guard.Handler(func(ctx context.Context, c *wsguard.Conn) error {
		return db.take(ctx, c)
	}))
	if in.Wrap {
		return wrapped{mux, guard.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				return
			}
			defer c.CloseNow()
			db.take(context.Background(), c)
		}))}
	}
	return mux
}

// wrapped is a handler whose /ws is another one.
type wrapped struct{ rest, ws http.Handler }

func (h wrapped) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/ws" {
		h.ws.ServeHTTP(w, r)
		return
	}
	h.rest.ServeHTTP(w, r)
}

// messages are a connection behind either door.
type messages interface {
	Read(context.Context) (websocket.MessageType, []byte, error)
	Write(context.Context, websocket.MessageType, []byte) error
}

// database is the client of the application's database.
type database struct{ url string }

// take stores each message, and acknowledges it then.
func (db database) take(ctx context.Context, c messages) error {
	for {
		_, msg, err := c.Read(ctx)
		if err != nil {
			return err
		}
		var m struct{ ID string }
		if err := json.Unmarshal(msg, &m); err != nil {
			return err
		}
		// A message that has arrived is stored, also if the connection ends meanwhile.
		if _, err := db.post(context.WithoutCancel(ctx), "/message", m.ID, nil); err != nil {
			return err
		}
		ack, err := json.Marshal(map[string]string{"ack": m.ID})
		if err != nil {
			return err
		}
		if err := c.Write(ctx, websocket.MessageText, ack); err != nil {
			return err
		}
	}
}

var _ store.Once = database{}

// Put implements [store.Once].
func (db database) Put(ctx context.Context, key string, value []byte, _ time.Duration) error {
	_, err := db.post(ctx, "/put", key, value)
	return err
}

// Take implements [store.Once].
func (db database) Take(ctx context.Context, key string) ([]byte, bool, error) {
	value, err := db.post(ctx, "/take", key, nil)
	return value, len(value) > 0, err
}

func (db database) post(ctx context.Context, path, key string, value []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, db.url+path+"?"+url.Values{"key": {key}}.Encode(), bytes.NewReader(value))
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the database: %s", res.Status)
	}
	return io.ReadAll(res.Body)
}

// process is an instance that runs.
type process struct {
	cmd *exec.Cmd
	out *output
}

// start starts the instance and waits until it listens. The end of the test kills it.
func (in instance) start(t *testing.T) *process {
	t.Helper()
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return startProcess(t, "listening", []string{instanceEnv + "=" + string(text)}, os.Args[0])
}

// startProcess starts a program and waits until it writes a line to its standard output that
// begins with ready.
func startProcess(t *testing.T, ready string, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{exec.Command(program, args...), &output{}}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.out
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %v says:\n%.20000s", program, args, p.out)
		}
	})
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), ready) {
			go io.Copy(io.Discard, stdout)
			return p
		}
	}
	t.Fatalf("%s does not start:\n%s", program, p.out)
	return nil
}

// kill kills the process, as the kernel does when memory runs out.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// drain asks the process to end, and waits until it has.
func (p *process) drain(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the drain: %v\n%.2000s", err, p.out)
	}
}
