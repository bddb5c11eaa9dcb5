// Gradio's own message box: its keys, its drafts, and the address that belongs to it. Enter that
// ends an input method's word sends nothing, ArrowUp in an empty box edits one's last message, and
// Escape stops a reply.

import { keepAddress } from './address.js';
import { mountBars } from './sidebars.js';
import { composing, whenThere } from './dom.js';
import { Drafts } from './drafts.js';
import { mountNames } from './accessibility_labels.js';
import { onShown } from './current_chat.js';

const BOX = '#message textarea';
const SEND = ':is(#send, #ask-all), :is(#send, #ask-all) button';
const NEW_CHAT = ':is(#new-chat, #new-chat button)';
const STOP = '#stop button, button#stop';
const OPEN_LIST = 'ul.options, :is([role="combobox"], [role="listbox"])[aria-expanded="true"]';

const box = () => document.querySelector(BOX);
const visible = (element) => Boolean(element?.getClientRects().length);
const inBox = (event) => event.target.matches?.(BOX);

export function mountEntry() {
  const drafts = new Drafts(typed, write);
  mountBars();
  mountNames();
  onShown(keepAddress);
  whenThere(BOX).then(() => onShown((value) => drafts.show(value)));
  // Before Gradio's own listeners, which are further down.
  window.addEventListener('keydown', (event) => pressed(event, drafts), { capture: true });
  document.addEventListener('keydown', escaped);
  document.addEventListener('input', (event) => inBox(event) && drafts.typed());
  document.addEventListener('click', (event) => event.target.closest(SEND) && enter(drafts),
    { capture: true });
  // At the click itself: Gradio tells of it later.
  document.addEventListener('click', (event) => event.target.closest(NEW_CHAT)
    && drafts.leaving(null), { capture: true });
  document.addEventListener('linly:leaving', ({ detail }) => drafts.leaving(detail));
  document.addEventListener('linly:stayed', () => drafts.stayed());
  document.addEventListener('linly:sent', ({ detail }) => drafts.sent(detail));
  window.addEventListener('pagehide', () => drafts.flush());
}

/** What is in the message box. */
export const typed = () => box()?.value ?? '';

let atEnter = null; // what was in the box at Enter or Send: Gradio tells of them a little later

function enter(drafts) {
  atEnter = typed();
  drafts.sending();
}

/** What is to be sent: not what has been typed since Enter. */
export function entered() {
  const text = atEnter ?? typed();
  atEnter = null;
  return text;
}

/** Put a text into the message box, as if it had been typed. */
export function write(text) {
  const area = box();
  if (!area || area.value === text) return;
  const left = area.value.endsWith(text) ? area.value.length - area.selectionEnd : 0;
  // Svelte listens to `input`, and frameworks may have replaced the element's own setter.
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(area, text);
  area.dispatchEvent(new Event('input', { bubbles: true }));
  if (document.activeElement === area) placeCaret(area, text.length - left);
}

// Whoever was typing in the middle of what stays goes on there.
const placeCaret = (area, at) => area.setSelectionRange(Math.max(0, at), Math.max(0, at));

/** Put a text behind what is in the box by now. */
export const insert = (text) => write(typed().trim() ? `${typed()}\n${text}` : text);

/** Put a question into the box, to be sent or to be changed. */
export function propose(question) {
  write(question);
  box()?.focus();
}

let listWasOpen = false; // when Escape was pressed: by the time it bubbles, the list is closed

function pressed(event, drafts) {
  listWasOpen = [...document.querySelectorAll(OPEN_LIST)].some(visible);
  if (!inBox(event)) return;
  if (event.key === 'Enter' && composing(event)) event.stopImmediatePropagation();
  else if (event.key === 'Enter' && !event.shiftKey) enter(drafts);
  else if (event.key === 'ArrowUp' && !event.target.value) editLast(event);
}

function editLast(event) {
  event.preventDefault();
  document.dispatchEvent(new CustomEvent('linly:edit-last'));
}

function escaped(event) {
  if (event.key !== 'Escape' || event.defaultPrevented || composing(event) || listWasOpen) return;
  const clearsSearch = event.target.matches?.('input[type="search"]') && event.target.value;
  const stop = document.querySelector(STOP);
  if (!clearsSearch && visible(stop)) stop.click();
}
