import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { TEXTS, verdict } from '../wsguard.js';

const read = (name) => readFileSync(new URL(name, import.meta.url), 'utf8');

// kind says in a word what the client does after a close.
function kind({ act, min, slower, spread }) {
  if (act !== 'retry') return act;
  if (slower) return 'slower';
  if (min > 0) return min >= 5_000 ? 'later' : 'spread';
  return spread ? 'spread' : 'retry';
}

// What the page says about each row, and what the client may do then.
const ADVICE = {
  'as the application says': ['stop'],
  yes: ['retry'],
  'no: it is broken': ['stop'],
  no: ['stop'],
  'later, and slower': ['slower'],
  'no: a newer connection of the subject has its place': ['stop'],
  'yes, with backoff': ['retry', 'later'],
  'yes, after a random delay': ['spread'],
  'once, with a fresh credential': ['login'],
  'when there is something to say': ['rest'],
};

// rows returns the rows of the table after a heading, as arrays of cells.
function rows(page, heading) {
  const part = page.split(`\n## ${heading}\n`)[1].split('\n## ')[0];
  return part.split('\n').filter((l) => /^\| \d/.test(l)).map((l) => l.split('|').slice(1, -1).map((c) => c.trim()));
}

const codes = (cell) => [...cell.matchAll(/`(\w+)`/g)].map((m) => m[1]);

test('each row of docs/close-codes.md has a decision', () => {
  let n = 0;
  for (const [code, reasons, , advice] of rows(read('../../../docs/close-codes.md'), 'After it')) {
    assert.ok(Object.hasOwn(ADVICE, advice), `nobody has decided what ${JSON.stringify(advice)} means to the client`);
    for (const reason of reasons === '(none)' ? [''] : codes(reasons)) {
      n++;
      const got = kind(verdict(Number(code), reason));
      assert.ok(ADVICE[advice].includes(got), `${code} ${reason}: ${got}, and the page says ${advice}`);
      if (!reason) continue;
      // A decision of its own, and not that of the code: Config.CloseCodes changes codes.
      for (const other of [1000, 1001, 1008, 4400, 4499]) assert.equal(kind(verdict(other, reason)), got, `${other} ${reason}`);
    }
  }
  assert.ok(n > 35, `${n} reasons`);
});

test('the codes of reason.GraphQL change no decision', () => {
  for (const [, , reasons] of rows(read('../../../docs/close-codes.md').replace(/^\| (connects again|gives up) /gm, '| 1 '), 'graphql-ws')) {
    for (const reason of codes(reasons)) assert.notEqual(kind(verdict(4999, reason)), undefined);
  }
  assert.equal(kind(verdict(4403, 'expired')), 'login');
  assert.equal(kind(verdict(1001, 'draining')), 'spread');
});

test('codes without a reason that is known', () => {
  for (const [code, want] of Object.entries({
    1000: 'stop', 1001: 'retry', 1002: 'stop', 1003: 'stop', 1005: 'stop', 1006: 'retry', 1007: 'stop', 1008: 'stop', 1009: 'stop', 1010: 'stop',
    1011: 'retry', 1012: 'spread', 1013: 'later', 1014: 'retry', 3000: 'login', 3003: 'stop', 3008: 'retry', 4000: 'stop', 4999: 'stop',
  })) {
    for (const reason of ['', 'drill', 'constructor', '__proto__', 'toString', '1006']) {
      assert.equal(kind(verdict(Number(code), reason)), want, `${code} ${reason}`);
    }
  }
});

test('texts are words for people', () => {
  for (const [key, text] of Object.entries(TEXTS)) assert.match(text, /^[A-Z].*\.$/, key);
});
