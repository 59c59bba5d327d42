import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Connection, Refused, ticket } from '../wsguard.js';
import { FakeSocket, install, pass, seeded, settle, uninstall } from './fake.js';

const CLIENTS = 1_000;
const WINDOW = 100; // ms
const MOST = 0.05 * CLIENTS; // attempts in each window

beforeEach(() => { install(); });
afterEach(() => { uninstall(); });

// busiest returns the most moments that lie within a window, wherever it begins.
function busiest(moments) {
  moments.sort((a, b) => a - b);
  let most = 0;
  for (let i = 0, j = 0; i < moments.length; i++) {
    while (moments[i] - moments[j] >= WINDOW) j++;
    most = Math.max(most, i - j + 1);
  }
  return most;
}

// storm opens 1,000 connections, ends all of them at once, and keeps the server away for a
// while. It returns when each attempt was, and how many are back in the end.
async function storm({ end, away, seed, credential, answer = (s) => s.end(1006), seconds = 90 }) {
  Math.random = seeded(seed);
  FakeSocket.onnew = (s) => { queueMicrotask(() => s.open()); };
  const attempts = [];
  let restarted = false;
  let back = 0;
  const call = credential && (() => {
    if (restarted) attempts.push(performance.now());
    if (restarted && performance.now() < back) return credential();
    return { ticket: 'x' };
  });
  const all = Array.from({ length: CLIENTS }, () => new Connection({ url: '/ws', credential: call ?? null }));
  for (const c of all) c.start();
  await settle();
  assert.equal(FakeSocket.all.length, CLIENTS);
  await pass(20_000, 5_000);
  restarted = true;
  back = performance.now() + away;
  FakeSocket.onnew = (s) => {
    if (!credential) attempts.push(s.at);
    queueMicrotask(() => (performance.now() < back ? answer(s) : s.open()));
  };
  for (const s of FakeSocket.all.slice()) end(s);
  await pass(seconds * 1_000, 20);
  const open = all.filter((c) => c.state.state === 'open').length;
  for (const c of all) c.stop();
  return { attempts, open };
}

const CASES = {
  'a restart that drains': { end: (s) => s.end(1012, 'draining'), away: 0, seconds: 10 },
  'a restart that takes 8 s': { end: (s) => s.end(1012, 'draining'), away: 8_000 },
  'a crash': { end: (s) => s.end(1006), away: 0, seconds: 10 },
  'a crash of 15 s': { end: (s) => s.end(1006), away: 15_000 },
  'an overload that says so': { end: (s) => s.end(1013, 'max_conns'), away: 0, seconds: 40 },
  'all sessions end': { end: (s) => s.end(3000, 'revoked'), away: 0, seconds: 10 },
  'all were too fast': { end: (s) => s.end(1008, 'rate_limited'), away: 0, seconds: 40 },
  'a proxy that is restarted': { end: (s) => s.end(1001), away: 3_000, seconds: 40 },
  'tickets are refused with Retry-After': { end: (s) => s.end(1012, 'draining'), away: 6_000, credential: () => { throw new Refused(503, 10_000); } },
  'tickets cannot be reached': { end: (s) => s.end(1012, 'draining'), away: 6_000, credential: () => ticket('/ticket')({}) },
  'handshakes are accepted and closed': { end: (s) => s.end(1012, 'draining'), away: 6_000, answer: (s) => { s.open(); s.end(1013, 'max_conns'); } },
};

for (const [name, what] of Object.entries(CASES)) {
  test(`1,000 clients after ${name}`, async () => {
    const { attempts, open } = await storm({ seed: 7, ...what });
    assert.ok(attempts.length >= CLIENTS, `${attempts.length} attempts`);
    assert.equal(open, CLIENTS);
    const most = busiest(attempts);
    assert.ok(most <= MOST, `${most} attempts within ${WINDOW} ms`);
  });
}

test('the measure finds a storm', () => {
  assert.equal(busiest(Array.from({ length: 1_000 }, (_, i) => i)), 100);
  assert.equal(busiest([0, 99, 100, 250]), 2);
});
