import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { Connection } from '../wsguard.js';
import { FakeSocket, install, last, pass, settle, uninstall, watch } from './fake.js';

let page;
beforeEach(() => { page = install(); });
afterEach(() => {
  assert.deepEqual(page.reported, []);
  uninstall();
});

async function opened(more) {
  const w = watch(more);
  w.connection = new Connection(w.options);
  w.connection.start();
  await settle();
  last().open();
  return w;
}

const dials = () => FakeSocket.all.length;
const probes = { message: { type: 'ping' }, isAnswer: (m) => m.type === 'pong' };

test('a server that answers stays connected', async () => {
  const w = await opened({ heartbeat: probes });
  const socket = last();
  const send = socket.send.bind(socket);
  socket.send = (data) => { send(data); socket.receive({ type: 'pong' }); };
  await pass(300_000, 500);
  assert.equal(w.connection.state.state, 'open');
  assert.equal(socket.sent.length, 10); // every 30 s
  assert.deepEqual(w.messages, []); // the page does not see the answers
});

test('a server that has fallen silent is left', async () => {
  const w = await opened({ heartbeat: probes });
  const socket = last();
  await pass(30_000, 500);
  assert.deepEqual(socket.json, [{ type: 'ping' }]);
  await pass(9_500, 500);
  assert.equal(w.connection.state.state, 'open');
  await pass(1_000, 500);
  assert.deepEqual([w.connection.state.state, w.connection.state.why], ['waiting', 'The server has fallen silent.']);
  socket.receive({ type: 'late' });
  assert.deepEqual(w.messages, []);
});

test('any message is a sign of life', async () => {
  const w = await opened({ heartbeat: probes });
  for (let i = 0; i < 10; i++) {
    last().receive({ type: 'tick' });
    await pass(20_000, 1_000);
  }
  assert.equal(w.connection.state.state, 'open');
  assert.deepEqual(last().sent, []);
});

test('a message that cannot be made is like none', async () => {
  for (const message of [() => { throw new Error('in the page'); }, () => undefined]) {
    const w = await opened({ heartbeat: { ...probes, message } });
    await pass(39_000, 500);
    assert.equal(w.connection.state.state, 'open');
    await pass(2_000, 500);
    assert.equal(w.connection.state.state, 'waiting');
    w.connection.stop();
  }
  assert.ok(page.reported.splice(0).length < 10);
});

test('without a message to send, silence is what counts', async () => {
  const w = await opened({ heartbeat: { every: 5_000, timeout: 2_000 } });
  await pass(6_500, 500);
  assert.equal(w.connection.state.state, 'open');
  await pass(1_000, 500);
  assert.equal(w.connection.state.state, 'waiting');
});

// sleeps stops the clocks of the page's timers: they come late.
function sleeps(ms) {
  mock.timers.setTime(Date.now() + ms);
}

test('after a sleep it comes back within a second', async () => {
  const w = await opened();
  await pass(5_000, 1_000);
  sleeps(3_600_000);
  await pass(5_000, 1_000);
  assert.equal(dials(), 2);
  const waiting = w.states.find((s) => s.state === 'waiting');
  assert.equal(waiting.why, 'This device was asleep or offline.');
  assert.deepEqual(w.states.filter((s) => s.state === 'waiting').map((s) => s.seconds), [3, 1]);
});

test('after a sleep it asks, if it can', async () => {
  const w = await opened({ heartbeat: probes });
  sleeps(3_600_000);
  await pass(1_000, 500);
  assert.deepEqual([last().json, w.connection.state.state], [[{ type: 'ping' }], 'open']);
  last().receive({ type: 'pong' });
  await pass(20_000, 500);
  assert.equal(w.connection.state.state, 'open');
});

test('timers that a browser delays are no sleep', async () => {
  const w = await opened();
  page.show(false);
  for (let i = 0; i < 20; i++) sleeps(65_000);
  await settle();
  assert.equal(w.connection.state.state, 'open');
});

test('a hidden page takes its time', async () => {
  const w = await opened();
  page.show(false);
  last().end(1012, 'draining');
  assert.equal(w.connection.state.seconds, 45); // 30 s to 60 s
  await pass(40_000, 1_000);
  assert.equal(dials(), 1);
  await pass(6_000, 1_000);
  assert.equal(dials(), 2);
  last().end();
  assert.equal(w.connection.state.seconds, 45);
});

test('a page that is seen again comes back at once, with jitter', async () => {
  const w = await opened();
  page.show(false);
  last().end();
  page.show(true);
  assert.equal(w.connection.state.seconds, 1);
  await pass(450);
  assert.equal(dials(), 1);
  await pass(100);
  assert.equal(dials(), 2);
});

test('a page that is seen all the time does not hammer', async () => {
  Math.random = () => 0.999;
  await opened();
  last().end();
  for (let i = 0; i < 240; i++) { // two minutes of switching tabs
    page.show(false);
    page.show(true);
    if (last().readyState === 0) last().end();
    await pass(500, 500);
  }
  assert.ok(dials() < 15, `${dials()} attempts`);
});

test('a floor of the server holds when the page is seen again', async () => {
  const w = await opened();
  page.show(false);
  last().end(1013, 'max_conns');
  page.show(true);
  page.online(true);
  assert.equal(w.connection.state.seconds, 5);
});

test('offline it takes its time, and online it comes back at once', async () => {
  const w = await opened();
  page.online(false);
  assert.equal(w.connection.state.state, 'open'); // nobody has lost it yet
  last().end();
  assert.equal(w.connection.state.seconds, 45);
  page.show(true); // to be seen does not help without a network
  assert.equal(w.connection.state.seconds, 45);
  page.online(true);
  assert.equal(w.connection.state.seconds, 1);
  await pass(600);
  assert.equal(dials(), 2);
});

test('a connection that was offline for long is not trusted', async () => {
  const w = await opened();
  page.online(false);
  await pass(30_000, 1_000);
  page.online(true);
  assert.equal(w.connection.state.state, 'open');
  page.online(false);
  await pass(100_000, 1_000);
  page.online(true);
  assert.equal(w.connection.state.state, 'waiting');
});

test('with another network it asks', async () => {
  const w = await opened({ heartbeat: probes });
  page.online(false);
  page.online(true);
  page.online(true);
  assert.deepEqual(last().json, [{ type: 'ping' }]);
  await pass(11_000, 500);
  assert.equal(w.connection.state.state, 'waiting');
});

test('without a document or a window it works too', async () => {
  for (const name of ['document', 'addEventListener', 'removeEventListener', 'navigator', 'location']) globalThis[name] = undefined;
  const c = new Connection({ url: 'wss://app.example.com/ws' });
  c.start();
  await settle();
  last().open();
  last().end();
  await pass(3_000);
  assert.equal(dials(), 2);
  c.stop();
});

test('it listens once, and leaves nothing behind', async () => {
  const w = await opened();
  assert.equal(page.listeners, 3);
  for (let i = 0; i < 5; i++) {
    last().end();
    await pass(60_000, 1_000);
    last().open();
  }
  assert.equal(page.listeners, 3);
  w.connection.stop();
  assert.equal(page.listeners, 0);
});
