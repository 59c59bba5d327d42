// The page of the rolling restart. Each client numbers its messages, and sends a message
// again until the server has acknowledged it.
import { Connection, ticket } from '/wsguard.js';

const query = new URLSearchParams(location.search);

class Client {
  unacked = new Map(); // ID → 'held' by the connection, 'sent', or 'failed'
  acked = [];
  waits = []; // {code, reason, delay, lasted}: each wait for the next attempt
  opened = 0; // how often
  #next = 0; #openedAt = 0; #until = 0;

  constructor(name) {
    this.name = name;
    this.connection = new Connection({
      url: '/ws',
      credential: ticket('/ticket'),
      timeout: 60_000, // a loaded machine must not look like a server that does not answer
      onMessage: ({ ack }) => { if (this.unacked.delete(ack)) this.acked.push(ack); },
      onState: (s) => this.#told(s),
    });
    this.connection.start();
  }

  #told(s) {
    if (s.state === 'open') {
      this.opened++;
      this.#openedAt = performance.now();
      this.#again('sent'); // it may be lost, or only its acknowledgement
      this.#again('failed');
    } else if (s.state === 'waiting' && s.until !== this.#until) {
      const lasted = this.#openedAt && performance.now() - this.#openedAt;
      this.waits.push({ code: s.code ?? 0, reason: s.reason ?? '', why: s.why, delay: s.until - performance.now(), lasted });
      this.#openedAt = 0;
      this.#until = s.until;
    }
  }

  say() {
    this.#send(`${this.name}-${this.#next++}`);
  }

  // tick sends what did not fit into the queue.
  tick() {
    if (this.connection.state.state === 'open') this.#again('failed');
  }

  #again(what) {
    for (const [id, how] of this.unacked) if (how === what) this.#send(id);
  }

  async #send(id) {
    this.unacked.set(id, 'held');
    const { sent } = await this.connection.send({ id });
    if (this.unacked.has(id)) this.unacked.set(id, sent ? 'sent' : 'failed');
  }

  get figures() {
    const { name, acked, waits, opened } = this;
    return { name, acked, waits, opened, made: this.#next, unacked: this.unacked.size, state: this.connection.state.state };
  }
}

const clients = Array.from({ length: Number(query.get('clients')) }, (_, i) => new Client(`${query.get('name')}-${i}`));
const timer = setInterval(() => clients.forEach((c) => c.say()), Number(query.get('every')));
setInterval(() => clients.forEach((c) => c.tick()), 500);

globalThis.roll = {
  figures: () => clients.map((c) => c.figures),
  all: (state) => clients.every((c) => c.connection.state.state === state),
  acked: () => Math.min(...clients.map((c) => c.acked.length)),
  quiet: () => clearInterval(timer),
  settled: () => clients.every((c) => c.connection.state.state === 'open' && c.unacked.size === 0),
};
