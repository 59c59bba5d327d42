export const $ = (id) => document.getElementById(id);

// el builds an element. Text goes in as text: nothing that comes from a person
// or from the server is ever parsed as HTML. The Content-Security-Policy asks
// for Trusted Types, so the browser would refuse it anyway.
export function el(tag, className, ...children) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  e.append(...children);
  return e;
}

// button returns a button that keeps the focus while its action runs: a disabled
// one would lose it.
export function button(className, text, action) {
  const b = el('button', className, text);
  b.type = 'button';
  b.addEventListener('click', async () => {
    if (b.ariaDisabled) return;
    b.ariaDisabled = 'true';
    try {
      await action();
    } finally {
      b.ariaDisabled = null;
    }
  });
  return b;
}

// replace replaces the children of parent. If one of its buttons has the focus, the
// new button with the same data-key gets it.
export function replace(parent, ...children) {
  const active = document.activeElement;
  const key = parent.contains(active) ? active.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key !== undefined) [...parent.querySelectorAll('[data-key]')].find((e) => e.dataset.key === key)?.focus();
}
