// A sentence at the edge of the page that disappears by itself.

import { h } from './dom.js';
import { iconButton } from './icons.js';
import { translator } from './i18n.js';

const SHOWN = 6_000; // milliseconds

// Screen readers read out what is added to an existing status.
const corner = h('div', { class: 'linly-toasts', role: 'status' });
document.body.append(corner);

export function toast(sentence) {
  const close = () => note.remove();
  const note = h('div', { class: 'linly-toast' }, h('span', {}, sentence),
    iconButton('close', translator()('close'), close));
  corner.append(note);
  setTimeout(close, SHOWN);
}
