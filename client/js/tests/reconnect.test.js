import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Connection, Refused, retryAfter, ticket } from '../wsguard.js';
import { FakeSocket, install, last, pass, settle, uninstall, watch } from './fake.js';

let page;
beforeEach(() => { page = install(); });
afterEach(() => {
  assert.deepEqual(page.reported, []);
  uninstall();
});

// opened returns a connection that is open.
async function opened(more) {
  const w = watch(more);
  w.connection = new Connection(w.options);
  w.connection.start();
  await settle();
  last().open();
  return w;
}

const dials = () => FakeSocket.all.length;

test('it connects at once, and tells its states', async () => {
  const w = await opened();
  assert.deepEqual(w.states.map((s) => s.state), ['connecting', 'open']);
  assert.equal(last().url, 'wss://app.example.com/ws');
  last().receive({ type: 'hello' });
  assert.deepEqual(w.messages, [{ type: 'hello' }]);
});

test('it counts the seconds down', async () => {
  const w = await opened();
  last().end(1006);
  await pass(3_000);
  const waiting = w.states.filter((s) => s.state === 'waiting');
  assert.deepEqual(waiting.map((s) => s.seconds), [3, 2, 1]); // 0.5 × 5 s
  assert.equal(waiting[0].why, 'The connection was lost without a word.');
  assert.equal(waiting[0].code, 1006);
  assert.equal(w.states.at(-1).state, 'connecting');
});

test('the ceiling doubles up to the cap, with full jitter', async () => {
  const waits = [];
  for (const random of [0, 0.25, 0.999999]) {
    Math.random = () => random;
    FakeSocket.all = [];
    const w = watch();
    const c = new Connection(w.options);
    c.start();
    await settle();
    for (let i = 0; i < 6; i++) {
      const [n, from] = [dials(), performance.now()];
      last().end();
      while (dials() === n) await pass(50);
      waits.push(performance.now() - from);
    }
    c.stop();
  }
  const near = (got, want) => assert.ok(Math.abs(got - want) <= 100, `waited ${got}, want ${want}`);
  [0, 0, 0, 0, 0, 0, 1_250, 2_500, 5_000, 7_500, 7_500, 7_500, 5_000, 10_000, 20_000, 30_000, 30_000, 30_000].forEach((want, i) => near(waits[i], want));
});

test('only a stable connection forgets the failures', async () => {
  Math.random = () => 0.999999;
  const w = await opened();
  for (const [lasted, want] of [[9_000, 5], [9_000, 10], [9_000, 20], [10_000, 5], [60_000, 5], [0, 10]]) {
    await pass(lasted, 1_000);
    last().end();
    assert.equal(w.states.at(-1).seconds, want, `after ${lasted} ms`);
    await pass(want * 1_000 + 100);
    last().open();
  }
});

test('a restart and an overload have a floor', async () => {
  Math.random = () => 0;
  for (const [code, reason, seconds] of [[1012, 'draining', 1], [1012, 'drill', 1], [1013, 'max_conns', 5], [1013, '', 5], [1013, 'banned', 60], [1008, 'rate_limited', 10]]) {
    const w = await opened();
    last().end(code, reason);
    assert.equal(w.states.at(-1).seconds, seconds, `${code} ${reason}`);
    w.connection.retry(); // the user's impatience
    await settle();
    assert.equal(w.states.at(-1).state, 'connecting');
    w.connection.stop();
  }
});

test('it logs in again once, and then stops', async () => {
  const asked = [];
  const w = await opened({ credential: ({ renew }) => { asked.push(renew); return { ticket: `t${asked.length}` }; } });
  assert.equal(last().url, 'wss://app.example.com/ws?ticket=t1');
  last().end(3000, 'expired');
  assert.equal(w.states.at(-1).state, 'waiting');
  await pass(5_000);
  assert.equal(last().url, 'wss://app.example.com/ws?ticket=t2');
  last().open();
  last().end(3000, 'expired');
  assert.deepEqual([w.states.at(-1).state, w.states.at(-1).cause], ['stopped', 'login']);
  await pass(100_000, 5_000);
  assert.deepEqual([asked, dials()], [[false, true], 2]);
});

test('after a stable while it may log in once more', async () => {
  const w = await opened({ credential: () => ({ ticket: 'x' }) });
  for (let i = 0; i < 3; i++) {
    last().end(3000, 'expired');
    await pass(5_000);
    last().open();
    await pass(11_000, 1_000);
  }
  assert.equal(w.connection.state.state, 'open');
});

test('failures between two logins do not allow a third', async () => {
  const w = await opened({ credential: () => ({ ticket: 'x' }) });
  last().end(3000, 'revoked');
  await pass(5_000);
  last().end(1006);
  await pass(10_000);
  last().open();
  last().end(1012, 'draining');
  await pass(40_000, 100);
  last().open();
  last().end(3000, 'revoked');
  assert.equal(w.states.at(-1).cause, 'login');
});

test('terminal codes stop', async () => {
  for (const [code, reason] of [[1008, 'replaced'], [3003, 'forbidden'], [3003, 'kicked'], [1000, ''], [1002, 'protocol_error'], [1009, 'message_too_big'], [4001, 'own']]) {
    const w = await opened();
    const n = dials();
    last().end(code, reason);
    const s = w.states.at(-1);
    assert.deepEqual([s.state, s.cause, s.code, s.reason], ['stopped', 'closed', code, reason]);
    page.show(true);
    page.online(true);
    await pass(200_000, 5_000);
    assert.equal(dials(), n);
    assert.equal(page.listeners, 0);
    w.connection.retry();
    await settle();
    assert.equal(dials(), n + 1);
    w.connection.stop();
  }
});

test('the page may decide otherwise', async () => {
  const { verdict } = await import('../wsguard.js');
  const w = await opened({
    verdict: (code, reason) => {
      if (code === 4001) return { act: 'retry', min: 2_000 };
      if (code === 4002) throw new Error('a fault of the page');
      if (code === 4003) return 'nonsense';
      return verdict(code, reason);
    },
  });
  last().end(4001);
  assert.equal(w.states.at(-1).seconds, 5);
  for (const code of [4002, 4003]) {
    w.connection.start();
    await settle();
    last().open();
    last().end(code);
    assert.equal(w.states.at(-1).state, 'stopped');
  }
  assert.deepEqual(page.reported.splice(0), ['a fault of the page']);
});

test('after idle it rests until there is something to say', async () => {
  const w = await opened();
  last().end(3008, 'idle');
  assert.deepEqual([w.states.at(-1).state, w.states.at(-1).cause], ['stopped', 'idle']);
  await pass(100_000, 5_000);
  assert.equal(dials(), 1);
  const sent = w.connection.send({ say: 1 });
  await settle();
  assert.equal(dials(), 2);
  last().open();
  await pass(200);
  assert.deepEqual([await sent, last().json], [{ sent: true }, [{ say: 1 }]]);
});

test('each attempt has a fresh credential, and a slow one is given up', async () => {
  let n = 0;
  const signals = [];
  const w = watch({ credential: ({ signal }) => { signals.push(signal); return ++n === 2 ? new Promise(() => {}) : { ticket: String(n) }; } });
  const c = new Connection(w.options);
  c.start();
  await settle();
  last().end();
  await pass(3_000);
  assert.equal(c.state.state, 'connecting');
  await pass(10_000, 500);
  assert.equal(c.state.state, 'waiting');
  assert.equal(signals[1].aborted, true);
  await pass(10_000);
  assert.equal(last().url, 'wss://app.example.com/ws?ticket=3');
  assert.equal(dials(), 2);
});

test('a handshake that takes too long is given up', async () => {
  const w = watch();
  const c = new Connection(w.options);
  c.start();
  await pass(10_000, 500);
  assert.equal(c.state.state, 'waiting');
  assert.equal(FakeSocket.all[0].closedWith, 1000);
  FakeSocket.all[0].open(); // too late
  assert.equal(c.state.state, 'waiting');
  assert.deepEqual(w.messages, []);
});

test('stop and start leave nothing of what was under way', async () => {
  let give;
  const w = watch({ credential: () => new Promise((resolve) => { give = resolve; }) });
  const c = new Connection(w.options);
  c.start();
  await settle();
  const first = give;
  c.stop();
  first({ ticket: 'late' });
  await pass(1_000);
  assert.equal(dials(), 0);
  assert.deepEqual([c.state.cause, page.listeners], ['page', 0]);
  c.start();
  c.start();
  await settle();
  give({ ticket: 'one' });
  await settle();
  assert.equal(dials(), 1);
});

test('a page that stops while it is told needs no credential', async () => {
  let asked = 0;
  const c = new Connection({ url: '/ws', credential: () => { asked++; }, onState: (s) => { if (s.state === 'connecting') c.stop(); } });
  c.start();
  await settle();
  assert.deepEqual([c.state.cause, asked], ['page', 0]);
});

test('the page may stop and start from its callbacks', async () => {
  for (const at of ['connecting', 'open', 'waiting', 'stopped']) {
    for (const act of ['stop', 'start', 'retry', 'send']) {
      let done = false;
      const c = new Connection({
        url: '/ws',
        onState: (s) => {
          if (done || s.state !== at || s.cause === 'new') return;
          done = true;
          c[act]({ x: 1 });
        },
      });
      c.start();
      await settle();
      last()?.open(); // there is none if it has stopped before
      last()?.end(1006, at === 'stopped' ? 'replaced' : '');
      await pass(500);
      assert.equal(done, true);
      c.stop();
      await pass(60_000, 5_000);
      assert.equal(page.listeners, 0, `${act} at ${at}`);
      const n = dials();
      await pass(60_000, 5_000);
      assert.equal(dials(), n, `${act} at ${at}`);
    }
  }
});

test('a fault in a callback changes nothing', async () => {
  const bad = () => { throw new Error('x'); };
  const c = new Connection({ url: '/ws', onState: bad, onMessage: bad, onInvalid: bad, retryHint: bad });
  c.start();
  await settle();
  last().open();
  last().receive({});
  last().receive('{');
  last().end();
  assert.equal(c.state.state, 'waiting');
  await pass(3_000);
  assert.equal(dials(), 2);
  assert.ok(page.reported.length >= 5);
  page.reported.length = 0;
});

// ---- the ticket call

const answer = (status, body, headers = {}) => ({ ok: status < 300, status, headers: new Headers(headers), json: async () => body });

test('what the ticket call is refused with', async () => {
  Math.random = () => 0;
  for (const [status, header, want] of [
    [401, '', 'stopped login'], [403, '', 'stopped refused'], [404, '', 'stopped refused'], [400, '7', 'stopped refused'],
    [429, '7', 'waiting 7'], [503, '12', 'waiting 12'], [503, new Date(1_000_000 + 20_000).toUTCString(), 'waiting 20'],
    [500, '', 'waiting 1'], [502, 'soon', 'waiting 1'], [503, '-5', 'waiting 1'], [503, '99999999999999', 'waiting 86400'], [408, '3', 'waiting 3'],
  ]) {
    uninstall();
    page = install();
    Math.random = () => 0;
    globalThis.fetch = async () => answer(status, {}, header ? { 'Retry-After': header } : {});
    const w = watch({ credential: ticket('/ticket') });
    const c = new Connection(w.options);
    c.start();
    await settle();
    await settle();
    const s = c.state;
    assert.equal(`${s.state}${s.cause ? ` ${s.cause}` : ''}${s.seconds ? ` ${s.seconds}` : ''}`, want, `${status} ${header}`);
    c.stop();
  }
});

test('Retry-After is a floor, and the jitter comes on top', async () => {
  const seen = new Set();
  for (const random of [0, 0.5, 0.9]) {
    Math.random = () => random;
    const c = new Connection({ url: '/ws', credential: () => { throw new Refused(503, 20_000); } });
    c.start();
    await settle();
    seen.add(c.state.seconds);
    page.show(true); // neither a glance nor a network shortens it
    page.online(true);
    assert.ok(c.state.seconds >= 20);
    c.stop();
  }
  assert.deepEqual([...seen], [20, 23, 25]);
});

test('the ticket call follows nowhere', async () => {
  const calls = [];
  globalThis.fetch = async (url, init) => { calls.push([String(url), init]); return answer(200, { ticket: 'a b&c' }); };
  const give = ticket('/ticket', ({ renew }) => ({ headers: { 'X-Renew': String(renew) }, redirect: 'follow', method: 'GET' }));
  const c = new Connection({ url: '/ws?room=1#x', credential: give });
  c.start();
  await settle();
  await settle();
  const [url, init] = calls[0];
  assert.deepEqual([url, init.method, init.redirect, init.credentials, init.headers['X-Renew']], ['https://app.example.com/ticket', 'POST', 'error', 'same-origin', 'false']);
  assert.ok(init.signal instanceof AbortSignal);
  assert.equal(last().url, 'wss://app.example.com/ws?room=1&ticket=a+b%26c');
});

test('an answer without a ticket is a fault that may pass', async () => {
  for (const body of [{}, { ticket: 7 }, { ticket: '' }, null]) {
    globalThis.fetch = async () => answer(200, body);
    const c = new Connection({ url: '/ws', credential: ticket('/ticket') });
    c.start();
    await pass(10);
    assert.equal(c.state.state, 'waiting');
    c.stop();
  }
  assert.equal(dials(), 0);
});

test('retryAfter', () => {
  for (const [header, want] of [[null, 0], ['', 0], ['3', 3_000], [' 3 ', 3_000], ['0', 0], ['x', 0], ['1e9', 0], ['5.5', 0], ['-1', 0], ['9'.repeat(400), 86_400_000]]) {
    assert.equal(retryAfter(header), want, String(header));
  }
});
