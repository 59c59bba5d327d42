// How a page opens its WebSocket with a ticket, and how it comes back after
// the connection is lost: without a storm of all pages at once, and never
// where coming back would be wrong. Nothing in here knows about the chat.

const BASE = 1_000; // the first delay is anywhere between 0 and this
const CAP = 30_000; // no delay is longer, unless the server asks for it
const STABLE = 10_000; // only a connection that lasted this long was a success
const TIMEOUT = 10_000; // for a ticket, and for a handshake

// What the guard's reasons and codes mean to a person.
const REASONS = {
  rate_limited: 'Rate limit exceeded, please wait.',
  schema: 'A message did not fit the schema.',
  message_too_big: 'A message was too big.',
  message_type: 'A message was of a type that is not accepted.',
  idle: 'Nothing was said for too long.',
  pong_timeout: 'This browser did not answer in time.',
  queue_full: 'This browser did not keep up with the messages.',
  write_timeout: 'This browser did not keep up with the messages.',
  draining: 'The server is restarting.',
  drill: 'The server said that it restarts (a drill).',
  lifetime: 'The connection had reached its greatest age.',
  expired: 'The session has expired.',
  revoked: 'The session has ended.',
  kicked: 'The connection was ended by an administrator.',
};
const CODES = {
  1000: 'The connection was closed.',
  1001: 'The server went away.',
  1002: 'The server saw a protocol violation.',
  1003: 'The server does not accept that type of message.',
  1006: 'The connection was lost without a word.',
  1007: 'The server could not read a message.',
  1008: 'The server refused what was sent.',
  1009: 'A message was too big.',
  1011: 'Something went wrong on the server.',
  1012: 'The server is restarting.',
  1013: 'The server is overloaded.',
  3000: 'The session is not valid any more.',
  3003: 'The server does not allow it.',
  3008: 'The server waited too long.',
};

export function explain(code, reason) {
  return REASONS[reason] ?? CODES[code] ?? 'The connection was closed.';
}

// verdict says what to do about a close: 'retry' after a delay of at least
// min and at most max, 'login' to try once with a new ticket, or 'ask' before
// anything else happens.
export function verdict(code, reason) {
  switch (code) {
    case 1012: // restart: spread over seconds; over more where there are thousands
      return { act: 'retry', min: 500, max: 5_000 };
    case 1013: // overload: whoever comes back at once makes it worse
      return { act: 'retry', min: 5_000, max: 30_000 };
    case 1001: case 1006: case 1011:
      return { act: 'retry', min: 0, max: 0 };
    case 3008: // dead networks come back, but silence was the user's choice
      return reason === 'idle' ? { act: 'ask' } : { act: 'retry', min: 0, max: 0 };
    case 1008: // slow readers may come back; who broke a rule would break it again
      return reason === 'queue_full' || reason === 'write_timeout' ? { act: 'retry', min: 0, max: 0 } : { act: 'ask' };
    case 3000:
      return { act: 'login' };
  }
  return { act: 'ask' }; // terminal, or unknown: a loop would help nobody
}

// Refused is why no ticket came.
export class Refused extends Error {
  constructor(status, retryAfter) {
    super(`HTTP ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

// ticketURL exchanges the session cookie for the address of one connection.
export async function ticketURL(path) {
  const res = await fetch('/ticket', { method: 'POST', signal: AbortSignal.timeout(TIMEOUT) });
  if (!res.ok) {
    const seconds = Number(res.headers.get('Retry-After'));
    throw new Refused(res.status, Number.isFinite(seconds) ? seconds * 1000 : 0);
  }
  const { ticket } = await res.json();
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  url.searchParams.set('ticket', ticket);
  return url;
}

// Connection keeps one WebSocket open. on.message gets each message parsed,
// on.state each of
//
//   {state: 'connecting'}  {state: 'open'}
//   {state: 'waiting', why, code, reason, until}  and retry() skips the wait
//   {state: 'stopped', why, code, reason}         until retry()
//   {state: 'login', why}                         until the user has logged in
export class Connection {
  #path; #on; #socket = null; #timer = 0; #attempts = 0; #renewed = false; #epoch = 0;

  constructor(path, on) {
    this.#path = path;
    this.#on = on;
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  start() {
    this.stop();
    this.#attempts = 0;
    this.#renewed = false;
    this.#connect();
  }

  // retry is the user's impatience: it does not reset the backoff.
  retry() {
    this.stop();
    this.#connect();
  }

  stop() {
    this.#epoch++; // what is under way is not listened to any more
    clearTimeout(this.#timer);
    this.#socket?.close(1000);
    this.#socket = null;
  }

  send(message) {
    if (!this.open) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  async #connect(loginBecause = 'The server does not know your session any more: please log in again.') {
    const epoch = this.#epoch;
    this.#on.state({ state: 'connecting' });
    let url;
    try {
      url = await ticketURL(this.#path);
    } catch (err) {
      if (epoch === this.#epoch) this.#noTicket(err, loginBecause);
      return;
    }
    if (epoch !== this.#epoch) return;

    const socket = new WebSocket(url);
    this.#socket = socket;
    let opened = 0;
    const tooLong = setTimeout(() => socket.close(), TIMEOUT);
    socket.onopen = () => {
      clearTimeout(tooLong);
      if (epoch !== this.#epoch) return;
      opened = performance.now();
      this.#on.state({ state: 'open' });
    };
    socket.onmessage = (e) => {
      if (epoch !== this.#epoch) return;
      this.#on.message(JSON.parse(e.data));
    };
    socket.onclose = ({ code, reason }) => {
      clearTimeout(tooLong);
      if (epoch !== this.#epoch) return;
      this.#socket = null;
      if (!opened) {
        // A browser tells its script nothing about a refused handshake: it
        // could be used to look around in networks. Retrying cures what is
        // temporary, and the ticket request finds out about the rest.
        this.#wait('The server refused the connection. A browser does not tell a page why; '
          + 'usual reasons are too many connections, or a ticket that was too old.', { code, min: 0, max: 0 });
        return;
      }
      if (performance.now() - opened >= STABLE) {
        this.#attempts = 0;
        this.#renewed = false;
      }
      this.#closed(code, reason);
    };
  }

  #closed(code, reason) {
    const why = explain(code, reason);
    const v = verdict(code, reason);
    if (v.act === 'retry') {
      this.#wait(why, { code, reason, ...v });
    } else if (v.act === 'login' && !this.#renewed) {
      this.#renewed = true; // once: a new ticket that is not good either is no accident
      this.#connect(why);
    } else if (v.act === 'login') {
      this.#on.state({ state: 'login', why });
    } else {
      this.#on.state({ state: 'stopped', why, code, reason });
    }
  }

  #noTicket(err, loginBecause) {
    if (!(err instanceof Refused)) {
      this.#wait('The server cannot be reached.', { min: 0, max: 0 });
    } else if (err.status === 401) {
      this.#on.state({ state: 'login', why: loginBecause });
    } else if (err.status === 429 || err.status >= 500) {
      this.#wait(err.status === 429 ? 'Too many attempts, please wait.' : 'The server is busy or restarting.',
        { min: err.retryAfter, max: err.retryAfter });
    } else {
      this.#on.state({ state: 'stopped', why: `The server gave out no ticket (HTTP ${err.status}).` });
    }
  }

  // Full jitter: not twice as long each time, but anywhere up to twice as
  // long. https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
  #wait(why, { code, reason, min, max }) {
    const ceiling = Math.min(CAP, BASE * 2 ** this.#attempts++);
    const delay = min + Math.random() * Math.max(ceiling, max - min);
    this.#on.state({ state: 'waiting', why, code, reason, until: performance.now() + delay });
    this.#timer = setTimeout(() => this.#connect(), delay);
  }
}
