// Replies in the making. What is heard of them live is newer than the log, and may come before it:
// `hear` takes what the server says now, `settle` what the log says, `withLive` adds the one to
// the other. A reply never gets shorter by it.

const heard = new Map(); // message id → {text, notice}
const ids = new Map(); // the number that the stream knows a reply by → its message's id

/** What is new of some replies; the messages' ids. A stream that begins anew counts anew. */
export function hear(news) {
  return news.map((one) => {
    if (Array.isArray(one)) return grow(...one);
    const { n, id, text, notice } = one;
    ids.set(n, id);
    heard.set(id, { text, notice });
    return id;
  });
}

function grow(number, added) {
  const id = ids.get(number);
  const live = heard.get(id);
  if (live) heard.set(id, { ...live, text: live.text + added });
  return id;
}

/** Give messages of the log that came without their text what was heard of it; whether all have one. */
export function fillTexts(messages) {
  for (const message of messages) message.text ??= heard.get(message.id)?.text;
  return messages.every(({ text }) => text !== undefined);
}

/** Forget what the log has the last word on. */
export function settle(messages) {
  for (const { id, state } of messages) if (state !== 'streaming') heard.delete(id);
}

export function withLive(message) {
  const live = heard.get(message.id);
  if (message.state !== 'streaming' || !live) return message;
  const text = live.text.length > message.text.length ? live.text : message.text;
  return { ...message, text, notice: live.notice || message.notice };
}
