// A sentence at the edge of the page that goes by itself. `button` may add {label, press}.

import { h } from './dom.js';
import { iconButton } from './icons.js';
import { words } from './words.js';

const SHOWN = 6_000; // milliseconds
const WITH_BUTTON = 10_000; // a decision takes longer than reading

// Screen readers read out what is added to a status, if the status was there before.
const corner = h('div', { class: 'linly-toasts', role: 'status' });
document.body.append(corner);

export function toast(sentence, button = null) {
  const close = () => note.remove();
  const press = () => {
    close();
    button.press();
  };
  const note = h('div', { class: 'linly-toast' },
    h('span', {}, sentence),
    button && h('button', { type: 'button', class: 'linly-button', onclick: press }, button.label),
    iconButton('close', words()('close'), close));
  corner.append(note);
  setTimeout(close, button ? WITH_BUTTON : SHOWN);
}
