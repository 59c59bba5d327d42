// What an attacker, or a broken client, would do. Each experiment says what
// should happen, does it on a connection of its own, and tells what did.

import { words } from './words.js';
import { Refused, ticket } from './wsguard.js';

const TIMEOUT = 10_000; // for a ticket
const buy = ticket('/ticket');

// labURL is the address of one connection to the lab.
async function labURL() {
  const { ticket: bought } = await buy({ signal: AbortSignal.timeout(TIMEOUT), renew: false });
  const url = new URL('/lab', location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  url.searchParams.set('ticket', bought);
  return url;
}

// Probe is a connection that keeps what it saw.
class Probe {
  messages = [];

  static async open() {
    let url;
    try {
      url = await labURL();
    } catch (err) {
      if (err instanceof Refused && err.status === 429) throw new Error('Too many connections in a short time, please wait a few seconds (HTTP 429).');
      if (err instanceof Refused) throw new Error(err.status === 401
        ? 'The server no longer knows your login, so it gave out no ticket (HTTP 401). Please log in again.'
        : `The server gave out no ticket, and nobody can connect without one (HTTP ${err.status}).`);
      throw new Error('The server cannot be reached.');
    }
    const probe = new Probe(url);
    await probe.opened;
    return probe;
  }

  constructor(url) {
    this.socket = new WebSocket(url);
    this.socket.onmessage = (e) => {
      this.messages.push(JSON.parse(e.data));
      this.wake?.();
    };
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onerror = () => reject(new Error('The server refused the connection. A browser does not tell a page why (close code 1006); the events below do.'));
    });
    this.closed = new Promise((resolve) => {
      this.socket.onclose = (e) => resolve({ code: e.code, reason: e.reason });
    });
  }

  // until waits for a condition on messages, or ms, or the end.
  async until(condition, ms) {
    const by = performance.now() + ms;
    while (!condition(this.messages) && performance.now() < by && this.socket.readyState === WebSocket.OPEN) {
      await new Promise((resolve) => {
        const t = setTimeout(resolve, Math.max(0, by - performance.now()));
        this.wake = () => { clearTimeout(t); resolve(); };
        this.socket.addEventListener('close', this.wake, { once: true });
      });
    }
    return condition(this.messages);
  }

  // end waits for the server to close, and compares.
  async end(code, reason, ms) {
    const got = await Promise.race([this.closed, new Promise((resolve) => setTimeout(resolve, ms))]);
    this.socket.close();
    if (!got) return { ok: false, text: 'nothing happened' };
    return { ok: got.code === code && got.reason === reason, text: `closed ${got.code} ${got.reason}`, means: words(got.reason, got.code) };
  }
}

const seconds = (ms) => (ms / 1000).toFixed(1);

export function experiments({ drill }) {
  return [
    {
      id: 'invalid', name: 'Invalid message',
      should: 'Sends a number where a text belongs. The guard refuses it with a notice that says where the fault is. The connection stays open.',
      async run() {
        const p = await Probe.open();
        p.socket.send(JSON.stringify({ type: 'say', room: 'lobby', text: 42 }));
        await p.until((m) => m.length > 0, 3_000);
        const n = p.messages[0];
        const open = p.socket.readyState === WebSocket.OPEN;
        p.socket.close(1000);
        if (!n) return { ok: false, text: 'nothing happened' };
        return {
          ok: n.error === 'invalid_message' && open,
          text: `${n.error}: at ${n.pointer}, by ${n.keyword}`,
          means: `${words(n.reason)} The notice names the place in the message and the rule.`,
        };
      },
    },
    {
      id: 'flood', name: 'Flood',
      should: 'Sends 100 messages at once. 10 pass, 20 are answered “rate limit exceeded, please wait”, and the guard only counts the rest.',
      async run() {
        const p = await Probe.open();
        for (let i = 0; i < 100; i++) p.socket.send(JSON.stringify({ type: 'say', room: 'lobby', text: `flood ${i}` }));
        await p.until((m) => m.filter((x) => x.error).length >= 20, 3_000);
        await p.until(() => false, 300); // stragglers
        const passed = p.messages.filter((m) => m.type === 'ok').length;
        const limited = p.messages.filter((m) => m.error === 'rate_limited');
        p.socket.close(1000);
        const wait = limited[0]?.retry_after_ms;
        return {
          ok: limited.length > 0,
          text: `rate limit exceeded, please wait${wait ? ` ${seconds(wait)} s` : ''}: ${passed} passed, ${limited.length} refused with a notice, ${100 - passed - limited.length} without`,
          means: 'The refused messages have reached nobody.',
        };
      },
    },
    {
      id: 'oversize', name: 'Oversize',
      should: 'Sends a message of 40 KiB, where 32 KiB are allowed. The guard closes with 1009 message_too_big before it reads the content.',
      async run() {
        const p = await Probe.open();
        p.socket.send(JSON.stringify({ type: 'say', room: 'lobby', text: 'x'.repeat(40 << 10) }));
        return p.end(1009, 'message_too_big', 5_000);
      },
    },
    {
      id: 'binary', name: 'Binary',
      should: 'Sends bytes, where only text is allowed. The guard closes with 1003 message_type.',
      async run() {
        const p = await Probe.open();
        p.socket.send(new Uint8Array([1, 2, 3]));
        return p.end(1003, 'message_type', 5_000);
      },
    },
    {
      id: 'silent', name: 'Go silent',
      should: 'Sends nothing. The guard closes with 3008 idle after 5 seconds. In the chat it waits for an hour.',
      async run(progress) {
        const p = await Probe.open();
        const since = performance.now();
        const show = () => progress(`Silent for ${seconds(performance.now() - since)} s …`);
        const t = setInterval(show, 100);
        const r = await p.end(3008, 'idle', 10_000);
        clearInterval(t);
        return { ...r, text: `${r.text} after ${seconds(performance.now() - since)} s` };
      },
    },
    {
      id: 'ticket', name: 'Ticket twice',
      should: 'Uses a ticket twice. A ticket opens one connection. The guard refuses the second use with HTTP 401, which only the events show.',
      async run() {
        const first = await Probe.open();
        const second = new Probe(first.socket.url);
        second.opened.catch(() => {});
        const { code } = await second.closed;
        first.socket.close(1000);
        return {
          ok: code === 1006,
          text: code === 1006 ? 'the second was refused (1006 here, 401 in the events)' : `closed ${code}`,
          means: code === 1006 ? 'So a used ticket that somebody finds in a log or a history is worthless.' : words('', code),
        };
      },
    },
    {
      id: 'drill', name: 'Restart drill',
      should: 'The server closes the chat’s own connection with 1012. The page counts down and reconnects.',
      async run() {
        return drill() ? { ok: true, text: 'see the line at the top', means: 'Each page reconnects at a random moment, so that not all come at once.' }
          : { ok: false, text: 'the chat is not connected' };
      },
    },
  ];
}

// curlLine is a handshake from a page of another site.
export function curlLine() {
  return [
    'curl -i -N --max-time 5',
    "-H 'Connection: Upgrade' -H 'Upgrade: websocket'",
    "-H 'Sec-WebSocket-Version: 13'",
    "-H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='",
    "-H 'Origin: https://evil.example'",
    new URL('/ws', location.href).href,
  ].join(' \\\n  ');
}
