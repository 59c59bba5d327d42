import { Connection, ticket } from './wsguard.js';
import { tint as colour } from './colours.js';
import { $, button, el, replace } from './dom.js';
import { figures } from './operator.js';
import { Outbox } from './outbox.js';
import { clear, lab, onEvents } from './panel.js';
import { verdict } from './policy.js';
import { listen, recall, remember, tell, whoami } from './tabs.js';
import { refusal, texts } from './words.js';

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

// ---------------------------------------------------------------- state

let me = '';
let owner = ''; // whose rooms and messages the page has: me, or the last one if me is ''
let current = 'lobby';
let wanted = 'lobby'; // the room to show as soon as the server has let us in
let home = ['lobby']; // the rooms to be in after the next welcome
let allRooms = [];
const joined = new Map(); // room → {people, messages, unread}
const outbox = new Outbox((item) => {
  keep();
  if (item.room === current) renderItem(item);
});

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
  if (connection.state.state !== 'open' || !me) return false;
  connection.send(message, { queue: false });
  return true;
}

function keep() {
  if (owner) remember({ name: owner, home, current: wanted, items: outbox });
}

// own gives the page to a name. What belongs to another one is forgotten.
function own(name) {
  if (owner !== name) forget();
  me = owner = name;
}

function forget() {
  owner = '';
  outbox.clear();
  joined.clear();
  current = wanted = 'lobby';
  home = ['lobby'];
  remember({});
  notice('');
  renderRooms();
  renderRoom();
}

// ---------------------------------------------------------------- login

$('login-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const asked = $('name').value.trim().normalize('NFC');
  let name;
  $('login-error').textContent = '';
  try {
    const res = await fetch('/login', { method: 'POST', body: JSON.stringify({ name: asked, key: $('key').value.trim() }) });
    if (!res.ok) throw new Error(await res.text());
    ({ name } = await res.json());
  } catch (err) {
    $('login-error').textContent = err instanceof TypeError ? 'The server cannot be reached.' : err.message;
    return;
  }
  $('key').value = '';
  tell({ login: name });
  start(name);
  if (name !== asked) hint(`${asked} is taken, so you are ${name}.`);
});

function start(name) {
  own(name);
  keep();
  $('my-name').textContent = me;
  $('my-name').className = `who ${tint(me)}`;
  hint('');
  banner(null);
  show('app');
  focusText();
  connection.stop(); // a connection of another name
  connection.start();
}

$('logout').addEventListener('click', async () => {
  connection.stop();
  try {
    const res = await fetch('/logout', { method: 'POST' });
    await res.text(); // an answer that is not read counts as a failed request
  } catch { /* the server is gone, and with it the session */ }
  tell({ logout: me });
  forget();
  login('');
});

function login(why) {
  me = '';
  banner(null);
  hint('');
  figures(false);
  show('login');
  status('idle', 'not connected');
  $('login-error').textContent = why;
  $('name').value ||= owner;
  $('name').focus();
}

function show(which) {
  $('login').hidden = which !== 'login';
  $('app').hidden = which !== 'app';
  $('me').hidden = which !== 'app' || !me;
}

// ---- the other tabs

listen(({ login: name }) => {
  if (name) {
    elsewhere(name);
    return;
  }
  banner(null); // there is nobody left to continue as
  if ($('app').hidden) return;
  connection.stop();
  forget();
  login('You have logged out in another tab of this browser.');
});

// elsewhere tells that another tab has logged this browser in, under a name that is
// not this tab's. The tab must not become somebody else without a word.
function elsewhere(name) {
  if (name === me) return;
  const cut = $('app').hidden ? '' : `This tab was ${owner} and is no longer connected. `;
  connection.stop();
  fail('you were logged out');
  me = '';
  figures(false);
  $('me').hidden = true; // its button would log the other tab out
  status('stopped', 'disconnected');
  banner(`This browser is ${name} now.`,
    `Somebody has logged in as ${name} in another tab. ${cut}All tabs of a browser share one login.`,
    '', `Continue as ${name}`, () => start(name));
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
  switch (s.state) {
    case 'connecting':
      status('connecting', 'connecting…');
      if (!$('banner').hidden) banner('Connecting…');
      return;
    case 'open':
      status('open', 'connected');
      banner(null);
      return; // until the server has said who we are
  }
  if (s.cause === 'page') return; // whoever has called stop says why
  fail('the connection was lost');
  if (s.cause === 'login') {
    login(s.why.endsWith('log in again.') ? s.why : `${s.why} Please log in again.`);
    return;
  }
  let detail = s.code && s.code !== 1006 ? `(close code ${s.code}${s.reason ? ' ' + s.reason : ''})` : '';
  if (s.status) detail = `(HTTP ${s.status})`;
  if (s.state === 'stopped') {
    status('stopped', 'disconnected');
    banner('Disconnected.', s.why, 'This page does not reconnect by itself after that.', 'Connect again', retry, detail);
    return;
  }
  status('waiting', 'reconnecting');
  banner('Connection lost.', s.why, `Retrying in ${s.seconds} s`, 'Retry now', retry, detail);
}

const retry = () => connection.retry();
let bannerAction = retry;

// banner says what is wrong, what happens next and what the user can do.
function banner(title, text = '', next = '', label = '', action = retry, detail = '') {
  if (document.activeElement === $('retry') && !label && writing) $('text').focus();
  $('banner').hidden = title === null;
  $('banner-title').textContent = title ?? '';
  $('banner-text').textContent = text;
  $('banner-detail').textContent = detail;
  $('banner-next').textContent = next;
  $('retry').textContent = label;
  $('retry').hidden = !label;
  bannerAction = action;
}

$('retry').addEventListener('click', () => bannerAction());

// ---- the focus

let writing = false; // the message field had the focus last
let focusNext = false; // it gets the focus as soon as the room is there
$('app').addEventListener('focusin', ({ target }) => { writing = target === $('text'); });

function focusText() {
  focusNext = true;
  $('text').focus();
}

// ---------------------------------------------------------------- messages

function onMessage(m) {
  if (m.error) return refused(m);
  const room = joined.get(m.room);
  switch (m.type) {
    case 'welcome':
      welcome(m);
      break;
    case 'rooms':
      allRooms = m.rooms;
      renderRooms();
      break;
    case 'joined':
      joined.set(m.room, { people: m.people, messages: m.history ?? [], unread: 0 });
      for (const said of m.history ?? []) if (said.name === me && said.id) outbox.remove(said.id);
      if (m.room === wanted) current = wanted;
      moved();
      if (m.room === current && focusNext) $('text').focus();
      if (m.room === current) focusNext = false;
      break;
    case 'left':
      joined.delete(m.room);
      if (current === m.room) current = wanted = [...joined.keys()][0] ?? 'lobby';
      moved();
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
      said(room, m);
      break;
    case 'problem':
      if (m.id) outbox.fail(outbox.items.filter((item) => item.id === m.id), m.text);
      else notice(m.text);
      if (!joined.has(wanted)) wanted = current;
      break;
    case 'events':
      onEvents(m, me);
      break;
  }
}

function welcome(m) {
  if (m.name !== me) {
    elsewhere(m.name);
    return;
  }
  show('app');
  if (writing && document.activeElement === document.body) $('text').focus();
  figures(m.operator === true);
  clear(); // the recent ones come again
  for (const room of home) send({ type: 'join', room });
}

// moved shows that the page is in other rooms than before.
function moved() {
  home = [...new Set([...joined.keys(), wanted])];
  keep();
  renderRooms();
  renderRoom();
}

// said shows a message once, also when the server acknowledges it again.
function said(room, m) {
  if (m.name === me && m.id) outbox.remove(m.id);
  if (!room || m.id && room.messages.some((o) => o.id === m.id && o.name === m.name)) return;
  add(m.room, m);
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
  append(m.aside ? el('li', 'aside', m.aside) : messageItem(m));
}

// ---- what the guard refused

// A notice does not say which message it is about, but messages are judged in
// order: what has not come back a moment later was not delivered.
function refused(n) {
  notice(refusal(n));
  const moment = performance.now();
  setTimeout(() => outbox.fail(outbox.pending(moment), n.error === 'rate_limited' ? 'rate limit exceeded' : 'refused'), 400);
}

function fail(why) {
  outbox.fail(outbox.pending(), why);
}

let noticeTimer = 0;
function notice(text) {
  clearTimeout(noticeTimer);
  $('notice').textContent = text;
  if (text) noticeTimer = setTimeout(() => { $('notice').textContent = ''; }, 8_000);
}

// hint says something that stays until the user has read it.
function hint(text) {
  $('hint-text').textContent = text;
  $('hint').hidden = !text;
}

$('hint-close').addEventListener('click', () => {
  hint('');
  $('text').focus();
});

const notConnected = 'Not connected: wait until the page has reconnected.';

// ---- saying something

$('say-form').addEventListener('submit', (e) => {
  e.preventDefault();
  const text = $('text').value.trim();
  if (text && say(current, text)) $('text').value = '';
});

function say(room, text) {
  if (connection.state.state !== 'open' || !me) {
    notice(notConnected);
    return false;
  }
  atEnd = true;
  transmit(outbox.add(room, text));
  return true;
}

function transmit(item) {
  if (!joined.has(item.room)) send({ type: 'join', room: item.room });
  if (send({ type: 'say', room: item.room, text: item.text, id: item.id })) outbox.sent(item);
  else notice(notConnected);
}

$('join-form').addEventListener('submit', (e) => {
  e.preventDefault();
  go($('join-room').value);
  $('join-room').value = '';
});

function go(room) {
  notice('');
  if (joined.has(room)) {
    current = wanted = room;
    joined.get(room).unread = 0;
    moved();
  } else if (send({ type: 'join', room })) {
    wanted = room;
  } else {
    notice(notConnected);
    return;
  }
  focusText();
}

$('leave').addEventListener('click', () => {
  if (send({ type: 'leave', room: current })) focusText();
  else notice(notConnected);
});

// ---------------------------------------------------------------- drawing

// tint returns the class of a name's colour. The people in our rooms, and those who
// have said something in the current one, keep theirs.
function tint(name) {
  const here = new Set([...joined.values()].flatMap((room) => room.people));
  for (const m of joined.get(current)?.messages ?? []) if (m.name) here.add(m.name);
  return colour(name, here.add(me));
}

function renderRooms() {
  const names = new Map([...joined.keys()].map((n) => [n, 0]));
  for (const r of allRooms) names.set(r.name, r.people);
  const items = [...names].sort(([a], [b]) => (b === 'lobby') - (a === 'lobby') || a.localeCompare(b)).map(([name, people]) => {
    const room = joined.get(name);
    const b = button(room ? 'in' : '', '', () => go(name));
    b.append(el('span', 'name', `# ${name}`));
    if (room?.unread) b.append(el('span', 'badge unread', `${room.unread} new`));
    b.append(el('span', 'badge', `${people}`));
    b.dataset.key = name;
    b.title = `${people} here${room ? '' : ': click to join'}`;
    if (name === current && room) b.setAttribute('aria-current', 'true');
    return el('li', '', b);
  });
  replace($('rooms'), ...items);
}

function renderRoom() {
  $('room-title').textContent = `# ${current}`;
  $('leave').hidden = joined.size < 2;
  renderPeople(); // first: who is here has the first choice of a colour
  $('messages').replaceChildren();
  atEnd = true;
  for (const m of joined.get(current)?.messages ?? []) append(m.aside ? el('li', 'aside', m.aside) : messageItem(m));
  for (const item of outbox.items) if (item.room === current) renderItem(item);
}

function renderPeople() {
  const people = (joined.get(current)?.people ?? []).toSorted((a, b) => a.localeCompare(b));
  $('people-count').textContent = people.length || '';
  $('people').replaceChildren(...people.map((name) => {
    const li = el('li', '', avatar(name), el('span', `who ${tint(name)}`, name));
    if (name === me) li.append(el('span', 'hint', 'you'));
    return li;
  }));
}

function avatar(name) {
  const a = el('span', `avatar ${tint(name)}`, [...name][0].toUpperCase());
  a.setAttribute('aria-hidden', 'true');
  return a;
}

function messageItem(m) {
  const time = el('time', '', clock.format(m.at));
  time.dateTime = new Date(m.at).toISOString();
  const li = el('li', m.name === me ? 'message mine' : 'message', avatar(m.name),
    el('div', 'body', el('p', 'meta', el('span', `who ${tint(m.name)}`, m.name), ' ', time), el('p', 'text', m.text)));
  return li;
}

// renderItem shows an item of the outbox as it is now, at the end of the room.
function renderItem(item) {
  const old = [...$('messages').children].find((li) => li.dataset.item === item.id);
  if (!outbox.items.includes(item)) {
    old?.remove();
    return;
  }
  const li = messageItem({ name: owner, text: item.text, at: item.at });
  li.dataset.item = item.id;
  li.classList.add(item.why ? 'failed' : 'pending');
  if (item.why) {
    const again = button('quiet', 'Send again', () => { transmit(item); $('text').focus(); });
    const discard = button('quiet', 'Discard', () => { outbox.remove(item.id); $('text').focus(); });
    li.querySelector('.body').append(el('span', 'why', `not delivered: ${item.why} `, again, discard));
  }
  if (old) old.replaceWith(li);
  else $('messages').append(li);
  toEnd();
}

// append puts a message behind the others, and in front of the outbox.
function append(li) {
  $('messages').insertBefore(li, $('messages').querySelector('[data-item]'));
  toEnd();
}

// The list stays at its end, unless the user has scrolled up to read.
let atEnd = true;
function toEnd() {
  const list = $('log');
  if (atEnd) list.scrollTop = list.scrollHeight;
}
$('log').addEventListener('scroll', ({ target: list }) => {
  atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
});
new ResizeObserver(toEnd).observe($('log'));

// ---------------------------------------------------------------- begin

lab(() => send({ type: 'drill' }));

// A cookie from earlier may still be good. To ask for a ticket would tell as well, but
// with an error in the console of everybody who comes for the first time.
let name = '';
try {
  name = await whoami();
} catch { /* then there is the login */ }
const last = recall();
if (name && last.name === name) {
  owner = name;
  ({ home, current } = last);
  wanted = current;
  outbox.restore(last.items);
}
if (name) start(name);
else login('');
