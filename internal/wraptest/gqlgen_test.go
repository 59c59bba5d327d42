package wraptest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
)

// graphqlSource is the schema of a server that echoes and counts.
const graphqlSource = `
type Query { echo(text: String!): String! }
type Subscription { pushed(n: Int!, size: Int!): String! }
`

// graphqlExec stands for what gqlgen generates.
func graphqlExec() graphql.ExecutableSchema {
	schema := gqlparser.MustLoadSchema(&ast.Source{Input: graphqlSource})
	field := func(name, value string) *graphql.Response {
		data, err := json.Marshal(map[string]string{name: value})
		if err != nil {
			panic(err)
		}
		return &graphql.Response{Data: data}
	}
	number := func(v any) int {
		n, err := strconv.Atoi(fmt.Sprint(v)) // a json.Number
		if err != nil {
			panic(err)
		}
		return n
	}
	return &graphql.ExecutableSchemaMock{
		SchemaFunc:     func() *ast.Schema { return schema },
		ComplexityFunc: func(context.Context, string, string, int, map[string]any) (int, bool) { return 0, false },
		ExecFunc: func(ctx context.Context) graphql.ResponseHandler {
			op := graphql.GetOperationContext(ctx)
			if op.Operation.Operation == ast.Query {
				return graphql.OneShot(field("echo", op.Variables["text"].(string)))
			}
			i, n, size := 0, number(op.Variables["n"]), number(op.Variables["size"])
			return func(ctx context.Context) *graphql.Response {
				if i == n || ctx.Err() != nil {
					return nil
				}
				i++
				return field("pushed", pushed(i-1, size))
			}
		},
	}
}

// gqlgenEcho serves gqlgen's WebSocket transport with nothing configured but
// what makes it close when the client asks for it.
func gqlgenEcho() (http.Handler, func()) {
	srv := handler.New(graphqlExec())
	srv.AddTransport(transport.Websocket{
		InitFunc: func(ctx context.Context, payload transport.InitPayload) (context.Context, *transport.InitPayload, error) {
			if payload["close"] != nil {
				ctx = transport.AppendCloseReason(transport.WithWebsocketCloseCode(ctx, byeCode), bye)
				return ctx, nil, errors.New("as asked")
			}
			return ctx, nil, nil
		},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addServed(w.Header())
		srv.ServeHTTP(w, r)
	}), noStop
}

type graphqlMessage struct {
	ID      string `json:"id,omitempty"`
	Type    string `json:"type"`
	Payload any    `json:"payload,omitempty"`
}

func (m graphqlMessage) String() string {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func subscribe(id, query string, variables map[string]any) string {
	return graphqlMessage{id, "subscribe", map[string]any{"query": query, "variables": variables}}.String()
}

// graphqlTransportWS is the dialect of GraphQL clients. Each operation runs on
// a goroutine of gqlgen's, so answers may overtake one another.
var graphqlTransportWS = dialect{
	subprotocol: "graphql-transport-ws",
	greet:       graphqlMessage{Type: "connection_init"}.String(),
	say: func(id int, text string) string {
		return subscribe(fmt.Sprintf("say-%d", id), `query ($text: String!) { echo(text: $text) }`, map[string]any{"text": text})
	},
	push: func(n, size int) string { return subscribePushed("push", n, size) },
	both: func(n int) string { return subscribePushed("both", n, 0) },
	shut: graphqlMessage{Type: "connection_init", Payload: map[string]any{"close": true}}.String(),
	heard: func(msg string) (string, bool) {
		var m struct {
			Type    string
			Payload json.RawMessage
		}
		var p struct {
			Data struct{ Echo, Pushed *string }
		}
		if json.Unmarshal([]byte(msg), &m) != nil || m.Type != "next" || json.Unmarshal(m.Payload, &p) != nil {
			return "", false
		}
		switch {
		case p.Data.Echo != nil:
			return *p.Data.Echo, true
		case p.Data.Pushed != nil:
			return *p.Data.Pushed, true
		}
		return "", false
	},
	byeText:   bye,
	unordered: true,
}

func subscribePushed(id string, n, size int) string {
	return subscribe(id, `subscription ($n: Int!, $size: Int!) { pushed(n: $n, size: $size) }`, map[string]any{"n": n, "size": size})
}
