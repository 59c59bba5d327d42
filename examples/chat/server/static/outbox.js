// What the user has said and no room has shown yet. It belongs to the rooms and not
// to what is on the screen, so it outlives a change of room, a new connection and,
// in sessionStorage, a new visit of this tab.

const MOST = 200;
const PATIENCE = 10_000; // after that, a message without an answer was not delivered

export class Outbox {
  items = []; // of {id, room, text, at, why}: why is '' while an item is under way
  #changed;

  // changed is called with an item that has changed or gone.
  constructor(changed) {
    this.#changed = changed;
  }

  // add returns a new item. Its ID lets the server recognise a message that is sent
  // again, so that the room gets it once.
  add(room, text) {
    const item = { id: crypto.randomUUID().replaceAll('-', ''), room, text, at: Date.now(), why: '' };
    this.items.push(item);
    if (this.items.length > MOST) this.remove(this.items[0].id);
    return item;
  }

  // sent starts the wait for an answer.
  sent(item) {
    item.why = '';
    item.since = performance.now();
    clearTimeout(item.timer);
    item.timer = setTimeout(() => this.fail([item], 'the server did not answer'), PATIENCE);
    this.#changed(item);
  }

  fail(items, why) {
    for (const item of items) {
      if (item.why || !this.items.includes(item)) continue;
      clearTimeout(item.timer);
      item.why = why;
      this.#changed(item);
    }
  }

  // remove takes the item with this ID out: it was delivered, or the user gave it up.
  remove(id) {
    const i = this.items.findIndex((item) => item.id === id);
    if (i < 0) return;
    const [item] = this.items.splice(i, 1);
    clearTimeout(item.timer);
    this.#changed(item);
  }

  clear() {
    for (const { id } of [...this.items]) this.remove(id);
  }

  // pending returns what has been under way since the moment, one of performance.now, or longer.
  pending(moment = Infinity) {
    return this.items.filter((item) => !item.why && item.since <= moment);
  }

  toJSON() {
    return this.items.map(({ id, room, text, at, why }) => ({ id, room, text, at, why: why || 'the page was loaded again' }));
  }

  restore(items) {
    this.items = items.slice();
  }
}
