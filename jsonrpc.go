package wsguard

import (
	"fmt"

	"github.com/wsguard/wsguard/internal/jsonschema"
	"github.com/wsguard/wsguard/reason"
)

// These are the rules of JSON-RPC messages that are refused whatever the Table says.
var (
	noBatch     = &rule{fault: fmt.Errorf("%w: a JSON-RPC batch", reason.UnknownType)}
	emptyBatch  = &rule{fault: fmt.Errorf("%w: an empty JSON-RPC batch", reason.UnknownType)}
	longBatch   = &rule{fault: fmt.Errorf("%w: a JSON-RPC batch of too many calls", reason.JSONLimit)}
	faultyCalls = faultyCallRules()
	brokenBatch = noKind // a batch that is no JSON, which Validate reports
)

func faultyCallRules() (rules [jsonschema.CallFaults]*rule) {
	for f := range rules {
		rules[f] = &rule{fault: fmt.Errorf("%w: not JSON-RPC 2.0: %s", reason.UnknownType, jsonschema.CallFault(f))}
	}
	return rules
}

// callRule returns the rule of a JSON-RPC message that is no batch.
func (t *table) callRule(msg []byte) *rule {
	var buf [maxInline]byte
	c := jsonschema.ReadCall(msg, buf[:])
	switch c.Kind {
	case jsonschema.NoCall:
		return faultyCalls[c.Fault]
	case jsonschema.Response:
		return t.absent
	}
	return t.named(c.Method)
}

// batchWalk walks the calls of a batch. The walk ends with the first call for which nothing
// can be decided. Its rule has a fault.
type batchWalk struct {
	at    call
	table *table
	msg   []byte
	calls jsonschema.Batch
	done  bool
}

// walk returns a batchWalk in front of the first call of msg.
func (t *table) walk(msg []byte) batchWalk {
	return batchWalk{at: call{index: -1}, table: t, msg: msg, calls: jsonschema.NewBatch(msg)}
}

// next goes to the next call, and returns false if there is none.
func (b *batchWalk) next() bool {
	n := b.at.index + 1
	switch {
	case b.done:
		return false
	case b.calls.Next():
		b.at = call{index: n, from: b.calls.From, to: b.calls.To}
		b.at.rule = b.table.callRule(b.at.of(b.msg))
		if most := b.table.maxBatch; most == 0 || n < most {
			return true
		}
		b.at = wholeMessage(longBatch, b.msg)
	case !b.calls.OK():
		b.at = wholeMessage(brokenBatch, b.msg)
	case n == 0:
		b.at = wholeMessage(emptyBatch, b.msg)
	default:
		return false
	}
	b.done = true
	return true
}
