package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"
)

//go:embed schema.graphql
var source string

// executable executes operations of schema.graphql. gqlgen generates a type like this one from
// your schema, with thousands of lines. This one is short so that the example is.
type executable struct {
	schema *ast.Schema
	chat   *chat
}

func newExecutable(c *chat) *executable {
	return &executable{gqlparser.MustLoadSchema(&ast.Source{Name: "schema.graphql", Input: source}), c}
}

// Schema returns the schema.
func (e *executable) Schema() *ast.Schema { return e.schema }

// Complexity leaves the complexity of a field to gqlgen, which counts 1.
func (e *executable) Complexity(context.Context, string, string, int, map[string]any) (int, bool) {
	return 0, false
}

// Exec starts an operation, and returns a function that returns one response at a time.
func (e *executable) Exec(ctx context.Context) graphql.ResponseHandler {
	op := graphql.GetOperationContext(ctx)
	switch op.Operation.Operation {
	case ast.Query:
		return graphql.OneShot(e.resolve(ctx, op, e.schema.Query))
	case ast.Mutation:
		return graphql.OneShot(e.resolve(ctx, op, e.schema.Mutation))
	}
	fields := graphql.CollectFields(op, op.Operation.SelectionSet, []string{e.schema.Subscription.Name})
	if len(fields) != 1 || fields[0].Name != "said" {
		return graphql.OneShot(graphql.ErrorResponse(ctx, "not one subscription"))
	}
	field := fields[0]
	messages := e.chat.listen(ctx)
	return func(ctx context.Context) *graphql.Response {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-messages:
			if !ok {
				transport.AddSubscriptionError(ctx, gqlerror.Errorf("the client is too slow"))
				return nil
			}
			return respond(map[string]any{field.Alias: m.selected(op, field)})
		}
	}
}

// resolve calls the resolvers of a query or a mutation, one after another.
func (e *executable) resolve(ctx context.Context, op *graphql.OperationContext, root *ast.Definition) *graphql.Response {
	data := map[string]any{}
	for _, f := range graphql.CollectFields(op, op.Operation.SelectionSet, []string{root.Name}) {
		args, err := f.ArgumentMap(op.Variables), error(nil)
		switch f.Name {
		case "__typename":
			data[f.Alias] = root.Name
		case "listeners":
			data[f.Alias] = e.chat.listening()
		case "say":
			data[f.Alias] = e.chat.say(ctx, args["text"].(string)).selected(op, f)
		case "kick":
			data[f.Alias], err = e.chat.kick(ctx, args["who"].(string))
		default:
			err = fmt.Errorf("%s is not served", f.Name) // introspection
		}
		if err != nil {
			return graphql.ErrorResponse(ctx, "%v", err)
		}
	}
	return respond(data)
}

// selected returns the fields of m that the operation asks for.
func (m message) selected(op *graphql.OperationContext, field graphql.CollectedField) map[string]any {
	all := map[string]any{"__typename": "Message", "who": m.who, "text": m.text}
	selected := map[string]any{}
	for _, f := range graphql.CollectFields(op, field.Selections, []string{"Message"}) {
		selected[f.Alias] = all[f.Name]
	}
	return selected
}

func respond(data map[string]any) *graphql.Response {
	b, err := json.Marshal(data)
	if err != nil {
		panic(err) // strings and integers: cannot be
	}
	return &graphql.Response{Data: b}
}
