package wsguard

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/internal/penalty"
	"github.com/wsguard/wsguard/reason"
)

// The keys of marks. What follows is a subject, a Principal.SessionID, the ID of a connection, the
// hash of a credential, or the name of a client. All other keys of bans are prefixes.
const (
	subjectMark = "subject/"
	loginMark   = "login/"
	kickMark    = "kick/"
	replaceMark = "replace/"
	seenMark    = "seen/"
	nameMark    = "name/"
)

// kickFor is how long the mark of a kick lasts, and how long a mark outlives the issue time that
// a credential has.
const kickFor = time.Minute

// startMarks starts to follow the bans and the revocations.
func (sh *shared) startMarks(s *State) {
	sh.state = s
	if m := sh.cfg.Revocations; m != nil {
		sh.revocations = newFeed(sh, "revocations", m)
		sh.revocations.lasts = func(key string) bool {
			return !slices.ContainsFunc([]string{kickMark, replaceMark, seenMark}, func(p string) bool { return strings.HasPrefix(key, p) })
		}
		sh.revocations.apply = sh.applyRevocation
		sh.feeds = append(sh.feeds, sh.revocations)
	}
	if m := sh.cfg.Bans; m != nil {
		sh.bans = newFeed(sh, "bans", m)
		sh.bans.apply = sh.applyBan
		sh.feeds = append(sh.feeds, sh.bans)
	}
	for _, f := range sh.feeds {
		f.start()
	}
}

// awaitMarks waits until the first copies are complete, or firstCopyWithin has passed.
func (sh *shared) awaitMarks() {
	if sh == nil {
		return
	}
	over := time.NewTimer(firstCopyWithin)
	defer over.Stop()
	for _, f := range sh.feeds {
		select {
		case <-f.first:
		case <-over.C:
			return
		}
	}
}

// flushMarks waits until the store has all marks of this instance, or marksWithin has passed.
func (sh *shared) flushMarks() {
	over := make(chan struct{})
	timer := time.AfterFunc(marksWithin, func() { close(over) })
	defer timer.Stop()
	for _, f := range sh.feeds {
		f.flush(over)
	}
}

// marksKnown returns an error if the bans and the revocations are not known well enough to judge
// a credential.
func (sh *shared) marksKnown() error {
	if sh == nil {
		return nil
	}
	if f := sh.unknownMarks(); f != nil {
		sh.decided(true)
		return deny(reason.Unavailable, "the "+f.name+" of other instances are not known")
	}
	return nil
}

// unknownMarks returns a feed that is not known well enough to judge a credential, or nil.
func (sh *shared) unknownMarks() *feed {
	for _, f := range sh.feeds {
		if !f.complete.Load() || sh.cfg.MarksFailClosed && f.age() > confirmWithin {
			return f
		}
	}
	return nil
}

// markFigures adds the figures of the feeds to s.
func (sh *shared) markFigures(s *audit.Shared) {
	for _, f := range sh.feeds {
		s.MarksAge = max(s.MarksAge, f.age())
		s.MarksWaiting += f.unsetMarks()
	}
}

// durable waits until marks are durable, for at most durableWithin.
func (sh *shared) durable(marks ...<-chan struct{}) {
	if len(marks) == 0 {
		return
	}
	timer := time.NewTimer(durableWithin)
	defer timer.Stop()
	for _, done := range marks {
		select {
		case <-done:
		case <-timer.C:
			return
		case <-sh.ctx.Done():
			return
		}
	}
}

// mark returns the key of the mark of an identity.
func (id identity) mark() string {
	if id.login {
		return loginMark + id.id
	}
	return subjectMark + id.id
}

// identityOf returns the identity that the key of a mark is about.
func identityOf(key string) (id identity, ok bool) {
	if name, ok := strings.CutPrefix(key, subjectMark); ok {
		return identity{id: name}, true
	}
	name, ok := strings.CutPrefix(key, loginMark)
	return identity{true, name}, ok
}

// issueTime returns the time with which issue times are compared.
func (sh *shared) issueTime() time.Time {
	if sh == nil || sh.revocations == nil {
		return time.Now()
	}
	return sh.revocations.storeNow(time.Now())
}

// revoked tells the other instances about a revocation. until is when it expires; zero means never.
// The caller may wait until the returned channel is closed; see durable.
func (sh *shared) revoked(id identity, operator string, until time.Time) []<-chan struct{} {
	if sh == nil || sh.revocations == nil {
		return nil
	}
	return []<-chan struct{}{sh.revocations.set(id.mark(), markValue{Operator: operator}, time.Now(), until)}
}

// restored tells the other instances that a revocation is undone. at is when it was made. tickets
// is how long the tickets from before can be used.
func (sh *shared) restored(id identity, operator string, at time.Time, tickets time.Duration) {
	if sh == nil || sh.revocations == nil {
		return
	}
	v := markValue{Operator: operator, Undone: true, For: tickets.Milliseconds()}
	if !at.IsZero() {
		v.Revoked = at.UnixMicro()
	}
	now := time.Now()
	sh.durable(sh.revocations.set(id.mark(), v, now, now.Add(max(keepUndone, tickets))))
}

// kick asks the instance that has a connection to end it. It reports whether there are others to ask.
func (sh *shared) kick(id string, code StatusCode, text, operator string) bool {
	if sh == nil || sh.revocations == nil || id == "" {
		return false
	}
	now := time.Now()
	v := markValue{Operator: operator, Code: int(code), Text: strings.ToValidUTF8(text[:min(len(text), 1024)], "")}
	sh.durable(sh.revocations.set(kickMark+id, v, now, now.Add(kickFor)))
	return true
}

// sighted tells the other instances when a credential was first accepted, if its issue time is
// ahead of the clock of the store. They could not tell otherwise whether that was before a
// revocation.
func (sh *shared) sighted(p Principal) {
	if sh == nil || sh.revocations == nil || p.IssuedAt.IsZero() {
		return
	}
	now := time.Now()
	ahead := p.IssuedAt.Sub(sh.revocations.storeNow(now))
	if ahead <= 0 {
		return
	}
	until := now.Add(min(ahead, rememberAccepted) + kickFor)
	if k := sightingOf(p); sh.state.registry.sight(k, p.seen, until) {
		sh.revocations.set(seenMark+hex.EncodeToString(k[:]), markValue{}, p.seen, until)
	}
}

// sighting stands for a credential at all instances.
type sighting [sha256.Size]byte

func sightingOf(p Principal) (k sighting) {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(p.Subject)))
	b = append(b, p.Subject...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(p.SessionID)))
	b = append(b, p.SessionID...)
	return sha256.Sum256(p.IssuedAt.UTC().AppendFormat(b, time.RFC3339Nano))
}

// applyRevocation brings a mark of Revocations into the State. It is called with the feed's mu
// held, and returns what must be done without it. own says that this instance has set the mark,
// and fresh that it is news.
func (sh *shared) applyRevocation(key string, h happened, own, fresh bool) func() {
	f, set := sh.revocations, sh.state.registry
	if id, ok := strings.CutPrefix(key, kickMark); ok {
		return func() { sh.kicked(id, h.value) }
	}
	if subject, ok := strings.CutPrefix(key, replaceMark); ok {
		if own {
			return nil
		}
		return func() { sh.replaced(subject, f.localTime(h.at)) }
	}
	if hash, ok := strings.CutPrefix(key, seenMark); ok {
		var k sighting
		if n, err := hex.Decode(k[:min(len(k), len(hash)/2)], []byte(hash[:min(len(hash), 2*len(k))])); n == len(k) && err == nil && !own {
			set.sight(k, f.localTime(h.at).Add(-f.within()), f.localTime(h.until))
		}
		return nil
	}
	id, ok := identityOf(key)
	if !ok {
		return nil
	}
	now, within := sh.state.accepted.Now(), f.within()
	r := revocation{at: h.at, slack: 2 * within}
	if h.value.Undone {
		r.restored = true
		r.until = f.localTime(h.at).Add(h.value.lasts())
		if h.value.Revoked > 0 {
			r.at = time.UnixMicro(h.value.Revoked)
		}
	} else if !h.until.IsZero() {
		r.until = f.localTime(h.until)
	}
	r.moment, r.surely = earlier(f.localTime(r.at).Add(within), now), earlier(f.localTime(r.at).Add(-within), now)
	if r.restored {
		set.unlearn(id, r)
		return nil
	}
	conns, until := set.learn(id, r, own)
	if !r.until.IsZero() && until.After(r.until.Add(time.Second)) { // a credential that was accepted here is good for longer
		extended := h
		extended.until = f.storeNow(until).Add(time.Second)
		f.again(key, extended)
	}
	return func() { sh.ended(id, conns, h.value.Operator, fresh && !own) }
}

// earlier returns the earlier of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// ended ends the connections that a revocation has voided. tell says that it must be reported even
// if there are none.
func (sh *shared) ended(id identity, conns []*Conn, operator string, tell bool) {
	sh.state.verified.forget(id)
	if g := sh.guard(); g != nil && (tell || len(conns) > 0) {
		g.events.tell(revokedEvent(id, operator, len(conns)), nil)
	}
	for _, c := range conns {
		c.end(because(reason.Revoked, ""))
	}
}

// recheck ends the sessions that a revocation has voided and that are open nevertheless.
func (sh *shared) recheck() {
	for _, c := range sh.state.registry.recheck() {
		c.end(because(reason.Revoked, ""))
	}
}

// replace asks the instance that has the only connection of a subject to end it.
func (sh *shared) replace(subject string) {
	now := time.Now()
	sh.revocations.set(replaceMark+subject, markValue{}, now, now.Add(kickFor))
}

// replaced ends a connection of this instance that one of another instance replaces. at is when
// that one was opened.
func (sh *shared) replaced(subject string, at time.Time) {
	if c := sh.state.slots.oldest(subject, at); c != nil {
		c.end(because(reason.Replaced, ""))
	}
}

// kicked ends a connection of this instance that another one has kicked.
func (sh *shared) kicked(id string, v markValue) {
	sh.mu.Lock()
	guards := append([]*Guard(nil), sh.guards...)
	sh.mu.Unlock()
	for _, g := range guards {
		if c := g.sessions.find(id); c != nil {
			c.kick(StatusCode(v.Code), v.Text, v.Operator)
		}
	}
}

// banMark returns the key of the mark of a ban.
func banMark(prefix netip.Prefix, name string) string {
	if name != "" {
		return nameMark + name
	}
	return prefix.String()
}

// banKey returns the key that a mark is about. ok is false if there is none.
func banKey(mark string) (k penalty.Key, ok bool) {
	if name, ok := strings.CutPrefix(mark, nameMark); ok {
		return penalty.Name(name), name != ""
	}
	p, err := netip.ParsePrefix(mark)
	if k = penalty.Net(p); err != nil || p.Bits() <= 0 {
		return k, false
	}
	return k, k != penalty.Key{}
}

// struck tells the other instances about a ban by violations. decay is how long a strike is
// remembered after the ban.
func (sh *shared) struck(b penalty.Ban, made time.Time, decay time.Duration) {
	if sh == nil || sh.bans == nil {
		return
	}
	v := markValue{Reason: b.Reason, Strikes: b.Strikes, For: b.Until.Sub(made).Milliseconds()}
	remember := min(time.Duration(min(b.Strikes, 64))*min(decay, keepUndone), keepUndone)
	sh.bans.set(banMark(b.Prefix, b.Name), v, made, b.Until.Add(remember))
}

// banned tells the other instances about a ban by hand.
func (sh *shared) banned(keys []penalty.Key, d time.Duration, why, operator string) {
	if sh == nil || sh.bans == nil {
		return
	}
	now := time.Now()
	v := markValue{Operator: operator, Reason: why, ByHand: true, For: max(1, d.Milliseconds())}
	var done []<-chan struct{}
	for _, key := range keys {
		done = append(done, sh.bans.set(banMark(key.Client()), v, now, now.Add(max(v.lasts(), time.Second))))
	}
	sh.durable(done...)
}

// lifted tells the other instances that a client is not banned any more.
func (sh *shared) lifted(keys []penalty.Key, operator string) {
	if sh == nil || sh.bans == nil {
		return
	}
	now := time.Now()
	var done []<-chan struct{}
	for _, key := range keys {
		if mark := banMark(key.Client()); sh.bans.has(mark) {
			done = append(done, sh.bans.set(mark, markValue{Operator: operator, Undone: true}, now, now.Add(keepUndone)))
		}
	}
	sh.durable(done...)
}

// applyBan brings a mark of Bans into the State. It is called with the feed's mu held.
func (sh *shared) applyBan(mark string, h happened, own, _ bool) func() {
	key, ok := banKey(mark)
	now := time.Now()
	switch {
	case !ok:
	case h.value.Undone:
		sh.state.rates.violations.Forget(sh.state.violationsOf(key))
		sh.state.bans.Lift(key, now)
	case !own:
		err := sh.state.bans.Put(key, penalty.Ban{
			Until: sh.bans.localTime(h.at).Add(h.value.lasts()), Strikes: min(max(h.value.Strikes, 0), 64),
			Reason: h.value.Reason, Manual: h.value.ByHand,
		}, now)
		if err != nil {
			return func() { sh.warn("bans_full", "a ban of another instance has no room here: "+err.Error()) }
		}
	}
	return nil
}
