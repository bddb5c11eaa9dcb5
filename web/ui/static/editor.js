// The box in which one's own message is written anew. What is in it is kept in this browser until
// it is sent or given up, so that neither a redraw nor a reload loses it.

import { composing, h } from './dom.js';
import { keep, kept } from './store.js';
import { words } from './words.js';

const key = (id) => `edit.${id}`;

/** What was written into message `id`'s box and neither sent nor given up; else null. */
export const unfinished = (id) => kept(key(id));

/** An element; `send(text)` or `cancel()` is called at its end. */
export function editor(id, text, { send, cancel }) {
  const t = words();
  const area = h('textarea', { 'aria-label': t('edit_message'), rows: 1 });
  const end = (then) => {
    keep(key(id), null);
    then();
  };
  const save = () => area.value.trim() && end(() => send(area.value));
  const giveUp = () => end(cancel);
  area.value = text;
  area.addEventListener('input', () => keep(key(id), area.value));
  area.addEventListener('keydown', (event) => pressed(event, save, giveUp));
  keep(key(id), text);
  const button = (kind, onclick, name) => h('button', { type: 'button', class: kind, onclick }, name);
  return h('div', { class: 'editor' }, area, h('div', { class: 'choices' },
    button('linly-button', giveUp, t('cancel')),
    button('linly-button primary', save, t('save_and_send'))));
}

function pressed(event, save, giveUp) {
  if (composing(event)) return;
  const sends = event.key === 'Enter' && !event.shiftKey;
  if (!sends && event.key !== 'Escape') return;
  event.preventDefault();
  event.stopPropagation(); // Escape closes this box, and stops no reply
  (sends ? save : giveUp)();
}
