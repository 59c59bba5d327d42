// What the chat does about closes, where that differs from the client's own rules.

import { verdict as standard } from './wsguard.js';

const slow = ['queue_full', 'write_timeout'];

// verdict leaves it to the user to connect again after a broken rule: the buttons
// on this page break rules. A slow reader comes back like after any other loss.
export function verdict(code, reason) {
  if (slow.includes(reason)) return { act: 'retry' };
  return code === 1008 ? { act: 'stop' } : standard(code, reason);
}
