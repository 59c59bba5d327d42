package wsguardprom

import (
	"slices"

	"github.com/wsguard/wsguard/audit"
	"github.com/wsguard/wsguard/reason"
)

// The functions rate and increase of Prometheus do not see the step from no series to 1. So these
// maps have a 0 for each series that a peer, an operator or a fault can bring about.
var (
	refusals = refusalZeros()
	closings = closingZeros()
	offences = offenceZeros()
	warnings = map[string]uint64{
		"one_client": 0, "no_client_header": 0, "evicted": 0, "revocations": 0, "shared_origin": 0, "plain_origin": 0, "panic": 0,
		"store_lost": 0, "store_back": 0, "mark_broken": 0, "mark_refused": 0, "marks_full": 0, "bans_full": 0,
	}
	spikes     = map[string]uint64{"refusals": 0, "connections": 0, "messages": 0, "bytes": 0}
	storeCalls = storeCallZeros()
)

// operations are those of audit.StoreCall.
var operations = []string{
	"admit", "charge", "renew", "release", "beat", "rates_take", "bans_all", "bans_news", "bans_set", "bans_now",
	"revocations_all", "revocations_news", "revocations_set", "revocations_now",
}

const (
	resultOK = "ok"
	other    = "other" // the label of an operation or a close code that has none of its own
)

// storeCall returns the labels of a call of a store.
func storeCall(operation string, ok bool) [2]string {
	if !slices.Contains(operations, operation) {
		operation = other
	}
	if ok {
		return [2]string{operation, resultOK}
	}
	return [2]string{operation, "error"}
}

func storeCallZeros() map[[2]string]uint64 {
	zeros := map[[2]string]uint64{}
	for _, operation := range append(slices.Clone(operations), other) {
		zeros[storeCall(operation, true)] = 0
		zeros[storeCall(operation, false)] = 0
	}
	return zeros
}

// refusalZeros has the reasons to refuse a handshake. The client may also leave before it has its
// answer, and a handler behind Guard.Wrap may panic.
func refusalZeros() map[string]uint64 {
	zeros := map[string]uint64{
		reason.ConnectionLost.Token(): 0, reason.WriteTimeout.Token(): 0, reason.Internal.Token(): 0,
	}
	for _, r := range reason.All() {
		if r.Status() != 0 {
			zeros[r.Token()] = 0
		}
	}
	return zeros
}

// closingZeros has each reason with its own close code, and all codes that are told apart for the
// peer's close frame.
func closingZeros() map[[3]string]uint64 {
	zeros := map[[3]string]uint64{}
	for _, r := range reason.All() {
		by := audit.ByGuard
		switch r {
		case reason.PeerClosed:
			for _, n := range []int{0, 3000, 3003, 3008} {
				zeros[closing(audit.ByPeer, r.Token(), n)] = 0
			}
			for n := 1000; n <= 1014; n++ {
				zeros[closing(audit.ByPeer, r.Token(), n)] = 0
			}
			continue
		case reason.ConnectionLost:
			zeros[closing(audit.ByNetwork, r.Token(), 1006)] = 0
			continue
		case reason.Internal:
			zeros[closing(audit.ByApplication, r.Token(), int(r.Code()))] = 0 // its handler has returned an error
		case reason.Closed:
			zeros[closing(audit.ByApplication, r.Token(), 0)] = 0 // codes of the application's own
			by = audit.ByApplication
		case reason.HandlerDone, reason.RequestDone:
			by = audit.ByApplication
		case reason.Kicked, reason.Revoked:
			by = audit.ByOperator
		}
		if r.Code() != 0 {
			zeros[closing(by, r.Token(), int(r.Code()))] = 0
		}
	}
	return zeros
}

// offenceZeros has what the guard does with a message or a credential that breaks a rule.
func offenceZeros() map[[2]string]uint64 {
	zeros := map[[2]string]uint64{}
	put := func(r *reason.Reason, actions ...audit.Action) {
		for _, a := range actions {
			zeros[[2]string{r.Token(), string(a)}] = 0
		}
	}
	for _, r := range []*reason.Reason{ // messages that close the connection, a notice answers, or report-only mode lets pass
		reason.MessageType, reason.InvalidUTF8, reason.InvalidJSON, reason.MessageTooBig, reason.Schema, reason.UnknownType,
		reason.JSONLimit, reason.RateLimited, reason.Forbidden,
	} {
		put(r, audit.ActionClose, audit.ActionReply, audit.ActionReport)
	}
	put(reason.RateLimited, audit.ActionWarn, audit.ActionRefuse)
	for _, r := range []*reason.Reason{ // frames, and credentials in a first message
		reason.Protocol, reason.ControlFlood, reason.Fragments, reason.MessageTimeout, reason.Unexpected, reason.Refresh,
		reason.Unauthenticated, reason.Guessing, reason.AuthTimeout, reason.HandshakeRate, reason.MaxSubjectConns, reason.Banned,
	} {
		put(r, audit.ActionClose)
	}
	return zeros
}
