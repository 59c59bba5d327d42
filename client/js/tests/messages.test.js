import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Connection, retryHint } from '../wsguard.js';
import { FakeSocket, install, last, pass, settle, uninstall, watch } from './fake.js';

let page;
beforeEach(() => { page = install(); });
afterEach(() => {
  assert.deepEqual(page.reported, []);
  uninstall();
});

async function started(more) {
  const w = watch(more);
  w.connection = new Connection(w.options);
  w.connection.start();
  await settle();
  return w;
}

// outcome says how a promise of send has ended so far.
function outcome(promise) {
  const o = {};
  promise.then((r) => Object.assign(o, r));
  return o;
}

test('messages that are sent while it waits go out in order, at a pace', async () => {
  const { connection: c } = await started();
  const results = [];
  for (let i = 0; i < 5; i++) results.push(outcome(c.send(i)));
  last().open();
  assert.deepEqual(last().sent, []);
  await pass(100);
  assert.deepEqual(last().json, [0]);
  results.push(outcome(c.send(5))); // behind those that wait, and no faster
  results.push(outcome(c.send(6)));
  assert.deepEqual(last().json, [0]);
  await pass(1_000);
  assert.deepEqual(last().json, [0, 1, 2, 3, 4, 5, 6]);
  results.push(outcome(c.send(7)));
  assert.deepEqual(last().json, [0, 1, 2, 3, 4, 5, 6, 7]);
  await settle();
  assert.ok(results.every((r) => r.sent === true));
});

test('a server that accepts only to say no gets nothing that waits', async () => {
  const { connection: c } = await started();
  const result = outcome(c.send('x'));
  last().open();
  last().end(3000, 'unauthenticated');
  await settle();
  assert.deepEqual(result, {});
  await pass(5_000);
  last().open();
  await pass(200);
  assert.deepEqual([result.sent, FakeSocket.all[0].sent, last().json], [true, [], ['x']]);
});

test('what the page sends when it opens goes before what has waited', async () => {
  const w = await started({ onState: (s) => { if (s.state === 'open') w.connection.send({ type: 'join' }); }, credential: () => ({ first: { type: 'auth' } }) });
  w.connection.send({ type: 'say' });
  await settle();
  last().open();
  assert.deepEqual(last().json, [{ type: 'auth' }, { type: 'join' }]);
  await pass(200);
  assert.deepEqual(last().json[2], { type: 'say' });
});

test('a connection that closes gets nothing, and what is sent meanwhile waits for the next', async () => {
  const { connection: c } = await started({ heartbeat: { every: 1_000, timeout: 60_000, message: 'beat' } });
  const queued = [outcome(c.send('a')), outcome(c.send('b'))];
  last().open();
  await pass(150); // b is still in the queue
  const first = last();
  first.closing();
  const now = outcome(c.send('c', { queue: false }));
  queued.push(outcome(c.send('d')));
  await pass(3_000); // the queue and the heartbeat have had their turns
  assert.equal(c.state.state, 'open');
  assert.deepEqual([first.json, first.red], [['a'], 0]);
  assert.deepEqual([now, queued[1], queued[2]], [{ sent: false, why: 'not_connected' }, {}, {}]);
  first.end(1012, 'draining');
  await pass(6_000);
  last().open();
  await pass(500);
  assert.notEqual(last(), first);
  assert.deepEqual([last().json, queued.map((r) => r.sent)], [['b', 'd'], [true, true, true]]);
});

test('a connection that closes while the page is told that it is open gets nothing', async () => {
  const w = await started({ onState: (s) => { if (s.state === 'open') { last().closing(); w.result = outcome(w.connection.send('a')); } } });
  last().open();
  await pass(500);
  assert.deepEqual([last().sent, last().red, w.result], [[], 0, {}]);
});

test('the queue is bounded, in messages and in bytes', async () => {
  const { connection: c } = await started({ queueMessages: 3, queueBytes: 12 });
  const results = ['a', 'b', 'ä'.repeat(8), 'c', 'd'].map((m) => outcome(c.send(m)));
  await settle();
  assert.deepEqual(results, [{}, {}, { sent: false, why: 'queue_full' }, {}, { sent: false, why: 'queue_full' }]);
  last().open();
  await pass(1_000);
  assert.deepEqual(last().json, ['a', 'b', 'c']);
  last().end();
  const again = ['d', 'e', 'f', 'g'].map((m) => outcome(c.send(m))); // there is room again
  await settle();
  assert.deepEqual(again, [{}, {}, {}, { sent: false, why: 'queue_full' }]);
});

test('without a queue a message is sent now or not', async () => {
  const { connection: c } = await started();
  assert.deepEqual(await c.send('x', { queue: false }), { sent: false, why: 'not_connected' });
  last().open();
  assert.deepEqual(await c.send('y', { queue: false }), { sent: true });
  const none = await started({ queueMessages: 0 });
  assert.deepEqual(await none.connection.send('x'), { sent: false, why: 'queue_full' });
});

test('it tells what was not sent when it stops', async () => {
  for (const end of [(c) => c.stop(), () => last().end(1008, 'replaced')]) {
    const { connection: c } = await started({ pace: 1_000 });
    const results = [outcome(c.send('a')), outcome(c.send('b'))];
    last().open();
    await pass(1_000);
    end(c);
    await settle();
    assert.deepEqual(results, [{ sent: true }, { sent: false, why: 'stopped' }]);
    assert.deepEqual(await c.send('c'), { sent: false, why: 'not_connected' });
  }
});

test('a message that is still in the browser when the connection is lost was not sent', async () => {
  const { connection: c } = await started();
  const socket = last();
  socket.open();
  const results = [outcome(c.send('passed'))];
  socket.stuck = true;
  results.push(outcome(c.send('stuck')), outcome(c.send('too')));
  await pass(200);
  assert.deepEqual(results, [{ sent: true }, {}, {}]);
  socket.bufferedAmount -= 7; // with its quotes
  await pass(200);
  assert.deepEqual(results[1], { sent: true });
  socket.end(1006);
  await settle();
  assert.deepEqual(results[2], { sent: false, why: 'lost' });
  await pass(3_000);
  last().open();
  await pass(1_000);
  assert.deepEqual(last().sent, []); // nothing is sent twice
});

test('a message keeps the value that it had when it was sent', async () => {
  const { connection: c } = await started({ encode: (m) => m });
  const view = new Uint8Array([0, 1, 2]).subarray(1);
  c.send(view);
  c.send(view.buffer);
  view[0] = 9;
  last().open();
  await pass(500);
  assert.deepEqual(last().sent.map((d) => [...d]), [[1, 2], [0, 1, 2]]);
});

test('outgoing messages are checked before they are sent', async () => {
  const checks = [];
  const { connection: c } = await started({
    checkOutgoing: (m, data) => {
      checks.push([m, data]);
      if (m.bad === 'throws') { m.bad = 'thrown'; throw new Error('in the check'); }
      return m.bad === undefined ? true : m.bad;
    },
  });
  last().open();
  assert.deepEqual(await c.send({}), { sent: true });
  assert.deepEqual(checks[0], [{}, '{}']);
  for (const [bad, detail] of [['too long', 'too long'], [false, 'refused by the check'], [1, 'refused by the check'], [null, 'refused by the check'],
    [Promise.resolve(true), 'refused by the check'], ['throws', 'refused by the check']]) {
    assert.deepEqual(await c.send({ bad }), { sent: false, why: 'invalid', detail });
  }
  const loop = {};
  loop.loop = loop;
  for (const m of [undefined, () => {}, loop, 1n]) assert.equal((await c.send(m)).why, 'invalid');
  assert.deepEqual(last().json, [{}]);
  assert.deepEqual(page.reported.splice(0), ['in the check']);
});

test('incoming messages are checked before the page gets them', async () => {
  const w = await started({ checkIncoming: (m) => (m.type === 'said' ? true : m.type === 'none' ? undefined : 'unknown type') });
  last().open();
  last().receive({ type: 'said' });
  last().receive({ type: 'evil' });
  last().receive({ type: 'none' });
  last().receive('{');
  last().receive(null);
  assert.deepEqual(w.messages, [{ type: 'said' }]);
  assert.deepEqual(w.invalid, [
    { why: 'unknown type', data: '{"type":"evil"}' }, { why: 'refused by the check', data: '{"type":"none"}' },
    { why: 'cannot be decoded', data: '{' }, { why: 'refused by the check', data: 'null' },
  ]);
  assert.equal(w.connection.state.state, 'open');
  assert.equal(page.reported.splice(0).length, 1); // the check does not expect null
});

test('a check that ends the connection is the last', async () => {
  const w = await started({ checkIncoming: () => { w.connection.stop(); return true; } });
  last().open();
  last().receive({});
  assert.deepEqual(w.messages, []);
});

test('a notice about a rate holds what the page sends next', async () => {
  const w = await started();
  last().open();
  w.connection.send(1);
  last().receive({ error: 'rate_limited', retry_after_ms: 700 });
  assert.deepEqual(w.messages, [{ error: 'rate_limited', retry_after_ms: 700 }]);
  const held = [outcome(w.connection.send(2)), outcome(w.connection.send(3))];
  assert.deepEqual(await w.connection.send('now', { queue: false }), { sent: false, why: 'must_wait' });
  await pass(650);
  assert.deepEqual([last().json, held], [[1], [{}, {}]]);
  await pass(300);
  assert.deepEqual([last().json, held], [[1, 2, 3], [{ sent: true }, { sent: true }]]);
  last().receive({ error: 'rate_limited', retry_after_ms: 1e15 });
  w.connection.send(4);
  await pass(61_000, 1_000);
  assert.deepEqual(last().json, [1, 2, 3, 4]);
});

test('retry hints of each protocol', () => {
  for (const [m, want] of [
    [{ error: 'rate_limited', retry_after_ms: 50 }, 50],
    [{ error: 'rate_limited' }, 0],
    [{ error: 'forbidden', retry_after_ms: 50 }, 0],
    [{ jsonrpc: '2.0', id: 7, error: { code: -32029, message: '', data: { reason: 'rate_limited', retry_after: 1.5 } } }, 1_500],
    [{ id: '1', type: 'error', payload: [{ message: '', extensions: { code: 'RATE_LIMITED', retryAfter: 2 } }] }, 2_000],
    [{ id: '1', type: 'error', payload: [] }, 0],
    [{ type: 'error', payload: 'x' }, 0],
    [{ warning: 'rate_limit' }, 0],
    [null, 0], [undefined, 0], [7, 0], ['rate_limited', 0], [[], 0], [{ error: null }, 0],
    [{ error: 'rate_limited', retry_after_ms: -1 }, 0], [{ error: 'rate_limited', retry_after_ms: 'x' }, 0], [{ error: 'rate_limited', retry_after_ms: Infinity }, 0],
  ]) assert.equal(retryHint(m), want, JSON.stringify(m));
});

test('a connection that was too fast is slower next time', async () => {
  const { connection: c } = await started();
  last().open();
  last().end(1008, 'rate_limited');
  for (let i = 0; i < 4; i++) c.send(i);
  await pass(21_000, 100);
  last().open();
  await pass(500);
  assert.deepEqual(last().json, [0, 1]); // every 200 ms
});
