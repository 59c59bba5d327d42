package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// database is the Redis that the instances share. It keeps nothing on disk.
type database struct {
	url  string
	what string // for people
	stop func()
}

// openDatabase starts the redis-server or valkey-server of this machine on a free port. Without
// either, it starts a miniredis in this process.
func openDatabase(ctx context.Context) (*database, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		program, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		for range 5 { // another program may take the port first
			if db, err := startServer(ctx, program); err != nil || db != nil {
				return db, err
			}
		}
		return nil, fmt.Errorf("%s does not start", program)
	}
	m := miniredis.NewMiniRedis()
	key := rand.Text()
	m.RequireAuth(key)
	if err := m.Start(); err != nil {
		return nil, err
	}
	return &database{redisURL(key, m.Addr()), "miniredis in this process, because there is no redis-server", m.Close}, nil
}

func redisURL(password, addr string) string { return "redis://:" + password + "@" + addr }

// startServer returns nil if the program ends at once.
func startServer(ctx context.Context, program string) (*database, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	dir, err := os.MkdirTemp("", "wsguard-cluster-")
	if err != nil {
		return nil, err
	}
	password := rand.Text()
	cmd := exec.Command(program, "-") // no other user of this machine can see what is read from the standard input
	cmd.Stdin = strings.NewReader(fmt.Sprintf("bind 127.0.0.1\nport %d\nrequirepass %s\nsave \"\"\nappendonly no\ndir \"%s\"\n",
		addr.Port, password, strings.ReplaceAll(dir, `\`, `/`)))
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	db := &database{url: redisURL(password, addr.String()), what: fmt.Sprintf("%s on %v", program, addr)}
	db.stop = func() {
		cmd.Process.Kill()
		<-ended
		os.RemoveAll(dir)
	}
	client, err := connect(db.url)
	if err != nil {
		db.stop()
		return nil, err
	}
	defer client.Close()
	for {
		if client.Ping(ctx).Err() == nil {
			return db, nil
		}
		select {
		case <-ctx.Done():
			db.stop()
			return nil, errors.New("interrupted")
		case <-ended:
			db.stop()
			return nil, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// connect returns a client, which connects when it is used.
func connect(url string) (*redis.Client, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	opts.ContextTimeoutEnabled = true
	return redis.NewClient(opts), nil
}
