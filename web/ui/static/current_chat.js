// The newest value of the log, for modules beside it. Until one has come, nobody is told anything.

let shown = null;
const listeners = new Set();

export function show(value) {
  shown = value;
  markSpeaking(value);
  for (const listen of listeners) listen(value);
}

/** Call `listen` with the value that is shown, if any, and with each that follows. */
export function onShown(listen) {
  listeners.add(listen);
  if (shown) listen(shown);
}

// The page's style shows Stop in the place of Send by this.
function markSpeaking({ messages = [], comparison }) {
  const all = [...messages, ...(comparison?.replies ?? [])];
  document.body.toggleAttribute('data-speaking', all.some(({ state }) => state === 'streaming'));
}
