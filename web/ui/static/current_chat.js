// The newest value of the log, for other modules. Until the first value, no listener is called.

let current = null;
const listeners = new Set();

export function setLogValue(value) {
  current = value;
  markStreaming(value);
  for (const listen of listeners) listen(value);
}

/** Call `listen` with the current value, if there is one, and with each later one. */
export function onLogChange(listen) {
  listeners.add(listen);
  if (current) listen(current);
}

// By this attribute the style sheet shows Stop in the place of Send.
function markStreaming({ messages = [], comparison }) {
  const all = [...messages, ...(comparison?.replies ?? [])];
  const streaming = all.some(({ state }) => state === 'streaming');
  document.body.toggleAttribute('data-streaming', streaming);
}
