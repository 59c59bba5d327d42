// A colour of its own for each name. style.css has the colours. Any two of them
// can be told apart, and each can be read, in light and in dark.

const COLOURS = 30;
const owners = new Map(); // name → number of its colour, the oldest first

// tint returns the class of a name's colour. A name keeps it while the page lives,
// unless more people come than there are colours: then those who are not in here,
// a set of names, give theirs back, the oldest first.
export function tint(name, here = new Set()) {
  if (!owners.has(name)) owners.set(name, free(here));
  return `tint${owners.get(name)}`;
}

function free(here) {
  if (owners.size < COLOURS) return owners.size;
  for (const [name, colour] of owners) {
    if (here.has(name)) continue;
    owners.delete(name);
    return colour;
  }
  return owners.size % COLOURS; // a crowd, in which some must share
}
