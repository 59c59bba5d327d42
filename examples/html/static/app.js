import { Connection } from './wsguard.js';

const $ = (id) => document.getElementById(id);

// The one way from a string to HTML on this page. The Content-Security-Policy
// allows no other: with Trusted Types, a browser takes nothing else for innerHTML.
// What is given to it has been sanitised by the server: see sanitizer in main.go.
// It is not for names, or for text.
const toHTML = (s) => s;
const markup = globalThis.trustedTypes?.createPolicy('sanitised-by-server', { createHTML: toHTML }) ?? { createHTML: toHTML };

// Each message has an element of its own, whose end no markup can reach: innerHTML
// closes what a message has left open.
function body(m) {
  const div = document.createElement('div');
  if (m.html === undefined) {
    div.textContent = m.text;
  } else {
    div.className = 'markup';
    div.innerHTML = markup.createHTML(m.html);
  }
  return div;
}

function line(className, ...children) {
  const li = document.createElement('li');
  li.className = className;
  li.append(...children);
  $('messages').append(li);
  while ($('messages').children.length > 200) $('messages').firstChild.remove();
  li.scrollIntoView({ block: 'nearest' });
}

function said(m) {
  const name = document.createElement('span');
  name.className = 'name';
  name.textContent = m.name;
  line('message', name, body(m));
}

let before = ''; // the state that was shown last

const connection = new Connection({
  url: '/ws',
  decode(data) {
    $('raw').textContent = data;
    return JSON.parse(data);
  },
  onMessage(m) {
    switch (m.type) {
      case 'hello': $('status').textContent = `connected as ${m.name}`; break;
      case 'said': said(m); break;
      default: if (m.error) line('event', `refused: ${m.error} ${m.pointer ?? ''} ${m.keyword ?? m.reason ?? ''}`);
    }
  },
  onState(s) {
    if (s.code && before !== 'waiting') line('event', `closed ${s.code} ${s.reason}`);
    before = s.state;
    $('status').textContent = { connecting: 'connecting…', open: 'connected', waiting: `reconnecting in ${s.seconds} s`, stopped: 'not connected' }[s.state];
  },
});

$('form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const type = new FormData(e.target).get('type');
  const { sent, why } = await connection.send({ type, [type === 'markup' ? 'html' : 'text']: $('text').value });
  if (!sent) line('event', `not sent: ${why}`);
});

connection.start();
