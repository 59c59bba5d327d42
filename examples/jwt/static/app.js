// The token is kept in this variable and nowhere else: what is in localStorage
// is any script's, for ever. A page that is loaded again asks for a new one with
// its cookie, which no script can read.
let token = '';
let expires = 0; // by this browser's clock
let socket = null;
let wanted = false;
let failures = 0;
let timer = 0;

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

class Refused extends Error {}

// post returns the answer's JSON. 401 means that the login is over.
async function post(path, body) {
  const res = await fetch(path, { method: 'POST', body: body && JSON.stringify(body), signal: AbortSignal.timeout(10_000) });
  if (res.status === 401) throw new Refused(await res.text());
  if (!res.ok) throw new Error(await res.text());
  return res.status === 204 ? null : res.json();
}

function keep(answer) {
  token = answer.token;
  expires = Date.now() + answer.expires_in * 1000;
  $('me').textContent = answer.name;
}

// connect sends the token beside the subprotocol. The server takes it away, and
// names "chat" only in its answer.
function connect() {
  clearTimeout(timer);
  const ws = new WebSocket('/ws', ['chat', `bearer.${token}`]);
  socket = ws;
  $('status').textContent = 'connecting…';
  ws.onopen = () => {
    $('status').textContent = 'connected';
    schedule();
  };
  ws.onmessage = (e) => {
    const m = JSON.parse(e.data);
    switch (m.type) {
      case 'hello':
        failures = 0;
        line(`connected as ${m.name}`, 'event');
        break;
      case 'said': line(`${m.name}: ${m.text}`); break;
      case 'refreshed': line('token refreshed on the open connection', 'event'); break;
      case 'problem': line(m.text, 'event'); break;
      default: if (m.error) line(m.error, 'event');
    }
  };
  ws.onclose = (e) => {
    if (socket !== ws) return;
    socket = null;
    $('status').textContent = 'not connected';
    line(`closed ${e.code} ${e.reason}`, 'event');
    if (wanted) again(e.code);
  };
}

// again comes back, where that makes sense: with a new token after 3000, later
// where the network or the server has had a problem, and never where it has said
// no.
function again(code) {
  if (code === 3000 && failures === 0) {
    failures++;
    renew().then(connect, over);
    return;
  }
  if (![1001, 1006, 1011, 1012, 1013, 3000].includes(code)) {
    over(new Error(`The server has closed the connection (${code}).`));
    return;
  }
  const wait = Math.random() * Math.min(30_000, 1000 * 2 ** failures++);
  $('status').textContent = `reconnecting in ${Math.ceil(wait / 1000)} s`;
  timer = setTimeout(() => renew().then(connect, (err) => (err instanceof Refused ? over(err) : again(1006))), wait);
}

function over(err) {
  wanted = false;
  clearTimeout(timer);
  token = '';
  show('login', err.message);
}

const renew = async () => keep(await post('/token'));

// schedule refreshes the token when three quarters of its life are over: early
// enough to try again.
function schedule() {
  clearTimeout(timer);
  const left = expires - Date.now();
  timer = setTimeout(async () => {
    if (!socket || !$('auto').checked) return;
    try {
      await renew();
      socket?.send(JSON.stringify({ type: 'refresh', token }));
      schedule();
    } catch (err) {
      if (err instanceof Refused) over(err);
      else timer = setTimeout(schedule, 5_000);
    }
  }, Math.max(1_000, left * 0.75));
}

$('auto').addEventListener('change', () => { if (socket) schedule(); });

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
  wanted = true;
  failures = 0;
  show('chat');
  connect();
}

// The server closes the socket: that it does is the point. The page only does
// not come back.
$('logout').addEventListener('click', async () => {
  wanted = false;
  clearTimeout(timer);
  token = '';
  try {
    await post('/logout');
  } catch { /* the server is gone, and with it the login */ }
  show('login');
});

$('say-form').addEventListener('submit', (e) => {
  e.preventDefault();
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ type: 'say', text: $('text').value }));
  $('text').value = '';
});

// A page that is loaded again has its cookie still, perhaps.
renew().then(start, () => show('login'));
