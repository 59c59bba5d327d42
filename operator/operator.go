// Package operator has an http.Handler with which the operators of a server look at a
// [wsguard.Guard] and act on it. It answers in JSON only, also its errors.
//
// # Usage
//
// Mount the handler behind the application's own authentication:
//
//	h, err := operator.New(guard, operator.Config{Authorize: func(r *http.Request) (string, error) {
//		user, ok := login(r) // the application's own
//		if !ok {
//			return "", wsguard.ErrUnauthenticated
//		}
//		if !user.Admin {
//			return "", wsguard.ErrForbidden
//		}
//		return user.Name, nil
//	}})
//	if err != nil {
//		log.Fatal(err)
//	}
//	mux.Handle("/operator/", http.StripPrefix("/operator", h))
//
// # Requests
//
// GET /sessions lists the open connections, GET /bans the bans, GET /stats the figures of
// Guard.Stats, GET /limits the limits and how full they are, GET /offenders the clients that were
// refused most, and and GET /refusals what the guard has refused lately. POST /kick, /ban, /lift,
// /revoke, /restore and /signout call the methods of [wsguard.Admin] with these names.
// docs/operators.md has the parameters and the answers.
//
// # Who may call it
//
// Each request needs Authorize, reading ones included. A request from a page of another origin that
// could act is refused by [http.CrossOriginProtection], so the page of an attacker cannot use the
// cookie of an operator. The answers have no CORS headers, must not be stored, and hold no
// credential.
package operator

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/wsguard/wsguard"
)

// Config configures the handler of [New].
type Config struct {
	// Authorize returns the name of the operator that has sent the request, or an error. The events
	// of what the operator does have the name in Operator. The handler calls Authorize for every
	// request, before it looks at the path and the body, so Authorize decides which operators may
	// read and which may act. It must be set.
	//
	// An error that wraps wsguard.ErrUnauthenticated, wsguard.ErrNoCredential or
	// wsguard.ErrExpired leads to a 401, and one that wraps wsguard.ErrUnavailable to a 503. Any
	// other error, a panic, and an empty name lead to a 403. The client does not see the error.
	Authorize func(*http.Request) (operator string, err error)

	// SessionIDs puts Principal.SessionID into the list of sessions. The default, false, leaves
	// it out, because some applications use a secret, such as the value of a cookie, to name a
	// login. POST /signout takes it in either case.
	SessionIDs bool
}

// New returns the handler for the operators of g. It returns an error if g or cfg.Authorize is
// nil. The handler expects paths such as "/sessions". Use [http.StripPrefix] to mount it at
// another path. Many goroutines may use the handler at the same time.
func New(g *wsguard.Guard, cfg Config) (http.Handler, error) {
	if g == nil {
		return nil, errors.New("operator: the Guard is nil")
	}
	if cfg.Authorize == nil {
		return nil, errors.New("operator: Config.Authorize is nil: it must say who is an operator")
	}
	return &handler{g: g, cfg: cfg, crossOrigin: http.NewCrossOriginProtection()}, nil
}

// handler is the handler of New. It is read-only.
type handler struct {
	g           *wsguard.Guard
	cfg         Config
	crossOrigin *http.CrossOriginProtection
}

// failure is an error that the client gets.
type failure struct {
	status int
	token  string // for programs
	detail string // for people
	allow  string // Allow of a 405
}

// fail returns a failure, or what is in detail if that is a failure.
func fail(status int, token, detail string) *failure {
	return &failure{status: status, token: token, detail: detail}
}

// route is what the handler does for a path.
type route struct {
	get  func(h *handler, q query) (any, *failure)
	post func(h *handler, admin wsguard.Admin, body []byte) *failure
}

// routes has the route of each path.
var routes = map[string]route{
	"/sessions":  {get: (*handler).sessions},
	"/bans":      {get: (*handler).bans},
	"/stats":     {get: (*handler).stats},
	"/limits":    {get: (*handler).limits},
	"/offenders": {get: (*handler).offenders},
	"/refusals":  {get: (*handler).refusals},
	"/kick":      {post: (*handler).kick},
	"/ban":       {post: (*handler).ban},
	"/lift":      {post: (*handler).lift},
	"/revoke":    {post: (*handler).revoke},
	"/restore":   {post: (*handler).restore},
	"/signout":   {post: (*handler).signOut},
}

// ServeHTTP answers a request of an operator.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, f := h.serve(w, r)
	if f == nil {
		write(w, http.StatusOK, answer)
		return
	}
	switch f.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", f.allow)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	write(w, f.status, struct {
		Error  string `json:"error"`
		Detail string `json:"detail,omitempty"`
	}{f.token, f.detail})
}

// serve returns the answer to a request, or why there is none.
func (h *handler) serve(w http.ResponseWriter, r *http.Request) (any, *failure) {
	if err := h.crossOrigin.Check(r); err != nil {
		return nil, fail(http.StatusForbidden, "cross_origin", "a page of another origin has sent the request")
	}
	name, f := h.authorize(r)
	if f != nil {
		return nil, f
	}
	to, known := routes[r.URL.Path]
	switch {
	case !known:
		return nil, fail(http.StatusNotFound, "not_found", "there is no such path")
	case to.get != nil && r.Method != http.MethodGet && r.Method != http.MethodHead:
		return nil, &failure{http.StatusMethodNotAllowed, "method", "use GET", "GET, HEAD"}
	case to.post != nil && r.Method != http.MethodPost:
		return nil, &failure{http.StatusMethodNotAllowed, "method", "use POST", "POST"}
	case to.get != nil:
		q, f := newQuery(r)
		if f != nil {
			return nil, f
		}
		answer, f := to.get(h, q)
		if f == nil {
			f = q.unused()
		}
		return answer, f
	}
	body, f := readBody(w, r)
	if f != nil {
		return nil, f
	}
	return done{true}, to.post(h, h.g.Admin().By(name), body)
}

// done is the answer to an act.
type done struct {
	Done bool `json:"done"`
}

// authorize returns the name of the operator that has sent r.
func (h *handler) authorize(r *http.Request) (name string, f *failure) {
	forbidden := fail(http.StatusForbidden, "forbidden", "")
	defer func() {
		if recover() != nil {
			name, f = "", forbidden
		}
	}()
	name, err := h.cfg.Authorize(r)
	switch {
	case err == nil && name != "":
		return name, nil
	case errors.Is(err, wsguard.ErrUnauthenticated):
		return "", fail(http.StatusUnauthorized, "unauthenticated", "")
	case errors.Is(err, wsguard.ErrUnavailable):
		return "", fail(http.StatusServiceUnavailable, "unavailable", "")
	}
	return "", forbidden
}

// write answers with a value in JSON.
func write(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"internal"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	w.WriteHeader(status)
	w.Write(body)
}
