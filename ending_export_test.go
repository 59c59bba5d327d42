package wsguard

import (
	"errors"

	"github.com/wsguard/wsguard/reason"
)

// EndAs ends c by the function of the table in lifecycle.go that has this name, and
// reports whether there is one.
func (c *Conn) EndAs(function string, why *reason.Reason) bool {
	switch function {
	case "because":
		c.end(because(why, "detail"))
	case "fault":
		c.end(fault("detail"))
	case "violation":
		c.end(violation(why, "detail"))
	case "badCredential":
		c.end(badCredential(deny(why, "detail")))
	case "chosen":
		c.end(chosen(4001, "chosen", why))
	case "byPeer":
		c.end(byPeer(4002, "by peer"))
	case "lost":
		c.end(lost(errors.New("detail")))
	default:
		return false
	}
	return true
}

// Offences are the tables of what counts towards a ban, by their names.
var Offences = map[string]map[*reason.Reason]float64{
	"no": nil, "messageOffences": messageOffences, "handshakeOffences": handshakeOffences,
}
