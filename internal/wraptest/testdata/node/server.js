// An echo on npm's ws for internal/wraptest. It prints its port.
'use strict';

const { WebSocketServer } = require('ws');

const subprotocol = 'echo.v1';

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  perMessageDeflate: true,
  handleProtocols: (protocols) => protocols.has(subprotocol) && subprotocol,
});

server.on('headers', (headers) => {
  headers.push('X-Served-By: wraptest', 'Set-Cookie: seen=1; Path=/; HttpOnly');
});

function pushed(i, size) {
  return `push ${i} `.padEnd(size, '.');
}

server.on('connection', (socket) => {
  socket.on('error', () => {}); // the library closes by itself
  socket.on('message', (data, binary) => {
    if (binary) {
      socket.send(data);
      return;
    }
    const text = data.toString();
    const [command, first, second] = text.split(' ');
    switch (command) {
      case '/push':
        for (let i = 0; i < Number(first); i++) socket.send(pushed(i, Number(second)));
        return;
      case '/both': {
        let i = 0;
        const next = () => {
          if (i < Number(first)) {
            socket.send(pushed(i++, 0));
            setImmediate(next);
          }
        };
        next();
        return;
      }
      case '/close':
        socket.close(Number(first), second);
        return;
    }
    socket.send(text);
  });
});

server.on('listening', () => console.log(server.address().port));

// Whoever started this process holds its standard input open.
process.stdin.on('end', () => process.exit(0)).resume();
