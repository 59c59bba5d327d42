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

let failures = 0;
let socket = null;

function connect() {
  $('status').textContent = 'connecting…';
  socket = new WebSocket('/ws');
  socket.onmessage = (e) => {
    $('raw').textContent = e.data;
    const m = JSON.parse(e.data);
    switch (m.type) {
      case 'hello':
        failures = 0;
        $('status').textContent = `connected as ${m.name}`;
        break;
      case 'said': said(m); break;
      default: if (m.error) line('event', `refused: ${m.error} ${m.pointer ?? ''} ${m.keyword ?? m.reason ?? ''}`);
    }
  };
  // Back where that makes sense: the network, or a server that has had enough
  // for now; and not where it has said no.
  socket.onclose = (e) => {
    line('event', `closed ${e.code} ${e.reason}`);
    $('status').textContent = 'not connected';
    if ([1001, 1006, 1011, 1012, 1013].includes(e.code)) {
      setTimeout(connect, Math.random() * Math.min(30_000, 1000 * 2 ** failures++));
    }
  };
}

$('form').addEventListener('submit', (e) => {
  e.preventDefault();
  if (socket?.readyState !== WebSocket.OPEN) return;
  const type = new FormData(e.target).get('type');
  socket.send(JSON.stringify({ type, [type === 'markup' ? 'html' : 'text']: $('text').value }));
});

connect();
