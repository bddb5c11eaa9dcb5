// The box for editing one's own message. Its text is stored in this browser until it has arrived or
// is cancelled, so that neither a redraw, nor a reload, nor an error loses it.

import { composing, h } from './dom.js';
import { readText, storeText } from './browser_storage.js';
import { translator } from './i18n.js';

const UNLOCK_DELAY = 10_000; // milliseconds after the response until it can be sent again

const keyOf = (id) => `edit.${id}`;

/** The stored text of message `id`'s box, or null. */
export const storedEdit = (id) => readText(keyOf(id));

/** The log shows `text` in message `id`'s place. If the box has another text by now, it stays. */
export function discardSentEdit(id, text) {
  if (storedEdit(id)?.trim() === text.trim()) storeText(keyOf(id), null);
}

/** Returns the box. `send(text)` sends the text; its promise settles with the server's response.
 * `cancel()` is called when the visitor cancels. */
export function editor(id, text, { send, cancel }) {
  const t = translator();
  const area = h('textarea', { 'aria-label': t('edit_message'), rows: 1 });
  const save = () => {
    if (!area.value.trim()) return;
    lockUntilDone(box, area, send(area.value));
  };
  const discard = () => {
    storeText(keyOf(id), null);
    cancel();
  };
  area.value = text;
  area.addEventListener('input', () => storeText(keyOf(id), area.value));
  area.addEventListener('keydown', (event) => onKeyDown(event, save, discard));
  storeText(keyOf(id), text);
  const button = (kind, onclick, name) => h('button', { type: 'button', class: kind, onclick }, name);
  const box = h('div', { class: 'editor' }, area, h('div', { class: 'choices' },
    button('linly-button', discard, t('cancel')),
    button('linly-button primary', save, t('save_and_send'))));
  return box;
}

// When the text arrives, the log removes the box. Otherwise a message says why not, or nothing comes.
// Until then it may still arrive: if it were sent again, it would be there twice.
async function lockUntilDone(box, area, response) {
  let timer = 0;
  let unlocked = false;
  const unlock = () => {
    unlocked = true;
    clearTimeout(timer);
    document.removeEventListener('linly:message-shown', unlock);
    setBusy(box, false);
    if (document.activeElement === document.body) area.focus();
  };
  document.addEventListener('linly:message-shown', unlock);
  setBusy(box, true);
  await response;
  if (!unlocked) timer = setTimeout(unlock, UNLOCK_DELAY);
}

function setBusy(box, busy) {
  // A disabled element would keep the focus in some browsers, and lose it in others.
  if (busy && box.contains(document.activeElement)) document.activeElement.blur();
  box.setAttribute('aria-busy', busy);
  for (const control of box.querySelectorAll('textarea, button')) control.disabled = busy;
}

function onKeyDown(event, save, discard) {
  if (composing(event)) return;
  const sends = event.key === 'Enter' && !event.shiftKey;
  if (!sends && event.key !== 'Escape') return;
  event.preventDefault();
  event.stopPropagation(); // Escape closes this box, and stops no reply
  (sends ? save : discard)();
}
