package operator

import (
	"cmp"
	"encoding/base64"
	"iter"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// query has the parameters of a request that nobody has asked for yet.
type query struct{ values url.Values }

func newQuery(r *http.Request) (query, *failure) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, badParameter("", "the query cannot be parsed")
	}
	for name, all := range values {
		if len(all) > 1 {
			return query{}, badParameter(name, "is given twice")
		}
	}
	return query{values}, nil
}

// badParameter returns the failure for a parameter. The names are in quotes, because the client
// has chosen them.
func badParameter(name, what string) *failure {
	if name != "" {
		what = strconv.Quote(name[:min(len(name), 64)]) + " " + what
	}
	return fail(http.StatusBadRequest, "parameter", what)
}

// take returns the value of a parameter, or "".
func (q query) take(name string) string {
	v := q.values.Get(name)
	q.values.Del(name)
	return v
}

// unused returns a failure if there is a parameter that nobody has asked for. It may be a filter
// with a typing error, and the answer would then be about everything.
func (q query) unused() *failure {
	for _, name := range slices.Sorted(maps.Keys(q.values)) {
		return badParameter(name, "is not known here")
	}
	return nil
}

// limit returns how many entries the client wants.
func (q query) limit() (int, *failure) {
	v := q.take("limit")
	if v == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxLimit {
		return 0, badParameter("limit", "must be a number from 1 to "+strconv.Itoa(maxLimit))
	}
	return n, nil
}

// client returns a filter of clients.
func (q query) client() (func(netip.Addr, string) bool, *failure) {
	v := q.take("client")
	if v == "" {
		return func(netip.Addr, string) bool { return true }, nil
	}
	in, err := netip.ParsePrefix(v)
	if addr, single := netip.ParseAddr(v); single == nil {
		in, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	return func(addr netip.Addr, name string) bool {
		return name == v || err == nil && in.Contains(addr.Unmap().WithZone(""))
	}, nil
}

// position is the place of an entry in a list. Entries are ordered by time and then by ID.
type position struct {
	at int64
	id string
}

func (p position) compare(other position) int {
	return cmp.Or(cmp.Compare(p.at, other.at), strings.Compare(p.id, other.id))
}

// page is a part of a list.
type page[T any] struct {
	entries []T
	next    string // the cursor for the next part; empty: there is none
}

// read takes the part of a list that the query asks for. It keeps no more of the list than that.
func (p *page[T]) read(q query, list iter.Seq[T], key func(T) position) *failure {
	limit, f := q.limit()
	if f != nil {
		return f
	}
	after, f := q.cursor()
	if f != nil {
		return f
	}
	type entry struct {
		position
		value T
	}
	var first []entry // in order; one more than the part has
	for v := range list {
		e := entry{key(v), v}
		if after != nil && e.compare(*after) <= 0 {
			continue
		}
		if len(first) > limit {
			if e.compare(first[limit].position) >= 0 {
				continue
			}
			first = first[:limit]
		}
		i, _ := slices.BinarySearchFunc(first, e.position, func(a entry, b position) int { return a.compare(b) })
		first = slices.Insert(first, i, e)
	}
	if len(first) > limit {
		first = first[:limit]
		p.next = first[limit-1].cursor()
	}
	p.entries = make([]T, 0, len(first))
	for _, e := range first {
		p.entries = append(p.entries, e.value)
	}
	return nil
}

// cursor returns the position as a parameter of the next request.
func (p position) cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.at, 10) + " " + p.id))
}

// cursor returns the position after which the part begins, or nil.
func (q query) cursor() (*position, *failure) {
	v := q.take("cursor")
	if v == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(v)
	at, id, ok := strings.Cut(string(b), " ")
	n, bad := strconv.ParseInt(at, 10, 64)
	if err != nil || !ok || bad != nil {
		return nil, badParameter("cursor", "is not a next of an earlier answer")
	}
	return &position{n, id}, nil
}

// when returns a time for an answer. The zero Time is left out.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
