// What the chat does about closes, where that differs from the client's own rules,
// and what it says about them.

import { verdict as standard } from './wsguard.js';

const slow = ['queue_full', 'write_timeout'];

// verdict leaves it to the user to connect again after a broken rule: the buttons
// on this page break rules. A slow reader comes back like after any other loss.
export function verdict(code, reason) {
  if (slow.includes(reason)) return { act: 'retry' };
  return code === 1008 ? { act: 'stop' } : standard(code, reason);
}

export const texts = {
  drill: 'The server said that it restarts (a drill).',
  login: 'The server does not know your session any more: please log in again.',
  refused: 'The server gave out no ticket.',
  handshake: 'The server refused the connection. A browser does not tell a page why; '
    + 'usual reasons are too many connections, or a ticket that was too old.',
};
