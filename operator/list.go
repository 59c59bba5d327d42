package operator

import (
	"slices"
	"time"

	"github.com/wsguard/wsguard/audit"
)

// session is an audit.Session in an answer.
type session struct {
	ID          string     `json:"id"`
	Subject     string     `json:"subject,omitempty"`
	SessionID   string     `json:"session_id,omitempty"`
	Scopes      []string   `json:"scopes,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"`
	Client      string     `json:"client"`
	ClientName  string     `json:"client_name,omitempty"`
	Origin      string     `json:"origin,omitempty"`
	Subprotocol string     `json:"subprotocol,omitempty"`
	Since       time.Time  `json:"since"`
	LastMessage time.Time  `json:"last_message"`
	counts
}

// counts is an audit.Stats in an answer.
type counts struct {
	MessagesIn              uint64 `json:"messages_in"`
	MessagesOut             uint64 `json:"messages_out"`
	BytesIn                 uint64 `json:"bytes_in"`
	BytesOut                uint64 `json:"bytes_out"`
	Violations              uint64 `json:"violations"`
	ViolationsWithoutNotice uint64 `json:"violations_without_notice"`
	Dropped                 uint64 `json:"dropped"`
}

func (h *handler) sessions(q query) (any, *failure) {
	subject := q.take("subject")
	client, f := q.client()
	if f != nil {
		return nil, f
	}
	matching := func(yield func(audit.Session) bool) {
		for s := range h.g.Admin().Sessions() {
			if (subject == "" || s.Subject == subject) && client(s.Client, s.ClientName) && !yield(s) {
				return
			}
		}
	}
	var p page[audit.Session]
	if f := p.read(q, matching, func(s audit.Session) position { return position{s.Since.UnixNano(), s.ID} }); f != nil {
		return nil, f
	}
	answer := struct {
		Sessions []session `json:"sessions"`
		Next     string    `json:"next,omitempty"`
	}{make([]session, 0, len(p.entries)), p.next}
	for _, s := range p.entries {
		answer.Sessions = append(answer.Sessions, h.session(s))
	}
	return answer, nil
}

func (h *handler) session(s audit.Session) session {
	v := session{
		ID: s.ID, Subject: s.Subject, Scopes: s.Scopes, Expires: when(s.Expires), Client: s.Client.String(), ClientName: s.ClientName,
		Origin: s.Origin, Subprotocol: s.Subprotocol, Since: s.Since.UTC(), LastMessage: s.LastMessage.UTC(), counts: counts(s.Stats),
	}
	if h.cfg.SessionIDs {
		v.SessionID = s.SessionID
	}
	return v
}

// ban is an audit.Ban in an answer.
type ban struct {
	Client  string    `json:"client"`
	Until   time.Time `json:"until"`
	Strikes int       `json:"strikes"`
	Reason  string    `json:"reason"`
}

func (h *handler) bans(q query) (any, *failure) {
	var p page[audit.Ban]
	all := slices.Values(h.g.Admin().Bans())
	if f := p.read(q, all, func(b audit.Ban) position { return position{b.Until.UnixNano(), b.Client} }); f != nil {
		return nil, f
	}
	answer := struct {
		Bans []ban  `json:"bans"`
		Next string `json:"next,omitempty"`
	}{make([]ban, 0, len(p.entries)), p.next}
	for _, b := range p.entries {
		answer.Bans = append(answer.Bans, ban{b.Client, b.Until.UTC(), b.Strikes, b.Reason})
	}
	return answer, nil
}

// refusal is an event of a refusal in an answer.
type refusal struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Reason    string    `json:"reason"`
	Detail    string    `json:"detail,omitempty"`
	Action    string    `json:"action,omitempty"`
	Report    bool      `json:"report_only,omitempty"`
	Status    int       `json:"status,omitempty"`
	Code      int       `json:"code,omitempty"`
	ConnID    string    `json:"id,omitempty"`
	Subject   string    `json:"subject,omitempty"`
	Client    string    `json:"client,omitempty"`
	Origin    string    `json:"origin,omitempty"`
	Host      string    `json:"host,omitempty"`
	Endpoint  string    `json:"endpoint,omitempty"`
	Path      string    `json:"path,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
}

func (h *handler) refusals(q query) (any, *failure) {
	limit, f := q.limit()
	if f != nil {
		return nil, f
	}
	reason := q.take("reason")
	answer := struct {
		Refusals []refusal `json:"refusals"`
	}{[]refusal{}}
	for _, e := range h.g.Admin().Activity().Refusals {
		if reason != "" && e.Reason != reason {
			continue
		}
		if len(answer.Refusals) == limit {
			break
		}
		answer.Refusals = append(answer.Refusals, refusal{
			Time: e.Time.UTC(), Kind: string(e.Kind), Reason: e.Reason, Detail: e.Detail, Action: string(e.Action), Report: e.Report,
			Status: e.Status, Code: int(e.Code), ConnID: e.ConnID, Subject: e.Subject, Client: e.Client, Origin: e.Origin,
			Host: e.Host, Endpoint: e.Endpoint, Path: e.Path, RequestID: e.RequestID,
		})
	}
	return answer, nil
}

// offender is an audit.Offender in an answer.
type offender struct {
	Client string `json:"client"`
	Of     string `json:"of"`
	Reason string `json:"reason,omitempty"`
	Count  uint64 `json:"count"`
}

func (h *handler) offenders(query) (any, *failure) {
	answer := struct {
		Offenders []offender `json:"offenders"`
	}{[]offender{}}
	for _, o := range h.g.Admin().Activity().Offenders {
		answer.Offenders = append(answer.Offenders, offender(o))
	}
	return answer, nil
}

// limit is an audit.Limit in an answer.
type limit struct {
	Name string `json:"name"`
	Of   string `json:"of,omitempty"`
	Max  int64  `json:"max"`
	Used int64  `json:"used"`
}

func limitsOf(all []audit.Limit) []limit {
	list := make([]limit, 0, len(all))
	for _, l := range all {
		list = append(list, limit(l))
	}
	return list
}

func (h *handler) limits(query) (any, *failure) {
	s := h.g.Stats()
	return struct {
		Limits  []limit          `json:"limits"`
		Fullest []limit          `json:"fullest"`
		Tables  map[string]table `json:"tables"`
	}{limitsOf(s.Limits), limitsOf(h.g.Admin().Activity().Fullest), tablesOf(s.Tables)}, nil
}
