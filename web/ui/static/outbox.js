// What the server hands out once: a file to download, a sentence to say, the text of the message
// box that has been sent, or several of them. `n` counts the values; one that has been seen is not
// acted upon again. `undo` is the id of a chat that the sentence's button brings back. The document
// hears of a text as `linly:sent`, and of a sentence as `linly:said`.

import { h } from './dom.js';
import { toast } from './toast.js';
import { onValue } from './value.js';
import { words } from './words.js';

export function mountOutbox({ props, trigger, watch }) {
  let seen = 0;
  onValue({ props, watch }, ({ n, download: file, say, sent, undo, reload }) => {
    if (n === seen) return;
    seen = n;
    if (file) download(file);
    if (say) toast(say, undo ? undoing(undo, trigger) : null);
    if (sent) tell('linly:sent', sent);
    if (say) tell('linly:said', say);
    if (typeof reload === 'string') loadAgain(reload);
  });
}

// The server does not draw this tab any more, as it was started anew. Drafts are kept.
function loadAgain(chat) {
  const address = new URL(location.href);
  if (chat) address.searchParams.set('chat', chat);
  else address.searchParams.delete('chat');
  location.replace(address);
}

const tell = (event, detail) => document.dispatchEvent(new CustomEvent(event, { detail }));

const undoing = (id, trigger) => ({
  label: words()('undo'),
  press: () => trigger('act', { kind: 'undo', id }),
});

export function download({ name, type, text }) {
  const href = URL.createObjectURL(new Blob([text], { type }));
  const link = h('a', { href, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // large files are read after the click
}
