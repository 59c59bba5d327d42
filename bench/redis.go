package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard/contrib/wsguardredis"
)

// redisProgram must be on PATH for the part instances.
const redisProgram = "redis-server"

// startRedis starts a Redis on a free port of the loopback. It keeps nothing on disk.
func startRedis() (addr string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(redisProgram, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	}
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close()
	for range 1000 {
		if client.Ping(context.Background()).Err() == nil {
			return addr, stop, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	return "", nil, errors.New(redisProgram + " does not answer")
}

// openStore returns a store on a client of its own, whose round trips are counted.
func openStore(addr, prefix string) (*wsguardredis.Store, *redis.Client, error) {
	client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	client.AddHook(tripHook{})
	// The machine may be busy, and an outage is not measured here.
	s, err := wsguardredis.New(client, wsguardredis.Options{Prefix: prefix, Timeout: time.Minute})
	if err != nil {
		client.Close()
	}
	return s, client, err
}

// tripsKey is the key of a *atomic.Int64 in a context, which counts the round trips to Redis.
type tripsKey struct{}

// tripHook counts the round trips that belong to a context.
type tripHook struct{}

func (tripHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (tripHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		countTrip(ctx)
		return next(ctx, cmd)
	}
}

func (tripHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		countTrip(ctx)
		return next(ctx, cmds)
	}
}

// redisLoad is what a Redis has done since its start, and the memory that it uses.
type redisLoad struct {
	cpu     float64 // microseconds
	in, out float64 // bytes
	memory  float64 // bytes
}

// loadOf asks a Redis for its INFO.
func loadOf(client *redis.Client) (l redisLoad, err error) {
	text, err := client.Info(context.Background(), "everything").Result()
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		switch name {
		case "used_cpu_user", "used_cpu_sys":
			l.cpu += n * 1e6
		case "total_net_input_bytes":
			l.in = n
		case "total_net_output_bytes":
			l.out = n
		case "used_memory":
			l.memory = n
		}
	}
	return l, nil
}

// less returns what l has more than before, for each of n.
func (l redisLoad) less(before redisLoad, n int) redisLoad {
	per := func(after, before float64) float64 { return (after - before) / float64(n) }
	return redisLoad{per(l.cpu, before.cpu), per(l.in, before.in), per(l.out, before.out), per(l.memory, before.memory)}
}
