// The right-hand side: the buttons that break the rules, and what the guards say.

import { $, button, el } from './dom.js';
import { curlLine, experiments } from './lab.js';
import { words } from './words.js';

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

// ---------------------------------------------------------------- events

// What the kinds of events are called, and what happened where there is no reason.
const KINDS = {
  accept: ['accepted', 'request for a connection'], open: ['opened', 'ticket accepted'], close: ['closed', ''],
  refusal: ['refused', ''], violation: ['violation', ''], warning: ['warning', ''], ticket: ['ticket', 'given out'],
  refresh: ['renewed', 'login'], ban: ['banned', ''], lift: ['lifted', 'ban'], revoke: ['revoked', 'login ended'],
  restore: ['restored', 'login allowed again'], sign_out: ['signed out', 'login ended'], reconfigure: ['changed', 'configuration'],
  spike: ['spike', 'far more than usual'], spike_over: ['spike over', 'as usual again'],
};
let unread = 0; // events, while the phone shows the chat
let since = 0;

// clear empties the list, because the server sends the recent events again.
export function clear() {
  since = Date.now();
  $('events').replaceChildren();
}

// onEvents shows events, and marks those of the user.
export function onEvents(m, me) {
  for (const e of m.events) {
    const [kind, done] = KINDS[e.kind] ?? [e.kind, ''];
    const what = e.kind === 'open' ? done : [e.number || '', e.reason ?? ''].filter(Boolean).join(' ') || done;
    const time = el('time', '', clock.format(e.at));
    const li = el('li', `event ${e.kind}`, el('span', 'kind', kind), el('span', 'what', what),
      el('span', 'from', e.subject ?? 'nobody yet', ` · ${e.guard}`), time);
    const means = e.kind === 'open' ? '' : words(e.reason, e.number);
    if (means) li.querySelector('.from').append(` · ${means}`);
    if (e.count > 1) li.querySelector('.what').append(el('span', 'times', `× ${e.count}`));
    if (e.subject === me) li.classList.add('mine');
    $('events').prepend(li);
  }
  if (m.missed) $('events').prepend(el('li', 'event', el('span', 'what', `and ${m.missed} more`)));
  while ($('events').childElementCount > 100) $('events').lastElementChild.remove();
  $('events-empty').hidden = true;
  if ($('app').dataset.view === 'chat') unread += m.events.filter((e) => e.at >= since).length;
  $('tab-count').textContent = unread > 99 ? '99+' : unread;
  $('tab-count').hidden = !unread;
}

// ---------------------------------------------------------------- the lab

export function lab(drill) {
  for (const x of experiments({ drill })) {
    const result = el('p', 'result');
    result.setAttribute('role', 'status');
    const run = button('', x.name, async () => {
      result.className = 'result running';
      result.textContent = 'Working…';
      let r;
      try {
        r = await x.run((progress) => { result.textContent = progress; });
      } catch (err) {
        r = { ok: false, text: err.message };
      }
      result.className = r.ok ? 'result good' : 'result bad';
      result.textContent = `${r.ok ? '✓' : '✗'} ${r.text}`;
      if (r.means) result.append(' ', el('span', 'means', r.means));
    });
    const li = el('li', '', run, el('div', '', el('p', 'should', x.should), result));
    li.id = `lab-${x.id}`;
    $('experiments').append(li);
  }
}

$('curl').textContent = curlLine();
$('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(curlLine());
    $('copy').textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren($('curl')); // to be copied by hand
    $('copy').textContent = 'Selected';
  }
  setTimeout(() => { $('copy').textContent = 'Copy'; }, 2_000);
});

// On a phone there is room for one of the two.
for (const tab of document.querySelectorAll('.tabs button')) {
  tab.addEventListener('click', () => {
    $('app').dataset.view = tab.dataset.view;
    for (const t of document.querySelectorAll('.tabs button')) t.setAttribute('aria-pressed', String(t === tab));
    if (tab.dataset.view === 'lab') {
      unread = 0;
      $('tab-count').hidden = true;
    }
  });
}
