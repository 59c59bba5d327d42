import { Connection, Refused, retryAfter } from './wsguard.js';

// The token is kept in this variable and nowhere else: what is in localStorage
// is any script's, for ever. A page that is loaded again asks for a new one with
// its cookie, which no script can read.
let token = '';
let expires = 0; // by this browser's clock
let spent = false; // it has opened a connection already
let timer = 0; // of the next refresh

const $ = (id) => document.getElementById(id);

// line adds to the messages, as text: nothing that comes from a person is ever
// parsed as HTML.
function line(text, className = '') {
  const li = document.createElement('li');
  li.className = className;
  li.textContent = text;
  $('messages').append(li);
  while ($('messages').children.length > 200) $('messages').firstChild.remove();
  li.scrollIntoView({ block: 'nearest' });
}

function show(which, why = '') {
  $('login').hidden = which !== 'login';
  $('chat').hidden = which !== 'chat';
  $('login-error').textContent = why;
}

// post returns the answer's JSON. 401 means that the login is over.
async function post(path, body, signal = AbortSignal.timeout(10_000)) {
  const res = await fetch(path, { method: 'POST', body: body && JSON.stringify(body), redirect: 'error', signal });
  if (!res.ok) {
    const err = new Refused(res.status, retryAfter(res.headers.get('Retry-After')));
    err.message = await res.text();
    throw err;
  }
  return res.status === 204 ? null : res.json();
}

function keep(answer) {
  token = answer.token;
  spent = false;
  expires = Date.now() + answer.expires_in * 1000;
  $('me').textContent = answer.name;
}

// The client sends the token as bearer.TOKEN, beside the subprotocol. The server takes it away, and
// names "chat" only in its answer.
const connection = new Connection({
  url: '/ws',
  protocols: 'chat',
  async credential({ renew, signal }) {
    if (spent || renew) await fresh(signal);
    spent = true;
    return { token };
  },
  texts: { login: 'Please log in.' },
  onMessage(m) {
    switch (m.type) {
      case 'hello': line(`connected as ${m.name}`, 'event'); break;
      case 'said': line(`${m.name}: ${m.text}`); break;
      case 'refreshed': line('token refreshed on the open connection', 'event'); break;
      case 'problem': line(m.text, 'event'); break;
      default: if (m.error) line(m.error, 'event');
    }
  },
  onState,
});

let before = ''; // the state that was shown last

function onState(s) {
  if (s.code && before !== 'waiting') line(`closed ${s.code} ${s.reason}`, 'event');
  before = s.state;
  clearTimeout(timer);
  switch (s.state) {
    case 'connecting': $('status').textContent = 'connecting…'; break;
    case 'open':
      $('status').textContent = 'connected';
      schedule();
      break;
    case 'waiting': $('status').textContent = `reconnecting in ${s.seconds} s`; break;
    case 'stopped':
      $('status').textContent = 'not connected';
      if (s.cause === 'page' || s.cause === 'idle') return;
      token = '';
      show('login', s.cause === 'closed' ? `The server has closed the connection (${s.code}).` : s.why);
  }
}

const fresh = async (signal) => keep(await post('/token', undefined, signal));

// schedule refreshes the token when three quarters of its life are over: early
// enough to try again.
function schedule() {
  clearTimeout(timer);
  const left = expires - Date.now();
  timer = setTimeout(async () => {
    if (!$('auto').checked) return;
    try {
      await fresh();
    } catch (err) {
      if (err.status === 401) over(err.message);
      else timer = setTimeout(schedule, 5_000);
      return;
    }
    if (connection.state.state !== 'open') return; // the next attempt uses the token
    connection.send({ type: 'refresh', token }, { queue: false });
    schedule();
  }, Math.max(1_000, left * 0.75));
}

function over(why) {
  connection.stop();
  token = '';
  show('login', why);
}

$('auto').addEventListener('change', () => { if (connection.state.state === 'open') schedule(); });

setInterval(() => {
  $('left').textContent = token ? `${Math.max(0, Math.round((expires - Date.now()) / 1000))} s` : '–';
}, 250);

$('login-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  try {
    keep(await post('/login', { name: $('name').value, password: $('password').value }));
  } catch (err) {
    $('login-error').textContent = err instanceof TypeError ? 'The server cannot be reached.' : err.message;
    return;
  }
  $('password').value = '';
  start();
});

function start() {
  show('chat');
  connection.start();
}

// The server closes the socket: that it does is the point. The page only does
// not come back.
$('logout').addEventListener('click', async () => {
  connection.stop();
  token = '';
  try {
    await post('/logout');
  } catch { /* the server is gone, and with it the login */ }
  show('login');
});

$('say-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const text = $('text').value;
  $('text').value = '';
  const { sent, why } = await connection.send({ type: 'say', text });
  if (!sent) line(`not sent (${why}): ${text}`, 'event');
});

// A page that is loaded again has its cookie still, perhaps.
fresh().then(start, () => show('login'));
