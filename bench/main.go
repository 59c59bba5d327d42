// Command bench puts wsguard beside the library that it stands on, beside what
// a careful user writes around that library, and beside other libraries, in one
// run. It prints Markdown tables and what wsguard has to reach.
//
//	go run . [-quick] [-only echo,tls,broadcast,idle,refuse,watched,limits,instances,schema] [-servers wsguard,gorilla] [-sizes 150] [-profile PREFIX]
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	if name := os.Getenv(childEnv); name != "" {
		exit(child(name, os.Stdin, os.Stdout))
	}
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(o, os.Stdout, os.Stderr)
	}
	exit(err)
}

func exit(err error) {
	switch err {
	case nil:
		os.Exit(0)
	case flag.ErrHelp:
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(2)
}

// options say how much is measured.
type options struct {
	sizes     []echoSize
	conns     int
	audiences []int // connections that a message is broadcast to
	arrivals  int   // messages that arrive in a round of a broadcast, about
	rounds    int
	budget    time.Duration // for how long instances spend their budget
	idleConns int
	refusals  int
	only      []string // parts; empty: all
	servers   []string // parts of names; empty: all
	profile   string
}

// A round takes about a second.
var full = options{
	sizes: []echoSize{
		{"150 B", 150, 96000},
		{"4 KB", 4 << 10, 32000},
		{"32 KB", 32 << 10, 6400},
	},
	conns:     32,
	audiences: []int{200, 2000},
	arrivals:  256000,
	rounds:    7,
	budget:    10 * time.Second,
	idleConns: 2000,
	refusals:  2000,
}

// quick is to see that everything works. Its times mean nothing.
var quick = options{
	sizes: []echoSize{
		{"150 B", 150, 6400},
		{"4 KB", 4 << 10, 3200},
		{"32 KB", 32 << 10, 640},
	},
	conns:     8,
	audiences: []int{20, 100},
	arrivals:  6400,
	rounds:    1,
	budget:    time.Second,
	idleConns: 100,
	refusals:  50,
}

func parse(args []string, stderr io.Writer) (options, error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	short := fs.Bool("quick", false, "little of everything, to see that it works")
	rounds := fs.Int("rounds", 0, "rounds of each measurement (default 7)")
	only := fs.String("only", "", "parts to run, of echo,tls,broadcast,idle,refuse,watched,limits,instances,schema (default all)")
	servers := fs.String("servers", "", "servers to run: parts of their names, separated by commas (default all)")
	sizes := fs.String("sizes", "", "message sizes to run, in bytes, of 150,4096,32768 (default all)")
	profile := fs.String("profile", "", "have each server write its CPU and heap profile to files that begin with `PREFIX`")
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	o := full
	if *short {
		o = quick
	}
	if *rounds > 0 {
		o.rounds = *rounds
	}
	o.only, o.servers, o.profile = list(*only), list(*servers), *profile
	if *sizes != "" {
		o.sizes = slices.DeleteFunc(slices.Clone(o.sizes), func(s echoSize) bool {
			return !slices.Contains(list(*sizes), strconv.Itoa(s.bytes))
		})
	}
	return o, nil
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

func (o options) runs(part string) bool { return len(o.only) == 0 || slices.Contains(o.only, part) }

// small returns the sizes that are measured over TLS. Of a larger message the cipher would
// be the greater part.
func (o options) small() []echoSize {
	return slices.DeleteFunc(slices.Clone(o.sizes), func(s echoSize) bool { return s.bytes > 4<<10 })
}

// pick returns the servers that are to be run.
func (o options) pick(all []server) []server {
	if len(o.servers) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(s server) bool {
		return !slices.ContainsFunc(o.servers, func(part string) bool { return strings.Contains(s.name, part) })
	})
}

func run(o options, stdout, stderr io.Writer) (err error) {
	log := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	var echo, secure []echoResult
	var broadcast []broadcastResult
	var idle []idleResult
	var refuse map[string][]refuseRound
	var seen []echoResult
	var stats [2][]time.Duration
	if o.runs("idle") {
		if idle, err = runIdle(o, log); err != nil {
			return err
		}
	}
	if o.runs("echo") {
		if echo, err = runEcho(o, echoServers, o.sizes, log); err != nil {
			return err
		}
	}
	if o.runs("tls") {
		if secure, err = runEcho(o, tlsServers, o.small(), log); err != nil {
			return err
		}
	}
	if o.runs("broadcast") {
		if broadcast, err = runBroadcast(o, log); err != nil {
			return err
		}
	}
	if o.runs("refuse") {
		if refuse, err = runRefuse(o, log); err != nil {
			return err
		}
	}
	if o.runs("watched") {
		if seen, err = runEcho(o, watchedServers, o.small(), log); err != nil {
			return err
		}
		if stats, err = runStats(o, log); err != nil {
			return err
		}
	}
	var limits *limitsResult
	if o.runs("limits") {
		limits = runLimits(o, log)
	}
	var several *instancesResult
	if o.runs("instances") {
		if several, err = runInstances(o, log); err != nil {
			return err
		}
	}
	var schema []schemaResult
	if o.runs("schema") {
		if schema, err = runSchema(o, log); err != nil {
			return err
		}
	}
	printMachine(stdout)
	printEcho(stdout, o, "", echoServers, []baseline{{"gorilla", gorilla}, {"gws", gwsName}}, echo)
	printEcho(stdout, o, " over TLS", tlsServers, []baseline{{"bare", bareTLS}}, secure)
	printBroadcast(stdout, o, broadcast)
	printIdle(stdout, o, idle)
	printRefuse(stdout, o, refuse)
	printEcho(stdout, o, ", watched", watchedServers, []baseline{{"nothing attached", unwatched}}, seen)
	printStats(stdout, o, stats)
	printLimits(stdout, o, limits)
	printInstances(stdout, several)
	printSchema(stdout, o, schema)
	goals(stdout, echo, idle, refuse)
	goalsBroadcast(stdout, broadcast)
	goalsWatched(stdout, seen, refuse, stats)
	goalsLimits(stdout, limits)
	goalsInstances(stdout, several)
	goalsSchema(stdout, schema)
	return nil
}
