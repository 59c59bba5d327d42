// The figures of both guards, for an operator. They come from the handlers of
// package operator, which ask the server's login who calls them.

import { $, el, replace } from './dom.js';

const guards = ['chat', 'lab'];
const every = 2_000;

let timer = 0;

// figures shows or hides the button.
export function figures(allowed) {
  $('figures-open').hidden = !allowed;
  if (!allowed) $('figures').close();
}

$('figures-open').addEventListener('click', () => {
  $('figures').showModal();
  refresh();
});
$('figures-close').addEventListener('click', () => $('figures').close());
$('figures').addEventListener('close', () => clearTimeout(timer));

// ask returns the answers of both guards to a GET, with the guard's name in each entry.
async function ask(path, list) {
  const all = await Promise.all(guards.map(async (guard) => {
    const res = await fetch(`/operator/${guard}${path}`);
    const answer = await res.json();
    if (!res.ok) throw new Error(`The server refuses the figures: ${answer.error}`);
    return answer[list].map((entry) => ({ guard, ...entry }));
  }));
  return all.flat();
}

async function refresh() {
  clearTimeout(timer);
  try {
    const [sessions, limits, fullest, offenders, refusals] = await Promise.all([
      ask('/sessions?limit=50', 'sessions'), ask('/limits', 'limits'), ask('/limits', 'fullest'),
      ask('/offenders', 'offenders'), ask('/refusals?limit=20', 'refusals'),
    ]);
    table('figures-sessions', ['guard', 'name', 'client', 'in', 'out', ''],
      sessions.map((s) => [s.guard, s.subject, s.client, s.messages_in, s.messages_out, kick(s)]));
    table('figures-limits', ['guard', 'limit', 'of', 'used', 'of at most'],
      [...limits, ...fullest].filter((l) => l.max > 0).map((l) => [l.guard, l.name, l.of ?? '', l.used, l.max]));
    table('figures-offenders', ['guard', 'client', 'of', 'reason', 'count'],
      offenders.map((o) => [o.guard, o.client, o.of, o.reason ?? '', o.count]));
    refusals.sort((a, b) => b.time.localeCompare(a.time));
    table('figures-refusals', ['guard', 'at', 'reason', 'client', 'name', 'detail'],
      refusals.map((r) => [r.guard, new Date(r.time).toLocaleTimeString(), r.reason, r.client ?? '', r.subject ?? '', r.detail ?? '']));
    $('figures-error').textContent = '';
  } catch (err) {
    $('figures-error').textContent = err instanceof TypeError ? 'The server cannot be reached.' : err.message;
  }
  if ($('figures').open) timer = setTimeout(refresh, every);
}

// kick returns the button that ends a session.
function kick(session) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'small';
  button.textContent = 'Kick';
  button.dataset.key = `${session.guard} ${session.id}`;
  button.setAttribute('aria-label', `Kick ${session.subject ?? session.client}`);
  button.addEventListener('click', async () => {
    button.disabled = true;
    try {
      const res = await fetch(`/operator/${session.guard}/kick`, {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ id: session.id }),
      });
      await res.text(); // an answer that is not read counts as a failed request
    } catch { /* refresh says so */ }
    refresh();
  });
  return button;
}

// table shows rows. All that is not an element goes in as text. On a phone, the label
// of a cell stands in it.
function table(id, head, rows) {
  if (rows.length === 0) {
    $(id).replaceChildren(el('tr', '', el('td', '', 'none')));
    return;
  }
  replace($(id), el('thead', '', el('tr', '', ...head.map((text) => el(text ? 'th' : 'td', '', text)))),
    el('tbody', '', ...rows.map((cells) => el('tr', '', ...cells.map((cell, i) => {
      const td = el('td', '', cell instanceof Node ? cell : String(cell ?? ''));
      if (head[i]) td.dataset.label = head[i];
      return td;
    })))));
}
