// A WebSocket that comes back after the connection is lost. All pages together
// make no storm, and a page stays away where coming back would be wrong.
// README.md describes it, and wsguard.d.ts has the types.

// What to do about a close. min and spread are in milliseconds: the next attempt
// comes after at least min, and at a random moment of the spread after that.
const retry = Object.freeze({ act: 'retry', min: 0, spread: 0 });
const restart = Object.freeze({ act: 'retry', min: 500, spread: 5_000 });
const busy = Object.freeze({ act: 'retry', min: 5_000, spread: 25_000 });
const banned = Object.freeze({ act: 'retry', min: 60_000, spread: 30_000 });
const slower = Object.freeze({ act: 'retry', min: 10_000, spread: 20_000, slower: true });
const login = Object.freeze({ act: 'login', min: 0, spread: 0 });
const rest = Object.freeze({ act: 'rest' }); // until the page sends something
const stop = Object.freeze({ act: 'stop' });

// The reasons of docs/close-codes.md. They count before the codes, because
// Config.CloseCodes changes codes and never reasons.
const BY_REASON = table([
  [retry, 'lifetime request_done internal_error pong_timeout auth_timeout'],
  [restart, 'draining'],
  [busy, 'max_conns max_subject_conns handshake_rate guessing unavailable'],
  [banned, 'banned'],
  [slower, 'rate_limited control_flood fragments schema json_limit message_timeout write_timeout queue_full '
    + 'unexpected_message unknown_type refresh'],
  [login, 'expired revoked unauthenticated'],
  [rest, 'idle'],
  [stop, 'protocol_error message_type invalid_utf8 invalid_json message_too_big forbidden kicked replaced'],
]);
// The codes, for reasons of the application and for other servers. All others,
// such as 1000 and 4000, mean stop: a loop would help nobody.
const BY_CODE = table([[retry, '1001 1006 1011 1014 3008'], [restart, '1012'], [busy, '1013'], [login, '3000']]);

function table(rows) {
  return new Map(rows.flatMap(([what, keys]) => keys.split(' ').map((key) => [key, what])));
}

/** verdict says what to do after a close with this code and reason. */
export function verdict(code, reason = '') {
  return BY_REASON.get(reason) ?? BY_CODE.get(String(code)) ?? stop;
}

/** TEXTS says for people what happened: by reason, by close code and by local cause. */
export const TEXTS = Object.freeze({
  rate_limited: 'Rate limit exceeded, please wait.',
  schema: 'A message did not fit the schema.',
  message_too_big: 'A message was too big.',
  message_type: 'A message was of a type that is not accepted.',
  idle: 'Nothing was said for too long.',
  pong_timeout: 'This browser did not answer in time.',
  queue_full: 'This browser did not keep up with the messages.',
  write_timeout: 'This browser did not keep up with the messages.',
  draining: 'The server is restarting.',
  lifetime: 'The connection had reached its greatest age.',
  expired: 'The session has expired.',
  revoked: 'The session has ended.',
  kicked: 'The connection was ended by an administrator.',
  replaced: 'You are connected in another window.',
  banned: 'Too many rules were broken, please wait.',
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
  closed: 'The connection was closed.',
  page: 'The page has ended the connection.',
  login: 'Please log in again.',
  unreachable: 'The server cannot be reached.',
  offline: 'This device is offline.',
  handshake: 'The server refused the connection. A browser does not tell a page why.',
  too_many: 'Too many attempts, please wait.',
  unavailable_now: 'The server is busy or restarting.',
  refused: 'The server gave out no credential.',
  address: 'The connection would have gone to another server.',
  credential: 'The credential cannot be used.',
  silent: 'The server has fallen silent.',
  slept: 'This device was asleep or offline.',
});

const DEFAULTS = {
  url: undefined, protocols: [], credential: null, ticketParam: 'ticket', tokenPrefix: 'bearer.',
  baseDelay: 5_000, maxDelay: 30_000, stableAfter: 10_000, timeout: 10_000,
  queueMessages: 100, queueBytes: 256 << 10, pace: 100,
  heartbeat: null, encode: JSON.stringify, decode: JSON.parse,
  checkIncoming: () => true, checkOutgoing: () => true, retryHint, verdict, texts: {},
  onMessage: null, onState: null, onInvalid: null,
};
const HEARTBEAT = { every: 30_000, timeout: 10_000, message: undefined, isAnswer: () => false };
// The least and the largest value of each number, as maxDelay must stay below what
// setTimeout can wait for.
const RANGES = {
  baseDelay: [100, 3_600_000], maxDelay: [1_000, 3_600_000], stableAfter: [1_000, 3_600_000], timeout: [1_000, 600_000],
  queueMessages: [0, 100_000], queueBytes: [0, 1 << 30], pace: [0, 60_000], every: [1_000, 3_600_000],
};

const WAKE = 1_000; // a page that is seen again comes back within this
const LONGEST = 24 * 3_600_000; // no server makes a page wait for longer
const LONGEST_HOLD = 60_000; // nor keeps its messages for longer
const BEAT = 5_000; // how often an open connection is looked after
const SLEPT = 90_000; // longer than browsers delay the timers of hidden pages
const SECRETS = new Set(['token', 'access_token', 'id_token', 'refresh_token', 'jwt', 'bearer', 'password', 'secret', 'api_key', 'apikey', 'session']);

function settings(given, defaults) {
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(defaults, name)) throw new TypeError(`there is no option ${name}`);
  }
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const all = { ...defaults, ...set };
  for (const [name, value] of Object.entries(all)) {
    const [least, most] = RANGES[name] ?? [];
    if (least !== undefined && !(typeof value === 'number' && value >= least && value <= most)) {
      throw new TypeError(`${name} must be a number from ${least} to ${most}`);
    }
    const known = defaults[name];
    const callback = name === 'credential' || /^on[A-Z]/.test(name);
    if ((typeof known === 'function' || (callback && value !== null)) && typeof value !== 'function') throw new TypeError(`${name} must be a function`);
  }
  return all;
}

const loopback = (host) => /^(localhost|.+\.localhost|127(\.\d+){3}|\[::1\])$/.test(host);

// secure refuses an address that is clear text, unless the page itself is or the
// server is on this machine.
function secure(url) {
  if (/^(http|ws):$/.test(url.protocol) && !loopback(url.hostname) && globalThis.location?.protocol !== 'http:') {
    throw new TypeError('the URL must be wss: or https:');
  }
  return url;
}

function socketURL(address) {
  if (address === undefined) throw new TypeError('there is no URL');
  const url = new URL(address, globalThis.location?.href);
  url.protocol = url.protocol.replace('http', 'ws');
  if (url.protocol !== 'wss:' && url.protocol !== 'ws:') throw new TypeError('the URL must be wss:');
  if (url.username || url.password) throw new TypeError('the URL must not have a user');
  for (const name of url.searchParams.keys()) {
    if (SECRETS.has(name.toLowerCase())) throw new TypeError(`the URL must not have a ${name}: logs and histories keep it`);
  }
  url.hash = '';
  return secure(url);
}

/** Refused is the error of a credential function that was refused with an HTTP status. */
export class Refused extends Error {
  constructor(status, retryAfter = 0) {
    super(`HTTP ${status}`);
    this.name = 'Refused';
    this.status = status;
    this.retryAfter = retryAfter; // in milliseconds
  }
}

/** retryAfter returns the milliseconds that a Retry-After header means, and 0 for none. */
export function retryAfter(header) {
  const text = String(header ?? '').trim();
  const date = /^\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT$/.test(text) ? Date.parse(text) - Date.now() : 0;
  const ms = /^\d+$/.test(text) ? Number(text) * 1_000 : date;
  return ms > 0 ? Math.min(ms, LONGEST) : 0; // NaN is not above 0
}

/** ticket returns a credential function that gets a ticket by a POST to the address. */
export function ticket(address, init = {}) {
  return async ({ signal, renew }) => {
    const url = secure(new URL(address, globalThis.location?.href));
    const own = typeof init === 'function' ? await init({ renew }) : init;
    const res = await fetch(url, { credentials: 'same-origin', cache: 'no-store', ...own, method: 'POST', redirect: 'error', signal });
    if (!res.ok) throw new Refused(res.status, retryAfter(res.headers.get('Retry-After')));
    const body = await res.json();
    if (typeof body?.ticket !== 'string' || !body.ticket) throw new Error('the answer has no ticket');
    return { ticket: body.ticket };
  };
}

/** retryHint returns the milliseconds that a notice of the guard asks to wait, and 0 for other messages. */
export function retryHint(m) {
  const seconds = m?.error?.data?.retry_after // jsonrpc.Notice
    ?? (m?.type === 'error' && Array.isArray(m.payload) ? m.payload[0]?.extensions?.retryAfter : undefined); // graphqlws.Notice
  const ms = m?.error === 'rate_limited' ? m.retry_after_ms : seconds * 1_000;
  return Number.isFinite(ms) && ms > 0 ? ms : 0;
}

// call runs a function of the page. What it throws is the page's own error: it is
// reported like any other, and changes nothing here.
function call(f, ...args) {
  try {
    return f?.(...args);
  } catch (err) {
    if (globalThis.reportError) globalThis.reportError(err);
    else queueMicrotask(() => { throw err; });
    return undefined;
  }
}

// judged runs a check of the page. Only true accepts. It returns '' or why not.
function judged(check, ...args) {
  const got = call(check, ...args);
  return got === true ? '' : typeof got === 'string' && got || 'refused by the check';
}

// credentialOf checks what a credential function has returned. A credential that is
// misspelt must not lead to a connection without one.
function credentialOf(given) {
  if (given === undefined || given === null) return {};
  if (typeof given !== 'object') throw new TypeError('not a credential');
  for (const [name, value] of Object.entries(given)) {
    const text = ['ticket', 'token'].includes(name) && typeof value === 'string' && value;
    if (!text && !['url', 'first'].includes(name)) throw new TypeError('not a credential');
  }
  const { first } = given;
  return { ...given, first: first === undefined || typeof first === 'string' || binary(first) ? first : JSON.stringify(first) };
}

const binary = (data) => data instanceof ArrayBuffer || ArrayBuffer.isView(data);
const bytes = (data) => (binary(data) ? data.byteLength : new TextEncoder().encode(data).length);
const copied = (data) => (binary(data) ? new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength).slice() : data);
const now = () => performance.now();
const hidden = () => globalThis.document?.visibilityState === 'hidden';
const offline = () => globalThis.navigator?.onLine === false;

/** Connection keeps one WebSocket open. */
export class Connection {
  #o; #url; // read-only after the constructor
  #epoch = 0; // grows whenever what is under way is not wanted any more
  #abort = null; // of the credential under way
  #socket = null;
  #timer = 0; // of the handshake, of the wait, or of the beat
  #attempts = 0; #wakes = 0; // since the last stable connection
  #renewed = ''; // why a credential was refused since the last stable connection
  #pace; #openedAt = 0; #greeting = false;
  #wait = null; // {until, notBefore, longest, state}
  #heard = 0; #probed = 0; #beatAt = 0; #offlineSince = 0;
  #queue = []; #queued = 0; #pump = 0; #holdUntil = 0;
  #unsent = []; #handed = 0; #drain = 0; // what the browser still holds
  #listening = null;

  /** state is what onState was told last. */
  state = Object.freeze({ state: 'stopped', cause: 'new', why: '' });

  constructor(options) {
    this.#o = settings(options, DEFAULTS);
    if (this.#o.maxDelay < this.#o.baseDelay) throw new TypeError('maxDelay must not be less than baseDelay');
    if (this.#o.heartbeat) this.#o.heartbeat = settings(this.#o.heartbeat, HEARTBEAT);
    this.#o.protocols = [this.#o.protocols].flat();
    this.#url = socketURL(this.#o.url);
    this.#pace = this.#o.pace;
  }

  /** start connects, and forgets all failures so far. */
  start() {
    this.#halt();
    this.#stable();
    this.#connect();
  }

  /** retry connects now if the connection waits or has stopped. It does not forget the failures. */
  retry() {
    if (this.state.state !== 'waiting' && this.state.state !== 'stopped') return;
    this.#halt();
    this.#connect();
  }

  /** stop closes the connection. Messages that still wait are not sent. */
  stop() {
    this.#end('page', { why: this.#text('page') });
  }

  /** send sends a message, or queues it. The promise tells whether it was sent, and never fails. */
  send(message, { queue = true } = {}) {
    const not = (why, detail) => Promise.resolve(detail ? { sent: false, why, detail } : { sent: false, why });
    let data;
    try {
      data = this.#o.encode(message);
    } catch { /* stays undefined */ }
    if (typeof data !== 'string' && !binary(data)) return not('invalid', 'cannot be encoded');
    const fault = judged(this.#o.checkOutgoing, message, data);
    if (fault) return not('invalid', fault);
    const { state, cause } = this.state;
    const open = state === 'open' && this.#writable;
    if (open && (this.#greeting || (!this.#queue.length && now() >= this.#holdUntil))) return this.#write(data);
    if (!queue || (state === 'stopped' && cause !== 'idle')) return not(open ? 'must_wait' : 'not_connected');
    const size = bytes(data);
    if (this.#queue.length >= this.#o.queueMessages || this.#queued + size > this.#o.queueBytes) return not('queue_full');
    return new Promise((settle) => {
      this.#queue.push({ data: copied(data), size, settle });
      this.#queued += size;
      if (open && !this.#pump) this.#flush();
      else if (state === 'stopped') this.retry();
    });
  }

  // ---- the attempt

  async #connect() {
    const epoch = this.#epoch;
    this.#listen();
    this.#set({ state: 'connecting' });
    if (epoch !== this.#epoch) return;
    let given;
    try {
      given = await this.#credential();
    } catch (err) {
      if (epoch === this.#epoch) this.#refused(err);
      return;
    }
    if (epoch !== this.#epoch) return;
    let socket;
    try {
      given = credentialOf(given);
      socket = this.#dial(given);
    } catch (err) { // an address or a subprotocol that cannot be used; the error may hold the credential
      const cause = err instanceof RangeError ? 'address' : 'credential';
      this.#end(cause, { why: this.#text(cause) });
      return;
    }
    this.#attach(socket, given.first);
  }

  // #credential asks the page for a credential, and waits no longer than the timeout.
  #credential() {
    const { credential, timeout } = this.#o;
    if (!credential) return null;
    const abort = this.#abort = new AbortController();
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => abort.abort(new Error('no credential in time')), timeout);
      abort.signal.addEventListener('abort', () => { clearTimeout(late); reject(abort.signal.reason); });
      new Promise((go) => { go(credential({ renew: this.#renewed !== '', signal: abort.signal })); })
        .finally(() => clearTimeout(late)).then(resolve, reject);
    });
  }

  // #dial never leaves the host of the option url, nor its scheme.
  #dial({ url: address, ticket: bought, token }) {
    let url = new URL(this.#url);
    if (address !== undefined) {
      try {
        url = socketURL(new URL(address, this.#url));
      } catch {
        throw new RangeError('address');
      }
      if (url.protocol !== this.#url.protocol || url.host !== this.#url.host) throw new RangeError('address');
    }
    if (bought !== undefined) url.searchParams.set(this.#o.ticketParam, bought);
    const protocols = token === undefined ? this.#o.protocols : [...this.#o.protocols, this.#o.tokenPrefix + token];
    if (token !== undefined && protocols.length < 2) throw new TypeError('a token needs another subprotocol');
    return new WebSocket(url.href, protocols);
  }

  #attach(socket, first) {
    this.#socket = socket;
    this.#openedAt = 0;
    socket.binaryType = 'arraybuffer';
    const mine = (f) => (event) => { if (socket === this.#socket) f(event); };
    this.#timer = setTimeout(() => this.#lost('handshake'), this.#o.timeout);
    socket.onopen = mine(() => this.#opened(first));
    socket.onmessage = mine(({ data }) => this.#received(data));
    socket.onclose = mine(({ code, reason }) => this.#closed(code, reason));
  }

  #opened(first) {
    const socket = this.#socket;
    this.#openedAt = this.#heard = now();
    this.#beatAt = Date.now();
    this.#probed = this.#holdUntil = 0;
    this.#beat();
    // What the page sends while it is told goes first, before what has waited.
    this.#greeting = true;
    if (first !== undefined) this.#write(first);
    this.#set({ state: 'open' });
    if (socket !== this.#socket) return;
    this.#greeting = false;
    // A server that accepts a handshake only to say no does so at once. So what
    // has waited waits a little more.
    this.#flushIn(Math.max(this.#pace, 100));
  }

  // ---- messages

  #received(data) {
    const socket = this.#socket;
    this.#heard = now();
    this.#probed = 0;
    let message;
    try {
      message = this.#o.decode(data);
    } catch {
      call(this.#o.onInvalid, { why: 'cannot be decoded', data });
      return;
    }
    if (call(this.#o.heartbeat?.isAnswer, message) === true) return;
    const hint = call(this.#o.retryHint, message);
    if (hint > 0) this.#holdUntil = Math.max(this.#holdUntil, now() + Math.min(hint, LONGEST_HOLD));
    const fault = judged(this.#o.checkIncoming, message, data);
    if (socket !== this.#socket) return; // one of these has ended it
    if (fault) call(this.#o.onInvalid, { why: fault, data });
    else call(this.#o.onMessage, message);
  }

  // A socket that is closing drops what it is given, and the browser shows an error.
  get #writable() {
    return this.#socket?.readyState === 1; // OPEN
  }

  // #write hands data to the browser. The promise waits until the browser has passed it on.
  #write(data) {
    if (!this.#writable) return Promise.resolve({ sent: false, why: 'lost' });
    const before = this.#socket.bufferedAmount;
    try {
      this.#socket.send(data);
    } catch {
      return Promise.resolve({ sent: false, why: 'lost' });
    }
    this.#handed += this.#socket.bufferedAmount - before;
    return new Promise((settle) => {
      this.#unsent.push({ end: this.#handed, settle });
      this.#drained();
    });
  }

  // #drained settles what the browser has passed on, and comes back for the rest.
  #drained() {
    const passed = this.#handed - this.#socket.bufferedAmount;
    while (this.#unsent.length && this.#unsent[0].end <= passed) this.#unsent.shift().settle({ sent: true });
    clearTimeout(this.#drain);
    if (this.#unsent.length) this.#drain = setTimeout(() => this.#drained(), 50);
  }

  // #flush sends the oldest message of the queue, and comes back for the next.
  #flush() {
    this.#pump = 0;
    if (!this.#writable || !this.#queue.length) return;
    const held = this.#holdUntil - now();
    if (held > 0) {
      this.#flushIn(held);
      return;
    }
    const { data, size, settle } = this.#queue.shift();
    this.#queued -= size;
    this.#write(data).then(settle);
    this.#flushIn(this.#pace);
  }

  #flushIn(ms) {
    clearTimeout(this.#pump);
    this.#pump = setTimeout(() => this.#flush(), Math.ceil(ms));
  }

  // ---- the end of a connection, and what follows

  #lost(why) {
    this.#closed(1006, '', why);
  }

  #closed(code, reason, local) {
    const lasted = this.#openedAt ? now() - this.#openedAt : 0;
    const open = this.#openedAt > 0;
    this.#halt();
    if (open && lasted >= this.#o.stableAfter) this.#stable();
    const why = this.#text(local ?? (open ? reason : 'handshake'), local || !open ? 'closed' : code);
    const told = { why, code, reason };
    const epoch = this.#epoch;
    const v = open && !local ? this.#verdict(code, reason) : retry;
    if (epoch !== this.#epoch) return; // the verdict of the page has stopped or started it
    if (v.act === 'retry') {
      if (v.slower) this.#pace = Math.min(Math.max(2 * this.#pace, 100), 2_000);
      this.#later(told, v);
      if (local === 'slept') this.#wake();
    } else if (v.act === 'login' && !this.#renewed) {
      this.#renewed = why; // once: a fresh credential that is refused too is no accident
      this.#later(told, v);
    } else {
      this.#end({ login: 'login', rest: 'idle' }[v.act] ?? 'closed', told, v.act === 'rest');
    }
  }

  #verdict(code, reason) {
    const v = call(this.#o.verdict, code, reason);
    return ['retry', 'login', 'rest', 'stop'].includes(v?.act) ? v : verdict(code, reason);
  }

  // #refused is what follows when the page got no credential.
  #refused(err) {
    const { status } = err ?? {};
    if (status === 401) {
      this.#end('login', { why: this.#renewed || this.#text('login') });
    } else if (status === 408 || status === 425 || status === 429 || status >= 500) {
      const min = Number.isFinite(err.retryAfter) ? err.retryAfter : 0;
      this.#later({ why: this.#text(status === 429 ? 'too_many' : 'unavailable_now') }, { min });
    } else if (status >= 300) {
      this.#end('refused', { why: this.#text('refused'), status });
    } else {
      this.#later({ why: this.#text(offline() ? 'offline' : 'unreachable') }, retry);
    }
  }

  // #later waits, and then connects. The wait is random up to a ceiling that doubles
  // each time: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
  #later(told, { min = 0, spread = 0 }) {
    const { baseDelay, maxDelay } = this.#o;
    const floor = Math.min(Math.max(Number(min) || 0, 0), LONGEST);
    const ceiling = Math.min(maxDelay, baseDelay * 2 ** Math.min(this.#attempts++, 30));
    let delay = floor + Math.random() * Math.max(ceiling, Math.min(Number(spread) || 0, LONGEST));
    if (hidden() || offline()) delay = Math.max(delay, maxDelay * (1 + Math.random()));
    this.#abort = null;
    delay = Math.max(delay, 1); // never within this turn of the event loop
    this.#wait = { until: now() + delay, notBefore: now() + floor, longest: delay, told };
    this.#tick();
  }

  // #tick counts the seconds down.
  #tick() {
    clearTimeout(this.#timer);
    const w = this.#wait;
    const left = Math.min(w.until - now(), w.longest);
    if (left <= 0) {
      this.#halt();
      this.#connect();
      return;
    }
    this.#timer = setTimeout(() => this.#tick(), left % 1_000 || 1_000);
    this.#set({ ...w.told, state: 'waiting', seconds: Math.ceil(left / 1_000), until: w.until });
  }

  // #wake shortens the wait of a page that is seen again or has a network again. A
  // page that is seen every second must not connect every second, so the time for it
  // doubles like any other.
  #wake() {
    const w = this.#wait;
    if (!w || hidden() || offline()) return;
    const soon = now() + Math.random() * Math.min(this.#o.maxDelay, WAKE * 2 ** Math.min(this.#wakes++, 30));
    const until = Math.max(w.notBefore, soon);
    if (until >= w.until) return;
    w.until = until;
    this.#tick();
  }

  // #end stops for good, or until the page sends something.
  #end(cause, told, keepQueue = false) {
    this.#halt();
    this.#unlisten();
    const left = keepQueue ? [] : this.#queue.splice(0);
    if (!keepQueue) this.#queued = 0;
    for (const { settle } of left) settle({ sent: false, why: 'stopped' });
    this.#set({ ...told, state: 'stopped', cause });
    if (keepQueue && this.#queue.length && this.state.state === 'stopped') this.retry();
  }

  // #halt ends what is under way: a credential, a socket, a wait.
  #halt() {
    this.#epoch++;
    for (const timer of [this.#timer, this.#pump, this.#drain]) clearTimeout(timer);
    this.#pump = 0;
    this.#wait = null;
    this.#greeting = false;
    this.#abort?.abort(new Error('not wanted any more'));
    this.#abort = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      const passed = this.#handed - socket.bufferedAmount;
      for (const { end, settle } of this.#unsent.splice(0)) settle(end <= passed ? { sent: true } : { sent: false, why: 'lost' });
      socket.close(1000);
    }
    this.#handed = this.#openedAt = 0;
  }

  #stable() {
    this.#attempts = this.#wakes = 0;
    this.#renewed = '';
    this.#pace = this.#o.pace;
  }

  // ---- signs of life

  // #beat looks after an open connection. A script sees no pings of the server. It
  // can see that messages stop coming, and that its own timers have stood still.
  #beat() {
    const { heartbeat } = this.#o;
    const slept = Date.now() - this.#beatAt > SLEPT;
    this.#beatAt = Date.now();
    if (slept && !this.#probe()) {
      this.#lost('slept');
      return;
    }
    let next = BEAT;
    if (heartbeat) {
      if (!this.#probed && now() - this.#heard >= heartbeat.every) this.#probe();
      const left = (this.#probed || this.#heard + heartbeat.every) + heartbeat.timeout - now();
      if (left <= 0) {
        this.#lost('silent');
        return;
      }
      const quiet = this.#heard + heartbeat.every - now(); // until it asks
      next = Math.min(BEAT, left, quiet > 0 ? quiet : BEAT);
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#beat(), Math.ceil(next));
  }

  get #asks() {
    return this.#o.heartbeat?.message !== undefined;
  }

  // #probe asks the server for a sign of life. It returns false if it cannot.
  #probe() {
    if (!this.#asks) return false;
    if (this.#probed) return true; // under way
    const { message } = this.#o.heartbeat;
    const data = call(this.#o.encode, typeof message === 'function' ? call(message) : message);
    if (typeof data !== 'string' && !binary(data)) return false;
    this.#probed = now();
    this.#write(data);
    return true;
  }

  #listen() {
    if (this.#listening) return;
    const seen = () => {
      if (hidden()) return;
      if (this.state.state === 'open') this.#beat();
      else this.#wake();
    };
    const online = () => {
      const since = this.#offlineSince;
      this.#offlineSince = 0;
      if (this.state.state !== 'open') this.#wake();
      else if (this.#probe()) this.#beat(); // the network may be another one
      else if (since && now() - since > SLEPT) this.#lost('slept');
    };
    this.#offlineSince = 0;
    const gone = () => { this.#offlineSince ||= now(); };
    const on = [[globalThis.document, 'visibilitychange', seen], [globalThis, 'online', online], [globalThis, 'offline', gone]];
    this.#listening = on.filter(([target]) => target?.addEventListener);
    for (const [target, name, f] of this.#listening) target.addEventListener(name, f);
  }

  #unlisten() {
    for (const [target, name, f] of this.#listening ?? []) target.removeEventListener(name, f);
    this.#listening = null;
  }

  #text(...keys) {
    for (const texts of keys.flatMap((key) => [[this.#o.texts, key], [TEXTS, key]])) {
      if (Object.hasOwn(...texts)) return texts[0][texts[1]];
    }
    return this.#o.texts.closed ?? TEXTS.closed;
  }

  #set(state) {
    this.state = Object.freeze(state);
    call(this.#o.onState, this.state);
  }
}
