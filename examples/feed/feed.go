package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/wsguard/wsguard"
)

// feed sends prices to all clients.
type feed struct {
	mu     sync.Mutex
	newest map[string][]byte          // guarded by mu: the message with the newest price of each symbol
	conns  map[*wsguard.Conn]struct{} // guarded by mu
}

func newFeed() *feed {
	return &feed{newest: map[string][]byte{}, conns: map[*wsguard.Conn]struct{}{}}
}

// serve handles one connection. The client first gets all prices, and then each change.
func (f *feed) serve(ctx context.Context, c *wsguard.Conn) error {
	c.CloseRead() // closes a client that sends a message, and notices when a client is gone
	f.add(c)
	defer f.remove(c)
	<-ctx.Done()
	return nil
}

// set sends a new price to all clients. It waits for none of them.
func (f *feed) set(symbol string, price int) {
	msg := fmt.Appendf(nil, `{"symbol":%q,"price":%d}`, symbol, price)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest[symbol] = msg
	for c := range f.conns {
		send(c, symbol, msg)
	}
}

func (f *feed) add(c *wsguard.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for symbol, msg := range f.newest {
		send(c, symbol, msg)
	}
	f.conns[c] = struct{}{}
}

func (f *feed) remove(c *wsguard.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

// send queues a price. If an older price of the symbol is still queued, the new one takes its
// place. The error is ignored because it says that the connection has ended, and serve then
// removes it.
func send(c *wsguard.Conn, symbol string, msg []byte) {
	c.SendLatest(symbol, wsguard.MessageText, msg)
}
