import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as module from '../wsguard.js';

const read = (name) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8');
const source = read('wsguard.js');
const types = read('wsguard.d.ts');
const readme = read('README.md');

// defaults returns the names and values of an object literal in the source.
function defaults(name) {
  const body = source.match(new RegExp(`const ${name} = \\{\\n?(.*?)\\n?\\};`, 's'))[1];
  return [...body.matchAll(/(?:^|[\s,])(\w+)(?:: ([^,]+))?(?=,|\s*$)/g)].map((m) => [m[1], m[2] ?? m[1]]);
}

test('the package has what it names, and depends on nothing', () => {
  const p = JSON.parse(read('package.json'));
  for (const file of [...p.files, p.types, p.exports['.'].types, p.exports['.'].default]) assert.ok(existsSync(new URL(`../${file}`, import.meta.url)), file);
  for (const kind of ['dependencies', 'devDependencies', 'peerDependencies', 'optionalDependencies']) assert.equal(p[kind], undefined);
  assert.ok(!p.scripts.install && !p.scripts.postinstall && !p.scripts.prepare);
});

test('each export has a type and is described', () => {
  const names = Object.keys(module);
  assert.deepEqual(names.sort(), ['Connection', 'Refused', 'TEXTS', 'retryAfter', 'retryHint', 'ticket', 'verdict']);
  for (const name of names) {
    assert.match(types, new RegExp(`export (class|function|const) ${name}\\b`), name);
    assert.ok(readme.includes(`\`${name}`), `README.md does not have ${name}`);
  }
});

test('each option has a type, and stands in README.md with its default', () => {
  const all = [...defaults('DEFAULTS'), ...defaults('HEARTBEAT')];
  assert.ok(all.length > 25, `${all.length} options`);
  for (const [name, value] of all) {
    assert.match(types, new RegExp(`^  ${name}\\??: `, 'm'), name);
    const row = readme.split('\n').find((line) => new RegExp(`^\\| \`(heartbeat\\.)?${name}\``).test(line));
    assert.ok(row, `README.md has no row for ${name}`);
    const number = value.replaceAll('_', '').replace('256 << 10', '262144');
    if (/^\d+$/.test(number)) {
      assert.ok(row.replaceAll(',', '').includes(`| ${number}`), `${name}: ${row}`);
      const doc = types.split('\n').find((line, i, lines) => lines[i + 1]?.startsWith(`  ${name}?: `));
      assert.ok(doc.replaceAll(',', '').includes(` ${number}`), `${name}: ${doc}`);
    }
  }
});

test('each state, cause and outcome has a type and is described', () => {
  const found = (re) => new Set([...source.matchAll(re)].map((m) => m[1]));
  const causes = new Set(['new', 'page', 'login', 'closed', 'idle', 'refused', 'address', 'credential']);
  for (const cause of found(/#end\('(\w+)'/g)) assert.ok(causes.has(cause), cause);
  for (const state of found(/state: '(\w+)'/g)) assert.ok(types.includes(`'${state}'`), state);
  for (const cause of causes) assert.ok(types.includes(`'${cause}'`) && readme.includes(`\`${cause}\``), cause);
  const outcomes = new Set([...found(/not\((?:open \? )?'(\w+)'/g), ...found(/ : '(not_connected)'/g), ...found(/sent: false, why: '(\w+)'/g)]);
  assert.deepEqual([...outcomes].sort(), ['invalid', 'lost', 'must_wait', 'not_connected', 'queue_full', 'stopped']);
  for (const why of outcomes) assert.ok(types.includes(`'${why}'`) && readme.includes(`\`${why}\``), why);
});

test('the page about connecting shows options that exist', () => {
  const page = readFileSync(new URL('../../../docs/connecting.md', import.meta.url), 'utf8');
  for (const text of [page, readme]) {
    for (const [, code] of text.matchAll(/^```js\n(.*?)^```$/gms)) {
      for (const [, body] of code.matchAll(/new Connection\(\{\n(.*?)^\}\)/gms)) {
        for (const [, name] of body.matchAll(/^  (\w+)[:(,]/gm)) assert.ok(defaults('DEFAULTS').some(([n]) => n === name), name);
      }
    }
  }
});
