// The page of the rolling restart. Each client numbers its messages, and sends a message
// again until the server has acknowledged it.
import { Connection, ticket } from '/wsguard.js';

const query = new URLSearchParams(location.search);

class Client {
  unacked = new Map(); // number → whether the connection still has the message
  acked = [];
  waits = []; // {code, reason, delay, lasted}: each wait for the next attempt
  opened = 0; // how often
  #next = 0; #openedAt = 0; #until = 0;

  constructor(name) {
    this.name = name;
    this.connection = new Connection({
      url: '/ws',
      credential: ticket('/ticket'),
      onMessage: ({ ack }) => { if (this.unacked.delete(ack)) this.acked.push(ack); },
      onState: (s) => this.#told(s),
    });
    this.connection.start();
  }

  #told(s) {
    if (s.state === 'open') {
      this.opened++;
      this.#openedAt = performance.now();
      // What was sent and not acknowledged may be lost, and so is what was not sent.
      for (const [id, held] of this.unacked) if (!held) this.#send(id);
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

  async #send(id) {
    this.unacked.set(id, true);
    await this.connection.send({ id });
    if (this.unacked.has(id)) this.unacked.set(id, false);
  }

  get figures() {
    const { name, acked, waits, opened } = this;
    return { name, acked, waits, opened, made: this.#next, unacked: this.unacked.size, state: this.connection.state.state };
  }
}

const clients = Array.from({ length: Number(query.get('clients')) }, (_, i) => new Client(`${query.get('name')}-${i}`));
let timer = setInterval(() => clients.forEach((c) => c.say()), Number(query.get('every')));

globalThis.roll = {
  figures: () => clients.map((c) => c.figures),
  all: (state) => clients.every((c) => c.connection.state.state === state),
  acked: () => Math.min(...clients.map((c) => c.acked.length)),
  quiet: () => clearInterval(timer),
  settled: () => clients.every((c) => c.connection.state.state === 'open' && c.unacked.size === 0),
};
