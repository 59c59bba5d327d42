// Runs clients of npm's graphql-ws for internal/wraptest. The arguments are the URL, the
// Origin and a list of cases in JSON. It prints what each client did, one line of JSON each.
'use strict';

const { WebSocket } = require('ws');
const { createClient } = require('graphql-ws');

const [url, origin, cases] = process.argv.slice(2);

// A page's WebSocket sends its Origin. Node's has to be told.
class PageSocket extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { origin });
  }
}

function run({ name, path, params, query, ping, retryErrors }) {
  return new Promise((resolve) => {
    const seen = { name, outcome: '', codes: [], texts: [], pongs: 0, data: '' };
    let attempts = 0;
    let timer;
    const finish = (outcome) => {
      if (seen.outcome) return;
      seen.outcome = outcome;
      clearTimeout(timer);
      resolve(seen);
      client.dispose().catch(() => {}); // it may be connecting again
    };
    timer = setTimeout(() => finish('nothing happens'), 30_000);
    // Which close codes are fatal is the client's own rule. Only the wait is shorter.
    const client = createClient({
      url: url + path,
      webSocketImpl: PageSocket,
      connectionParams: params,
      retryWait: () => new Promise((done) => setTimeout(done, 10)),
      ...(retryErrors ? { shouldRetry: () => true } : {}),
      on: {
        connecting: () => ++attempts > 1 && finish('retries'),
        opened: (socket) => ping && socket.send('{"type":"ping"}'),
        pong: (received) => received && seen.pongs++,
        closed: (event) => {
          seen.codes.push(event.code);
          seen.texts.push(event.reason);
        },
      },
    });
    client.subscribe(
      { query },
      {
        next: (message) => {
          seen.data = message.data.who;
        },
        error: () => finish('gives up'),
        complete: () => finish('completes'),
      },
    );
  });
}

(async () => {
  for (const result of await Promise.all(JSON.parse(cases).map(run))) console.log(JSON.stringify(result));
  process.exit(0);
})();
