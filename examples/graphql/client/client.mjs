// newClient returns a client of graphql-ws. It gets a new ticket for each connection, and its
// subscriptions go on after it has connected again. With connectionInit it authenticates in
// connection_init instead. A page can use this function, without the class PageSocket.
import { createClient } from 'graphql-ws';
import { WebSocket } from 'ws';

// pause waits for about half a second, longer after each failure, and at most 30 seconds. The
// time is random, so that not all clients come back to a restarted server at once.
function pause(failures) {
  const most = Math.min(1000 * 2 ** failures, 30_000);
  return new Promise((done) => setTimeout(done, most * Math.random()));
}

export function newClient({ server, key, connectionInit, ...options }) {
  const address = server.replace(/^http/, 'ws') + '/graphql';

  // graphql-ws calls this before each connection. It must not throw, because graphql-ws would
  // then wait for ever.
  async function addressWithTicket() {
    for (let failures = 0; ; failures++) {
      try {
        const headers = { Authorization: `Bearer ${key}`, Origin: server };
        const res = await fetch(`${server}/ticket`, { method: 'POST', headers });
        if (res.ok) return `${address}?ticket=${(await res.json()).ticket}`;
        if (res.status === 401) return address; // the server closes with 4401, and the client gives up
      } catch {
        // The server is away.
      }
      await pause(failures);
    }
  }

  // A browser sends the origin of the page. A program must say it.
  class PageSocket extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { origin: server });
    }
  }

  return createClient({
    webSocketImpl: PageSocket,
    ...(connectionInit
      ? { url: address, connectionParams: { Authorization: `Bearer ${key}` } }
      : { url: addressWithTicket }),
    retryAttempts: Infinity,
    retryWait: pause,
    shouldRetry: () => true, // also after a handshake that was refused, which has no close code
    ...options,
  });
}

// request resolves to the data of a query or a mutation. If the server says that it comes too
// soon, request tries again later, and at a random time, so that many requests do not come back
// together. It rejects with the errors of the server, or with the close
// event if the client has given up.
export async function request(client, query, variables) {
  for (;;) {
    try {
      return await attempt(client, query, variables);
    } catch (err) {
      const seconds = err?.[0]?.extensions?.retryAfter;
      if (!seconds) throw err;
      await new Promise((done) => setTimeout(done, 1000 * (seconds + Math.random())));
    }
  }
}

function attempt(client, query, variables) {
  return new Promise((resolve, reject) => {
    let result;
    client.subscribe(
      { query, variables },
      {
        next: (response) => (result = response),
        error: reject,
        complete: () => (result?.data ? resolve(result.data) : reject(result?.errors)),
      },
    );
  });
}
