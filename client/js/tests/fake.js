// A browser for tests: its clock, its sockets, its network and its page.

import { mock } from 'node:test';

export class FakeSocket extends EventTarget {
  static all = [];
  static CONNECTING = 0;
  static OPEN = 1;

  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  closedWith = null;
  red = 0; // lines in the console

  constructor(url, protocols = []) {
    super();
    if (protocols.some((p) => !/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(p))) throw new SyntaxError('bad subprotocol');
    this.url = String(url);
    this.protocols = protocols;
    this.at = performance.now();
    FakeSocket.all.push(this);
    FakeSocket.onnew?.(this);
  }

  send(data) {
    if (this.readyState === 0) throw new Error('InvalidStateError');
    if (this.readyState > 1) this.red++;
    if (this.readyState > 1 || this.stuck) this.bufferedAmount += data.length ?? data.byteLength;
    else this.sent.push(data);
  }

  close(code) {
    if (this.readyState > 1) return;
    this.readyState = 2;
    this.closedWith = code;
  }

  // What the network does.
  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  receive(message) {
    this.onmessage?.({ data: typeof message === 'string' ? message : JSON.stringify(message) });
  }

  closing() { // a close frame has come, and the connection is still there
    this.readyState = 2;
  }

  end(code = 1006, reason = '') {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  get json() {
    return this.sent.map((m) => JSON.parse(m));
  }
}

// A seeded generator (mulberry32), so that a failure repeats.
export function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const replaced = new Map();

function replace(target, name, value) {
  replaced.set(`${target === globalThis ? '' : 'o.'}${name}`, [target, name, Object.getOwnPropertyDescriptor(target, name)]);
  Object.defineProperty(target, name, { value, configurable: true, writable: true });
}

// install makes the globals those of a page at this address.
export function install(href = 'https://app.example.com/') {
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_000_000 });
  FakeSocket.all = [];
  FakeSocket.onnew = null;
  const page = { reported: [], listeners: 0 };
  const target = () => {
    const t = new EventTarget();
    return Object.assign(t, {
      addEventListener(...a) { page.listeners++; EventTarget.prototype.addEventListener.apply(t, a); },
      removeEventListener(...a) { page.listeners--; EventTarget.prototype.removeEventListener.apply(t, a); },
    });
  };
  page.window = target();
  page.document = Object.assign(target(), { visibilityState: 'visible' });
  page.navigator = { onLine: true };
  replace(globalThis, 'addEventListener', page.window.addEventListener);
  replace(globalThis, 'removeEventListener', page.window.removeEventListener);
  replace(globalThis, 'document', page.document);
  replace(globalThis, 'navigator', page.navigator);
  replace(globalThis, 'location', href ? new URL(href) : undefined);
  replace(globalThis, 'WebSocket', FakeSocket);
  replace(globalThis, 'reportError', (err) => page.reported.push(err.message));
  replace(globalThis, 'fetch', () => { throw new TypeError('no network'); });
  replace(performance, 'now', () => Date.now());
  replace(Math, 'random', () => 0.5);
  page.show = (visible) => {
    page.document.visibilityState = visible ? 'visible' : 'hidden';
    page.document.dispatchEvent(new Event('visibilitychange'));
  };
  page.online = (yes) => {
    page.navigator.onLine = yes;
    page.window.dispatchEvent(new Event(yes ? 'online' : 'offline'));
  };
  return page;
}

export function uninstall() {
  mock.timers.reset();
  for (const [target, name, was] of [...replaced.values()].reverse()) {
    if (was) Object.defineProperty(target, name, was);
    else delete target[name];
  }
  replaced.clear();
}

// settle lets promises run.
export const settle = () => new Promise((resolve) => { setImmediate(resolve); });

// pass lets time pass, step by step, so that promises run in between.
export async function pass(ms, step = 50) {
  await settle();
  for (let left = ms; left > 0; left -= step) {
    mock.timers.tick(Math.min(step, left));
    await settle();
  }
}

export const last = () => FakeSocket.all.at(-1);

// watch returns the callbacks of a page that keeps what it is told.
export function watch(more = {}) {
  const seen = { states: [], messages: [], invalid: [] };
  return {
    ...seen,
    options: {
      url: '/ws',
      onState: (s) => seen.states.push(s),
      onMessage: (m) => seen.messages.push(m),
      onInvalid: (i) => seen.invalid.push(i),
      ...more,
    },
  };
}
