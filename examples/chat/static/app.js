import { Connection, ticket } from './wsguard.js';
import { texts, verdict } from './policy.js';
import { experiments, curlLine } from './lab.js';
import { figures } from './operator.js';

const $ = (id) => document.getElementById(id);

// el builds an element. Text goes in as text: nothing that comes from a person
// or from the server is ever parsed as HTML. The Content-Security-Policy asks
// for Trusted Types, so the browser would refuse it anyway.
function el(tag, className, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children);
  return e;
}

// tint gives a name one of eight colours, always the same (FNV-1a).
function tint(name) {
  let h = 0x811c9dc5;
  for (const c of name) h = Math.imul(h ^ c.codePointAt(0), 0x01000193) >>> 0;
  return `tint${h >>> 29}`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const clockSeconds = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

// ---------------------------------------------------------------- state

let me = '';
let current = 'lobby';
let wanted = 'lobby'; // the room to show as soon as the server has let us in
let allRooms = [];
let unread = 0; // events, while the phone shows the chat
let since = 0;
const joined = new Map(); // room → {people, messages, unread}
let pending = []; // what we have said and not seen coming back

const connection = new Connection({
  url: '/ws',
  credential: ticket('/ticket'),
  verdict,
  texts,
  checkIncoming: (m) => typeof m?.type === 'string' || typeof m?.error === 'string',
  retryHint: () => 0, // the page shows what happens to those who do not wait
  onMessage,
  onState,
});

// send sends now or not at all: what it could not send the user sends again.
function send(message) {
  if (connection.state.state !== 'open') return false;
  connection.send(message, { queue: false });
  return true;
}

// ---------------------------------------------------------------- login

$('login-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const name = $('name').value.trim().normalize('NFC');
  $('login-error').textContent = '';
  try {
    const res = await fetch('/login', { method: 'POST', body: JSON.stringify({ name, key: $('key').value.trim() }) });
    if (!res.ok) throw new Error(await res.text());
  } catch (err) {
    $('login-error').textContent = err instanceof TypeError ? 'The server cannot be reached.' : err.message;
    return;
  }
  sessionStorage.setItem('name', name);
  $('key').value = '';
  forget();
  show('app');
  connection.start();
});

$('logout').addEventListener('click', async () => {
  connection.stop();
  try {
    await fetch('/logout', { method: 'POST' });
  } catch { /* the server is gone, and with it the session */ }
  forget();
  login('');
});

function forget() {
  joined.clear();
  pending = [];
  current = wanted = 'lobby';
  notice('');
  renderRooms();
  renderRoom();
}

function login(why) {
  me = '';
  banner(null);
  show('login');
  status('idle', 'not connected');
  $('login-error').textContent = why;
  $('name').value ||= sessionStorage.getItem('name') ?? '';
  $('name').focus();
}

function show(which) {
  $('login').hidden = which !== 'login';
  $('app').hidden = which !== 'app';
  $('me').hidden = which !== 'app' || !me;
}

// ---------------------------------------------------------------- connection

let before = ''; // the state that was shown last

function status(state, text) {
  document.body.dataset.state = state;
  $('status-text').textContent = text;
}

function onState(s) {
  if (s.state === 'waiting' && before === 'waiting') {
    $('banner-next').textContent = `Retrying in ${s.seconds} s`;
    return;
  }
  before = s.state;
  $('send').disabled = s.state !== 'open';
  switch (s.state) {
    case 'connecting':
      status('connecting', 'connecting…');
      if (!$('banner').hidden) banner(null, 'Connecting…', '', '');
      return;
    case 'open':
      show('app');
      status('open', 'connected');
      banner(null);
      for (const room of joined.size ? joined.keys() : ['lobby']) send({ type: 'join', room });
      return;
  }
  if (s.cause === 'page') return; // whoever has called stop says why
  if (s.cause === 'login') {
    login(me ? s.why : ''); // a first visit is no failure
    return;
  }
  show('app');
  lost();
  let what = s.code && s.code !== 1006 ? `(close code ${s.code}${s.reason ? ' ' + s.reason : ''})` : '';
  if (s.status) what = `(HTTP ${s.status})`;
  if (s.state === 'stopped') {
    status('stopped', 'disconnected');
    banner('Disconnected.', `${s.why} ${what}`, 'This page does not reconnect by itself after that.', 'Connect again');
    return;
  }
  status('waiting', 'reconnecting');
  banner('Connection lost.', `${s.why} ${what}`, `Retrying in ${s.seconds} s`, 'Retry now');
}

// banner says what is wrong, what happens next and what the user can do.
function banner(title, text = '', next = '', action = '') {
  $('banner').hidden = title === null && !text;
  $('banner-title').textContent = title ?? '';
  $('banner-text').textContent = text;
  $('banner-next').textContent = next;
  $('retry').textContent = action;
  $('retry').hidden = !action;
}

$('retry').addEventListener('click', () => connection.retry());

// ---------------------------------------------------------------- messages

function onMessage(m) {
  if (m.error) return refused(m);
  const room = joined.get(m.room);
  switch (m.type) {
    case 'welcome':
      me = m.name;
      $('my-name').textContent = me;
      $('my-name').className = `who ${tint(me)}`;
      $('me').hidden = false;
      figures(m.operator === true);
      since = Date.now();
      $('events').replaceChildren(); // the recent ones come again
      break;
    case 'rooms':
      allRooms = m.rooms;
      renderRooms();
      break;
    case 'joined':
      joined.set(m.room, { people: m.people, messages: m.history ?? [], unread: 0 });
      if (m.room === wanted) current = wanted;
      renderRooms();
      renderRoom();
      break;
    case 'left':
      joined.delete(m.room);
      if (current === m.room) current = wanted = [...joined.keys()][0] ?? 'lobby';
      renderRooms();
      renderRoom();
      break;
    case 'here':
    case 'gone':
      if (!room) break;
      room.people = room.people.filter((p) => p !== m.name);
      if (m.type === 'here') room.people = [...room.people, m.name];
      add(m.room, { aside: `${m.name} ${m.type === 'here' ? 'has come in' : 'has left'}` });
      if (m.room === current) renderPeople();
      break;
    case 'said':
      if (!room) break;
      if (m.name === me) arrived(m);
      add(m.room, m);
      break;
    case 'problem':
      notice(m.text);
      break;
    case 'events':
      onEvents(m);
      break;
  }
}

function add(name, m) {
  const room = joined.get(name);
  room.messages.push(m);
  if (room.messages.length > 200) room.messages.shift();
  if (name !== current) {
    if (!m.aside) room.unread++;
    renderRooms();
    return;
  }
  renderMessage(m);
}

// ---- what the guard refused

// A notice does not say which message it is about, but messages are judged in
// order: what has not come back a moment later was not delivered.
function refused(n) {
  const wait = n.retry_after_ms >= 1000 ? `${Math.ceil(n.retry_after_ms / 1000)} s` : 'a moment';
  const why = n.error === 'rate_limited'
    ? `Rate limit exceeded, please wait ${wait}.`
    : `The message was refused: it does not fit the schema${n.pointer ? ` at ${n.pointer}` : ''} (${n.keyword ?? n.reason}).`;
  notice(why);
  const before = performance.now();
  setTimeout(() => fail(pending.filter((p) => p.at <= before), n.error === 'rate_limited' ? 'rate limit exceeded' : 'refused'), 400);
}

function fail(which, why) {
  for (const p of which) {
    p.li.classList.remove('pending');
    p.li.classList.add('failed');
    const again = el('button', 'quiet', 'Send again');
    again.type = 'button';
    again.addEventListener('click', () => {
      if (say(p.room, p.text)) p.li.remove();
    });
    p.li.querySelector('.body').append(el('span', 'why', `not delivered: ${why} `, again));
  }
  pending = pending.filter((p) => !which.includes(p));
  toEnd();
}

function arrived(m) {
  const i = pending.findIndex((p) => p.room === m.room && p.text === m.text);
  if (i >= 0) pending.splice(i, 1)[0].li.remove();
}

function lost() {
  fail(pending, 'the connection was lost');
}

let noticeTimer = 0;
function notice(text) {
  clearTimeout(noticeTimer);
  $('notice').textContent = text;
  if (text) noticeTimer = setTimeout(() => { $('notice').textContent = ''; }, 8_000);
}

// ---- saying something

function say(room, text) {
  if (!send({ type: 'say', room, text })) {
    notice('Not connected: wait until the page has reconnected.');
    return false;
  }
  const li = messageItem({ name: me, text, at: Date.now() });
  li.classList.add('pending');
  pending.push({ room, text, li, at: performance.now() });
  append(li);
  return true;
}

$('say-form').addEventListener('submit', (e) => {
  e.preventDefault();
  const text = $('text').value.trim();
  if (text && say(current, text)) $('text').value = '';
});

$('join-form').addEventListener('submit', (e) => {
  e.preventDefault();
  go($('join-room').value);
  $('join-room').value = '';
});

function go(room) {
  notice('');
  wanted = room;
  if (joined.has(room)) {
    current = room;
    joined.get(room).unread = 0;
    renderRooms();
    renderRoom();
  } else if (!send({ type: 'join', room })) {
    notice('Not connected: wait until the page has reconnected.');
  }
}

$('leave').addEventListener('click', () => send({ type: 'leave', room: current }));

// ---------------------------------------------------------------- drawing

function renderRooms() {
  const names = new Map([...joined.keys()].map((n) => [n, 0]));
  for (const r of allRooms) names.set(r.name, r.people);
  const items = [...names].sort(([a], [b]) => (b === 'lobby') - (a === 'lobby') || a.localeCompare(b)).map(([name, people]) => {
    const room = joined.get(name);
    const b = el('button', room ? 'in' : '', el('span', 'name', `# ${name}`));
    if (room?.unread) b.append(el('span', 'badge unread', `${room.unread} new`));
    b.append(el('span', 'badge', `${people}`));
    b.type = 'button';
    b.title = `${people} here${room ? '' : ': click to join'}`;
    if (name === current && room) b.setAttribute('aria-current', 'true');
    b.addEventListener('click', () => go(name));
    return el('li', '', b);
  });
  $('rooms').replaceChildren(...items);
}

function renderRoom() {
  $('room-title').textContent = `# ${current}`;
  $('leave').hidden = joined.size < 2;
  $('messages').replaceChildren();
  atEnd = true;
  for (const m of joined.get(current)?.messages ?? []) renderMessage(m);
  for (const p of pending) if (p.room === current) append(p.li);
  renderPeople();
}

function renderPeople() {
  const people = (joined.get(current)?.people ?? []).toSorted((a, b) => a.localeCompare(b));
  $('people-count').textContent = people.length || '';
  $('people').replaceChildren(...people.map((name) => {
    const li = el('li', '', avatar(name), el('span', '', name));
    if (name === me) li.append(el('span', 'hint', 'you'));
    return li;
  }));
}

function avatar(name) {
  const a = el('span', `avatar ${tint(name)}`, [...name][0].toUpperCase());
  a.setAttribute('aria-hidden', 'true');
  return a;
}

function renderMessage(m) {
  append(m.aside ? el('li', 'aside', m.aside) : messageItem(m));
}

function messageItem(m) {
  const time = el('time', '', clock.format(m.at));
  time.dateTime = new Date(m.at).toISOString();
  const li = el('li', m.name === me ? 'message mine' : 'message', avatar(m.name),
    el('div', 'body', el('p', 'meta', el('span', `who ${tint(m.name)}`, m.name), ' ', time), el('p', 'text', m.text)));
  return li;
}

function append(li) {
  $('messages').append(li);
  toEnd();
}

// The list stays at its end, unless the user has scrolled up to read.
let atEnd = true;
function toEnd() {
  const list = $('messages');
  if (atEnd) list.scrollTop = list.scrollHeight;
}
$('messages').addEventListener('scroll', ({ target: list }) => {
  atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
});
new ResizeObserver(toEnd).observe($('messages'));

// ---------------------------------------------------------------- events

const KINDS = { open: 'opened', close: 'closed', refusal: 'refused', violation: 'violation', warning: 'warning' };

function onEvents(m) {
  for (const e of m.events) {
    const what = e.kind === 'open' ? 'ticket accepted' : [e.number || '', e.reason ?? ''].filter(Boolean).join(' ');
    const time = el('time', '', clockSeconds.format(e.at));
    const li = el('li', `event ${e.kind}`, el('span', 'kind', KINDS[e.kind] ?? e.kind), el('span', 'what', what),
      el('span', 'from', e.subject ?? 'nobody yet', ` · ${e.guard}`), time);
    if (e.count > 1) li.querySelector('.what').append(el('span', 'times', `× ${e.count}`));
    if (e.subject === me) li.classList.add('mine');
    $('events').prepend(li);
  }
  if (m.missed) $('events').prepend(el('li', 'event', `and ${m.missed} more`));
  while ($('events').childElementCount > 100) $('events').lastElementChild.remove();
  $('events-empty').hidden = true;
  if ($('app').dataset.view === 'chat') unread += m.events.filter((e) => e.at >= since).length;
  $('tab-count').textContent = unread > 99 ? '99+' : unread;
  $('tab-count').hidden = !unread;
}

// ---------------------------------------------------------------- the lab

for (const x of experiments({ drill: () => send({ type: 'drill' }) })) {
  const result = el('p', 'result');
  result.setAttribute('role', 'status');
  const button = el('button', '', x.name);
  button.type = 'button';
  const should = el('p', 'should', x.should);
  button.addEventListener('click', async () => {
    button.disabled = true;
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
    button.disabled = false;
  });
  const li = el('li', '', button, el('div', '', should, result));
  li.id = `lab-${x.id}`;
  $('experiments').append(li);
}

$('curl').textContent = curlLine();
$('copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText(curlLine());
  $('copy').textContent = 'Copied';
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

// A cookie from earlier may still be good: if not, there is the login.
forget();
connection.start();
