// The box in which one's own message is written anew. What is in it is kept in this browser until
// it has arrived or is given up, so that neither a redraw, nor a reload, nor a refusal loses it.

import { composing, h } from './dom.js';
import { keep, kept } from './store.js';
import { words } from './i18n.js';

const PATIENCE = 10_000; // milliseconds after the answer until it can be sent again

const key = (id) => `edit.${id}`;

/** What was written into message `id`'s box and has neither arrived nor been given up; or null. */
export const unfinished = (id) => kept(key(id));

/** The log shows `text` in message `id`'s place. What was written since stays. */
export function arrived(id, text) {
  if (unfinished(id)?.trim() === text.trim()) keep(key(id), null);
}

/** An element; `send(text)` is called whenever it is to be sent, and settles with the server's
 * answer; `cancel()` is called at its end. */
export function editor(id, text, { send, cancel }) {
  const t = words();
  const area = h('textarea', { 'aria-label': t('edit_message'), rows: 1 });
  const save = () => {
    if (!area.value.trim()) return;
    wait(box, area, send(area.value));
  };
  const giveUp = () => {
    keep(key(id), null);
    cancel();
  };
  area.value = text;
  area.addEventListener('input', () => keep(key(id), area.value));
  area.addEventListener('keydown', (event) => pressed(event, save, giveUp));
  keep(key(id), text);
  const button = (kind, onclick, name) => h('button', { type: 'button', class: kind, onclick }, name);
  const box = h('div', { class: 'editor' }, area, h('div', { class: 'choices' },
    button('linly-button', giveUp, t('cancel')),
    button('linly-button primary', save, t('save_and_send'))));
  return box;
}

// Where it arrives, the log takes the box away. Else a sentence says why not, or nothing comes. Until
// there is an answer it may still arrive: sent again, it would be there twice.
async function wait(box, area, answer) {
  let late = 0;
  let ended = false;
  const end = () => {
    ended = true;
    clearTimeout(late);
    document.removeEventListener('linly:said', end);
    setBusy(box, false);
    if (document.activeElement === document.body) area.focus();
  };
  document.addEventListener('linly:said', end);
  setBusy(box, true);
  await answer;
  if (!ended) late = setTimeout(end, PATIENCE);
}

function setBusy(box, busy) {
  // What is disabled would keep the focus in some browsers, and lose it in others.
  if (busy && box.contains(document.activeElement)) document.activeElement.blur();
  box.setAttribute('aria-busy', busy);
  for (const control of box.querySelectorAll('textarea, button')) control.disabled = busy;
}

function pressed(event, save, giveUp) {
  if (composing(event)) return;
  const sends = event.key === 'Enter' && !event.shiftKey;
  if (!sends && event.key !== 'Escape') return;
  event.preventDefault();
  event.stopPropagation(); // Escape closes this box, and stops no reply
  (sends ? save : giveUp)();
}
