// A chat in the terminal. Each line is said, and "/kick NAME" ends the connections of a user.
//
//	node main.mjs http://localhost:8080 KEY [connection-init]
import { createInterface } from 'node:readline';
import { newClient, request } from './client.mjs';

const [server, key, way] = process.argv.slice(2);
const client = newClient({
  server,
  key,
  connectionInit: way === 'connection-init',
  on: {
    connected: () => console.log('connected'),
    closed: ({ code, reason }) => console.log(`closed: ${code} ${reason}`),
  },
});

function failed(err) {
  if (err?.code) {
    console.log(`the client gives up after ${err.code} ${err.reason}`);
    process.exit(1);
  }
  for (const { message } of err ?? []) console.log(message);
}

client.subscribe(
  { query: 'subscription { said { who text } }' },
  { next: ({ data }) => console.log(`${data.said.who}: ${data.said.text}`), error: failed, complete: () => {} },
);
const input = createInterface({ input: process.stdin });
input.on('line', (line) => {
  const name = line.match(/^\/kick (.+)$/)?.[1];
  const done = name
    ? request(client, 'mutation ($who: String!) { kick(who: $who) }', { who: name })
    : request(client, 'mutation ($text: String!) { say(text: $text) { who } }', { text: line });
  done.catch(failed);
});
input.on('close', () => client.dispose());
