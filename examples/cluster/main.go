// Cluster runs three instances of the chat of examples/chat over one Redis. They are one chat: a
// login, a message, a limit, a revocation and a ban of one instance count on all of them.
//
//	cd examples/cluster && go run .
//
// starts them, and go run . -show also shows that they are one. README.md says what to try.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if os.Getenv(redisEnv) != "" {
		if err := instance(); err != nil {
			log.Error("instance", "pid", os.Getpid(), "error", err)
			os.Exit(1)
		}
		return
	}
	addr := flag.String("addr", "localhost:8080", "loopback `address` of the first instance; the others have the next ports, and a port that is taken is replaced by a free one")
	show := flag.Bool("show", false, "show that the instances are one chat, and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *show, os.Stdout, log); err != nil {
		log.Error("cluster", "error", err)
		os.Exit(1)
	}
}

// size is how many instances there are.
const size = 3

// run starts the instances, and ends them when ctx ends or everything was shown.
func run(ctx context.Context, addr string, show bool, stdout io.Writer, log *slog.Logger) (err error) {
	host, first, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.stop()
	key := rand.Text()
	var instances []*process
	defer func() {
		for _, p := range instances {
			p.stop()
		}
		for _, p := range instances {
			err = errors.Join(err, p.wait())
		}
	}()
	for i := range uint64(size) {
		next := "0"
		if port > 0 && port+i < 1<<16 {
			next = strconv.FormatUint(port+i, 10)
		}
		env := []string{addrEnv + "=" + net.JoinHostPort(host, next), redisEnv + "=" + db.url, keyEnv + "=" + key}
		if show {
			env = append(env, levelEnv+"=ERROR") // what is refused is shown
		}
		p, err := startInstance(env, log)
		if err != nil {
			return err
		}
		instances = append(instances, p)
	}
	for i, p := range instances {
		if err := p.ready(); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "instance %d: %s (pid %d)\n", i+1, p.url, p.cmd.Process.Pid)
	}
	fmt.Fprintf(stdout, "operator key: %s\nredis: %s\n", key, db.what)
	if show {
		return demonstrate(ctx, instances, key, stdout)
	}
	<-ctx.Done()
	return nil
}
