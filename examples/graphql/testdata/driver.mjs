// Runs a client for the tests. The argument is the options of newClient in JSON. Each line of
// the standard input is an operation: {"id", "query", "variables"}, or {"id", "end": true}. With
// "patient", the function request runs it. Each line of the standard output says what happens.
import { createInterface } from 'node:readline';
import { newClient, request } from '../client/client.mjs';

const options = JSON.parse(process.argv[2]);
const tell = (what) => console.log(JSON.stringify(what));
process.on('unhandledRejection', (err) => tell({ event: 'unhandled', text: String(err) }));

const client = newClient({
  ...options,
  retryWait: () => new Promise((done) => setTimeout(done, 10)),
  on: {
    connecting: () => tell({ event: 'connecting' }),
    connected: () => tell({ event: 'connected' }),
    closed: ({ code, reason }) => tell({ event: 'closed', code, text: reason }),
  },
});
const ends = {};
createInterface({ input: process.stdin })
  .on('line', (line) => {
    const { id, query, variables, end, patient } = JSON.parse(line);
    if (end) return ends[id]();
    if (patient) {
      return request(client, query, variables).then(
        (data) => tell({ event: 'complete', id, data }),
        (err) => tell({ event: 'gave up', id, text: JSON.stringify(err) }),
      );
    }
    ends[id] = client.subscribe(
      { query, variables },
      {
        next: ({ data, errors }) => tell({ event: 'next', id, data, errors }),
        error: (err) => tell(Array.isArray(err) ? { event: 'error', id, errors: err } : { event: 'gave up', id, code: err.code, text: err.reason }),
        complete: () => tell({ event: 'complete', id }),
      },
    );
  })
  .on('close', () => process.exit(0));
