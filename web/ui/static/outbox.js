// What the server hands out once: a file to download, a sentence to say, or both. `n` counts the
// values; one that has been seen is not acted upon again. `undo` is the id of a chat that the
// sentence's button brings back.

import { h } from './dom.js';
import { toast } from './toast.js';
import { onValue } from './value.js';
import { words } from './words.js';

export function mountOutbox({ props, trigger, watch }) {
  let seen = 0;
  onValue({ props, watch }, ({ n, download: file, say, undo }) => {
    if (n === seen) return;
    seen = n;
    if (file) download(file);
    if (say) toast(say, undo ? undoing(undo, trigger) : null);
  });
}

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
