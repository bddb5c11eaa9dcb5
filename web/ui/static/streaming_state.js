// Texts of replies in the making. The stream's event `live` is newer than the log, and may come before
// it: `receiveLive` takes its texts, `forgetEnded` drops those that the log has completely, `withLive`
// adds them to the log's messages. A reply never gets shorter by it.

const live = new Map(); // message id → {text, notice}
const ids = new Map(); // the stream's number of a reply → its message's id

/** Take changes of replies; returns the messages' ids. A new stream counts its numbers anew. */
export function receiveLive(changes) {
  return changes.map((change) => {
    if (Array.isArray(change)) return append(...change);
    const { n, id, text, notice } = change;
    ids.set(n, id);
    live.set(id, { text, notice });
    return id;
  });
}

function append(number, added) {
  const id = ids.get(number);
  const reply = live.get(id);
  if (reply) live.set(id, { ...reply, text: reply.text + added });
  return id;
}

/** Fill in messages that the log sent without their text; returns whether all have a text now. */
export function fillKnownTexts(messages) {
  for (const message of messages) message.text ??= live.get(message.id)?.text;
  return messages.every(({ text }) => text !== undefined);
}

/** Forget replies that have ended: the log has their final text. */
export function forgetEnded(messages) {
  for (const { id, state } of messages) if (state !== 'streaming') live.delete(id);
}

export function withLive(message) {
  const reply = live.get(message.id);
  if (message.state !== 'streaming' || !reply) return message;
  const text = reply.text.length > message.text.length ? reply.text : message.text;
  return { ...message, text, notice: reply.notice || message.notice };
}
