import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';
import { Connection, ticket } from '../wsguard.js';
import { FakeSocket, install, last, pass, settle, uninstall, watch } from './fake.js';

let page;
beforeEach(() => { page = install(); });
afterEach(() => {
  assert.deepEqual(page.reported, []);
  uninstall();
});

test('which URLs it takes', () => {
  const cases = [
    ['https://app.example.com/', '/ws', true], ['https://app.example.com/', 'https://app.example.com/ws', true],
    ['https://app.example.com/', 'wss://api.example.com/ws', true], ['https://app.example.com/', 'ws://app.example.com/ws', false],
    ['https://app.example.com/', 'http://app.example.com/ws', false], ['https://app.example.com/', 'ws://127.0.0.1:7777/', true],
    ['https://app.example.com/', 'ws://127.0.0.1.evil.example/', false], ['https://app.example.com/', 'ws://localhost.evil.example/', false],
    ['http://localhost:8080/', '/ws', true], ['http://intranet/', '/ws', true],
    [null, 'wss://app.example.com/ws', true], [null, 'ws://app.example.com/ws', false], [null, 'ws://[::1]:8080/ws', true], [null, '/ws', false],
    ['https://app.example.com/', 'ftp://app.example.com/', false], ['https://app.example.com/', 'javascript:alert(1)', false],
    ['https://app.example.com/', 'wss://user:pass@app.example.com/', false], ['https://app.example.com/', 'wss://user@app.example.com/', false],
    ['https://app.example.com/', '/ws?token=x', false], ['https://app.example.com/', '/ws?Access_Token=x', false], ['https://app.example.com/', '/ws?jwt', false],
    ['https://app.example.com/', '/ws?room=1&tokens=3', true],
  ];
  for (const [href, url, ok] of cases) {
    uninstall();
    page = install(href);
    if (ok) assert.doesNotThrow(() => new Connection({ url }), `${url} on ${href}`);
    else assert.throws(() => new Connection({ url }), TypeError, `${url} on ${href}`);
  }
});

test('a ticket is not asked for in clear text', async () => {
  globalThis.fetch = () => assert.fail('it was asked for');
  await assert.rejects(ticket('http://app.example.com/ticket')({}), TypeError);
});

test('a credential does not lead to another server', async () => {
  for (const url of ['wss://evil.example/ws', 'ws://app.example.com/ws', 'wss://app.example.com:8443/ws', '//evil.example/ws', 'https://evil.example', 'wss://app.example.com.evil.example/',
    'wss://u@app.example.com/ws', '/ws?token=x', 'http://[', 'data:,x', '\\\\evil.example/ws']) {
    const w = watch({ credential: () => ({ url }) });
    const c = new Connection(w.options);
    c.start();
    await settle();
    assert.deepEqual([c.state.state, c.state.cause], ['stopped', 'address'], url);
  }
  assert.equal(FakeSocket.all.length, 0);
  for (const [url, want] of [['/shard/7?x=1', 'wss://app.example.com/shard/7?x=1'], ['https://app.example.com/b', 'wss://app.example.com/b'], ['wss://app.example.com:443/c#d', 'wss://app.example.com/c']]) {
    const c = new Connection({ url: '/ws', credential: () => ({ url }) });
    c.start();
    await settle();
    assert.equal(last().url, want);
    c.stop();
  }
});

test('a credential does not lead down to clear text from a page in clear text', async () => {
  uninstall();
  page = install('http://app.example.com/');
  for (const url of ['ws://app.example.com/ws', 'http://app.example.com/ws']) {
    const c = new Connection({ url: 'wss://app.example.com/ws', credential: () => ({ url }) });
    c.start();
    await settle();
    assert.equal(c.state.cause, 'address', url);
  }
  assert.equal(FakeSocket.all.length, 0);
});

test('the address is fixed when the connection is made', async () => {
  const url = new URL('https://app.example.com/ws');
  const c = new Connection({ url });
  url.host = 'evil.example';
  globalThis.location.href = 'https://evil.example/';
  c.start();
  await settle();
  assert.equal(last().url, 'wss://app.example.com/ws');
});

test('a token goes into a subprotocol, never into the URL', async () => {
  for (const protocols of ['chat', ['chat'], ['chat', 'chat2']]) {
    const c = new Connection({ url: '/ws', protocols, credential: () => ({ token: 'ey.J-_~' }) });
    c.start();
    await settle();
    assert.deepEqual(last().protocols, [...[protocols].flat(), 'bearer.ey.J-_~']);
    assert.equal(last().url, 'wss://app.example.com/ws');
    c.stop();
  }
});

test('a credential that cannot be used is not left out', async () => {
  const secret = 's3cret token';
  const loop = {};
  loop.loop = loop;
  for (const given of ['a ticket', 7, ['x'], { tickt: 'x' }, { ticket: 7 }, { ticket: '' }, { ticket: undefined }, { token: null }, { token: secret }, { token: 'ok', extra: 1 }, { first: loop }, { first: 1n }]) {
    const n = FakeSocket.all.length;
    const c = new Connection({ url: '/ws', protocols: ['chat'], credential: () => given });
    c.start();
    await settle();
    assert.deepEqual([c.state.state, c.state.cause, FakeSocket.all.length], ['stopped', 'credential', n], String(Object.keys(given)));
    assert.ok(!JSON.stringify(c.state).includes('s3cret'));
  }
  const lonely = new Connection({ url: '/ws', credential: () => ({ token: 'ok' }) }); // a browser would fail any answer
  lonely.start();
  await settle();
  assert.equal(lonely.state.cause, 'credential');
  for (const given of [undefined, null, {}]) {
    const c = new Connection({ url: '/ws', credential: () => given });
    c.start();
    await settle();
    assert.equal(c.state.state, 'connecting');
    c.stop();
  }
});

test('an option that does not exist or does not fit is an error', () => {
  for (const options of [
    { checkIncomming: () => true }, { constructor: 1 }, { baseDelay: 0 }, { baseDelay: '5' }, { baseDelay: NaN }, { baseDelay: -1 }, { maxDelay: Infinity },
    { baseDelay: 5_000, maxDelay: 1_000 }, { stableAfter: 0 }, { timeout: 0 }, { queueMessages: -1 }, { queueBytes: NaN }, { pace: -1 },
    { checkIncoming: {} }, { checkOutgoing: 'x' }, { decode: null }, { verdict: null }, { credential: 'x' }, { onMessage: 'x' }, { onState: {} },
    { heartbeat: { evry: 1 } }, { heartbeat: { every: 0 } }, { heartbeat: { timeout: 0 } }, { heartbeat: { isAnswer: 1 } },
  ]) assert.throws(() => new Connection({ url: '/ws', ...options }), TypeError, JSON.stringify(options));
  assert.throws(() => new Connection({}), TypeError);
  assert.doesNotThrow(() => new Connection({ url: '/ws', credential: null, onState: null, heartbeat: null, decode: undefined }));
});

test('the texts are the page\'s, and no reason of a server reaches what it should not', async () => {
  const w = watch({ texts: { draining: 'Neustart.', 4001: 'Eigener Code.', closed: 'Zu.' } });
  const c = new Connection(w.options);
  for (const [code, reason, want] of [[1012, 'draining', 'Neustart.'], [4001, 'own', 'Eigener Code.'], [4002, '', 'Zu.'], [1006, '', 'The connection was lost without a word.'],
    [4002, 'constructor', 'Zu.'], [4002, '__proto__', 'Zu.']]) {
    c.start();
    await settle();
    last().open();
    last().end(code, reason);
    assert.equal(c.state.why, want);
  }
  c.stop();
});

test('nothing is logged, kept or sent elsewhere', () => {
  const source = readFileSync(new URL('../wsguard.js', import.meta.url), 'utf8');
  for (const bad of ['console', 'localStorage', 'sessionStorage', 'indexedDB', 'cookie', 'innerHTML', 'eval(', 'Function(', 'import(', 'postMessage', 'sendBeacon', 'XMLHttpRequest']) {
    assert.ok(!source.includes(bad), bad);
  }
  assert.equal(source.match(/fetch\(/g).length, 1);
  assert.equal(source.match(/new WebSocket\(/g).length, 1);
  assert.ok(!/^import /m.test(source));
});

test('a state says nothing of the credential', async () => {
  const w = watch({ protocols: ['chat'], credential: () => ({ ticket: 's3cret', token: 's3cret', first: 's3cret' }) });
  const c = new Connection(w.options);
  c.start();
  await settle();
  last().open();
  last().end(1012, 'draining');
  await pass(6_000);
  last().end();
  c.stop();
  assert.ok(!JSON.stringify([w.states, c]).includes('s3cret'));
});
