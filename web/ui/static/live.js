// Replies in the making. What is heard of them live is newer than the log, and may come before it:
// `hear` takes what the server says now, `settle` what the log says, `withLive` adds the one to
// the other. A reply never gets shorter by it.

const heard = new Map(); // message id → {text, notice}

export function hear(replies) {
  for (const reply of heard.values()) reply.notice = '';
  for (const [id, { text, notice }] of Object.entries(replies)) heard.set(id, { text, notice });
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
