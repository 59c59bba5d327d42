// The tabs of this browser share one login, because they share its cookie. So each
// tells the others when it logs in or out.

const others = new BroadcastChannel('wsguard chat');

export const tell = (what) => others.postMessage(what); // {login: name} or {logout: name}
export const listen = (f) => others.addEventListener('message', ({ data }) => f(data));

// whoami returns the name that this browser is logged in under, and '' for none.
export async function whoami() {
  const res = await fetch('/session', { cache: 'no-store' });
  if (!res.ok) throw new Error(`HTTP ${res.status}`);
  return (await res.json()).name;
}

// What a tab remembers for the next time that it is loaded.
export function remember(what) {
  try {
    sessionStorage.setItem('chat', JSON.stringify(what));
  } catch { /* full or switched off: then it forgets */ }
}

export function recall() {
  try {
    return JSON.parse(sessionStorage.getItem('chat')) ?? {};
  } catch {
    return {};
  }
}
