package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/examples/chat/server"
)

// The environment of an instance. Other users of the machine cannot see it, unlike arguments.
const (
	addrEnv  = "WSGUARD_CLUSTER_ADDR"
	levelEnv = "WSGUARD_CLUSTER_LOG"
	redisEnv = "WSGUARD_CLUSTER_REDIS"
	keyEnv   = "WSGUARD_CLUSTER_KEY"
)

// prefix begins the keys of this service in Redis.
const prefix = "cluster"

// patience is how long a call waits for Redis. The default of 50 ms is for a Redis that has a
// machine, and here three instances, their Redis and perhaps a browser have one together.
const patience = 2 * time.Second

// maxOfUser is how many connections a user may have, on all instances together.
const maxOfUser = 9

// instance serves the chat until it gets a SIGTERM, or until the standard input ends. That is when
// the program that has started it wants it to end, or was killed.
func instance() error {
	var level slog.Level // INFO
	if text := os.Getenv(levelEnv); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return err
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("pid", os.Getpid())
	signal.Ignore(os.Interrupt) // a Ctrl-C is for the program that has started it
	parent := os.Getppid()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	client, err := connect(os.Getenv(redisEnv))
	if err != nil {
		return err
	}
	defer client.Close()
	defer func() {
		if os.Getppid() != parent { // nobody else will end the Redis
			client.ShutdownNoSave(context.Background())
		}
	}()
	shared, err := wsguardredis.New(client, wsguardredis.Options{
		Prefix:  prefix,
		Timeout: patience,
		Logger:  log,
	})
	if err != nil {
		return err
	}
	store := newStore(client, prefix+":chat", log)
	defer store.wait()
	l, err := listen(os.Getenv(addrEnv))
	if err != nil {
		return err
	}
	s, err := server.New(l, server.Options{
		Store: store,
		Key:   os.Getenv(keyEnv),
		Guard: func(cfg *wsguard.Config) {
			cfg.Shared = shared.Shared() // all that instances can share
			cfg.Caps.MaxConnsPerSubject = maxOfUser
		},
		Log: log,
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Println(s.Origin())
	return s.Run(ctx)
}

// listen listens at addr, or on a free port of its host if another program has that port.
func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return nil, splitErr
	}
	if l, again := net.Listen("tcp", net.JoinHostPort(host, "0")); again == nil {
		return l, nil
	}
	return nil, err
}
