package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// demonstration shows that the instances are one chat.
type demonstration struct {
	ctx       context.Context
	out       io.Writer
	instances []*process
	operator  *person

	alice, bob, carol *person
	sockets           []*socket // alice's, and then carol's
}

// demonstrate runs the steps in their order. Each of them may rely on those before it.
func demonstrate(ctx context.Context, instances []*process, key string, out io.Writer) error {
	operator, err := newPerson(ctx, instances[0], "operator", key)
	if err != nil {
		return err
	}
	d := &demonstration{ctx: ctx, out: out, instances: instances, operator: operator}
	for _, step := range []func() error{d.login, d.messages, d.cap, d.ban, d.revoke, d.kill, d.lease} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// ok tells what was shown.
func (d *demonstration) ok(format string, args ...any) {
	fmt.Fprintf(d.out, "✓ "+format+"\n", args...)
}

// login shows that a login on one instance counts on all.
func (d *demonstration) login() (err error) {
	if d.alice, err = newPerson(d.ctx, d.instances[0], "alice", ""); err != nil {
		return err
	}
	for _, at := range d.instances {
		status, answer, err := d.alice.do(d.ctx, "GET", at, "/session", "")
		if err != nil {
			return err
		}
		if status != http.StatusOK || answer != `{"name":"alice"}` {
			return fmt.Errorf("alice has no login at %s: %d %s", at.url, status, answer)
		}
	}
	if d.bob, err = newPerson(d.ctx, d.instances[1], "bob", ""); err != nil {
		return err
	}
	d.carol, err = newPerson(d.ctx, d.instances[2], "carol", "")
	d.ok("alice logs in at instance 1, and is logged in at all")
	return err
}

const room, saidByEach = "tea", 8

// messages shows that all members of a room get each message once and in the same order.
func (d *demonstration) messages() error {
	var members []*socket
	for i, p := range []*person{d.alice, d.bob, d.carol} {
		s, err := p.connect(d.ctx, d.instances[i])
		if err != nil {
			return err
		}
		defer s.ws.Close(websocket.StatusNormalClosure, "")
		if _, err := s.join(d.ctx, room); err != nil {
			return err
		}
		members = append(members, s)
	}
	if _, err := members[0].until(d.ctx, func(m message) bool { return m.Type == "here" && m.Name == "carol" }); err != nil {
		return err
	}
	d.ok("alice, bob and carol see each other in a room, each of them at another instance")
	for n := range saidByEach {
		for i, s := range members {
			if err := s.say(d.ctx, room, fmt.Sprintf("%d-from-%d", n+1, i+1)); err != nil {
				return err
			}
		}
	}
	var orders [][]string
	for _, s := range members {
		var got []string
		_, err := s.until(d.ctx, func(m message) bool {
			if m.Type == "said" {
				got = append(got, m.Text)
			}
			return len(got) == saidByEach*len(members)
		})
		if err != nil {
			return err
		}
		orders = append(orders, got)
	}
	for _, got := range orders {
		if !slices.Equal(got, orders[0]) {
			return fmt.Errorf("the instances tell of different orders: %q and %q", orders[0], got)
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(got))); len(unique) != len(got) {
			return fmt.Errorf("a message came twice: %q", got)
		}
	}
	d.ok("a client at each instance says %d messages, and each of them gets all %d once and in the same order", saidByEach, len(orders[0]))
	return nil
}

// refusedAt wants each of the instances to refuse a connection of p.
func (d *demonstration) refusedAt(p *person, instances []*process, want string) error {
	for _, at := range instances {
		s, refused, err := p.try(d.ctx, at)
		if err != nil {
			return err
		}
		if s != nil {
			s.ws.CloseNow()
		}
		if !strings.HasPrefix(refused, want[:3]) || !strings.HasSuffix(refused, want[4:]) {
			return fmt.Errorf("%s refuses %s with %q, and not with %q", at.url, p.name, refused, want)
		}
	}
	return nil
}

// fill opens connections of p until there are as many as a user may have, spread over the instances.
func (d *demonstration) fill(p *person) error {
	for len(d.sockets) < maxOfUser {
		s, err := p.connect(d.ctx, d.instances[len(d.sockets)%len(d.instances)])
		if err != nil {
			return err
		}
		d.sockets = append(d.sockets, s)
	}
	return nil
}

// cap shows that the connections of a user are counted on all instances together.
func (d *demonstration) cap() error {
	// Alice has closed a connection, whose slot may be free a moment later.
	if err := d.eventually(func() error { return d.fill(d.alice) }); err != nil {
		return err
	}
	if err := d.refusedAt(d.alice, d.instances, tooMany); err != nil {
		return err
	}
	d.ok("alice has %d connections, spread over the instances, and each instance refuses the next one with %s", len(d.sockets), tooMany)
	return nil
}

const tooMany = "429 max_subject_conns"

// ban shows that a ban on one instance counts on all. Then it lifts the ban, on another instance.
func (d *demonstration) ban() error {
	list, err := d.operator.operate(d.ctx, d.instances[0], "GET", "sessions?subject=alice", "")
	if err != nil {
		return err
	}
	var answer struct{ Sessions []struct{ Client string } }
	if err := json.Unmarshal([]byte(list), &answer); err != nil || len(answer.Sessions) == 0 {
		return errors.Join(fmt.Errorf("no session of alice: %s", list), err)
	}
	client, start := answer.Sessions[0].Client, time.Now()
	banned, err := json.Marshal(map[string]any{"client": client, "seconds": 60, "why": "to show it"})
	if err != nil {
		return err
	}
	if _, err := d.operator.operate(d.ctx, d.instances[1], "POST", "ban", string(banned)); err != nil {
		return err
	}
	others := []*process{d.instances[0], d.instances[2]}
	if err := d.eventually(func() error { return d.refusedAt(d.bob, others, "429 banned") }); err != nil {
		return err
	}
	d.ok("instance 2 bans %s, and %v later the others refuse it with 429 banned", client, since(start))
	lifted, err := json.Marshal(map[string]string{"client": client})
	if err != nil {
		return err
	}
	if _, err := d.operator.operate(d.ctx, d.instances[2], "POST", "lift", string(lifted)); err != nil {
		return err
	}
	return d.eventually(func() error {
		for _, at := range d.instances {
			s, err := d.bob.connect(d.ctx, at)
			if err != nil {
				return err
			}
			s.ws.CloseNow()
		}
		return nil
	})
}

// revoke shows that a revocation on one instance ends the connections on all, and that none of them
// lets alice in again.
func (d *demonstration) revoke() error {
	var tickets []string
	for _, at := range d.instances {
		ticket, refused, err := d.alice.ticket(d.ctx, at)
		if err != nil || refused != "" {
			return fmt.Errorf("no ticket: %s %w", refused, err)
		}
		tickets = append(tickets, ticket)
	}
	start := time.Now()
	if _, err := d.operator.operate(d.ctx, d.instances[1], "POST", "revoke", `{"subject":"alice"}`); err != nil {
		return err
	}
	for _, s := range d.sockets {
		if end, err := s.closed(d.ctx); err != nil || end != "3000 revoked" {
			return fmt.Errorf("a connection of alice at %s ends with %q: %w", s.at.url, end, err)
		}
	}
	took := since(start)
	for i, at := range d.instances {
		s, refused, err := d.alice.dial(d.ctx, at, tickets[i])
		if err != nil {
			return err
		}
		if s != nil || !strings.HasPrefix(refused, "401 ") {
			return fmt.Errorf("%s answers a ticket from before the revocation with %q", at.url, refused)
		}
		if _, refused, err = d.alice.ticket(d.ctx, at); err != nil || !strings.HasPrefix(refused, "401 ") {
			return fmt.Errorf("%s sells a ticket after the revocation: %q %w", at.url, refused, err)
		}
	}
	d.ok("instance 2 revokes alice, and %v later all her connections are closed with 3000 revoked; each instance refuses her with 401", took)
	return nil
}

// kill shows that the clients of a killed instance go on at another one, and miss nothing.
func (d *demonstration) kill() error {
	last := d.instances[2]
	before, err := d.bob.connect(d.ctx, last)
	if err != nil {
		return err
	}
	if _, err := before.join(d.ctx, room); err != nil {
		return err
	}
	d.sockets = nil
	if err := d.fill(d.carol); err != nil {
		return err
	}
	last.kill()
	if _, err := before.closed(d.ctx); err != nil {
		return err
	}
	if _, err := d.sockets[0].join(d.ctx, room); err != nil {
		return err
	}
	if err := d.sockets[0].say(d.ctx, room, "meanwhile"); err != nil {
		return err
	}
	d.instances = d.instances[:2]
	after, err := d.bob.connect(d.ctx, d.instances[1])
	if err != nil {
		return err
	}
	defer after.ws.CloseNow()
	joined, err := after.join(d.ctx, room)
	if err != nil {
		return err
	}
	if n := len(joined.History); n == 0 || joined.History[n-1].Text != "meanwhile" {
		if _, err := after.until(d.ctx, func(m message) bool { return m.Type == "said" && m.Text == "meanwhile" }); err != nil {
			return err
		}
	}
	d.ok("instance 3 is killed; bob comes back at instance 2, and has what was said meanwhile")
	return nil
}

// lease shows that the slots of the killed instance are free when their leases have ended.
func (d *demonstration) lease() error {
	if err := d.refusedAt(d.carol, d.instances, tooMany); err != nil {
		return err
	}
	lost := 0
	for _, s := range d.sockets {
		if !slices.Contains(d.instances, s.at) {
			lost++
		}
	}
	d.ok("carol has lost %d of %d connections with instance 3, and for the lease of 30s at most they still count", lost, len(d.sockets))
	start := time.Now()
	for opened := 0; opened < lost; {
		s, refused, err := d.carol.try(d.ctx, d.instances[0])
		switch {
		case err != nil:
			return err
		case s != nil:
			defer s.ws.CloseNow()
			opened++
			continue
		case !strings.HasSuffix(refused, tooMany[4:]) || time.Since(start) > 40*time.Second:
			return fmt.Errorf("carol is refused: %s", refused)
		}
		select {
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(3 * time.Second): // a user may not have many unused tickets
		}
	}
	if err := d.refusedAt(d.carol, d.instances, tooMany); err != nil {
		return err
	}
	d.ok("%v later she has them again, at instance 1", since(start))
	return nil
}

// eventually repeats f until it returns no error. What one instance decides reaches the others
// within milliseconds.
func (d *demonstration) eventually(f func() error) error {
	for end := time.Now().Add(stepTimeout / 2); ; {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func since(start time.Time) time.Duration { return time.Since(start).Round(time.Millisecond) }
