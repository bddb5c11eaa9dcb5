// Gradio's own message box: its keys, its drafts, and the page's address. Enter that ends a word of an
// input method sends nothing, ArrowUp in an empty box edits the visitor's last message, and Escape
// stops a reply.

import { updateAddress } from './page_url.js';
import { mountSidebars } from './sidebar_toggle.js';
import { composing, whenPresent } from './dom.js';
import { Drafts } from './drafts.js';
import { mountLabels } from './accessibility_labels.js';
import { onLogChange } from './current_chat.js';

const BOX = '#message textarea';
const SEND = ':is(#send, #ask-all), :is(#send, #ask-all) button';
const NEW_CHAT = ':is(#new-chat, #new-chat button)';
const STOP = '#stop button, button#stop';
const OPEN_LIST = 'ul.options, :is([role="combobox"], [role="listbox"])[aria-expanded="true"]';

const box = () => document.querySelector(BOX);
const isVisible = (element) => Boolean(element?.getClientRects().length);
const inBox = (event) => event.target.matches?.(BOX);

export function mountMessageBox() {
  const drafts = new Drafts(currentText, write);
  mountSidebars();
  mountLabels();
  onLogChange(updateAddress);
  whenPresent(BOX).then(() => onLogChange((value) => drafts.show(value)));
  // Before Gradio's own listeners, which are further down.
  window.addEventListener('keydown', (event) => onKeyDown(event, drafts), { capture: true });
  document.addEventListener('keydown', onEscape);
  document.addEventListener('input', (event) => inBox(event) && drafts.typed());
  document.addEventListener('click', (event) => event.target.closest(SEND) && submit(drafts),
    { capture: true });
  // At the click itself: Gradio reports it later.
  document.addEventListener('click', (event) => event.target.closest(NEW_CHAT)
    && drafts.leaving(null), { capture: true });
  document.addEventListener('linly:leaving', ({ detail }) => drafts.leaving(detail));
  document.addEventListener('linly:open-refused', () => drafts.openRefused());
  document.addEventListener('linly:sent', ({ detail }) => drafts.sent(detail));
  window.addEventListener('pagehide', () => drafts.flush());
}

/** The text of the message box. */
export const currentText = () => box()?.value ?? '';

let submitted = null; // the box's text at Enter or Send, which Gradio reports a little later

function submit(drafts) {
  submitted = currentText();
  drafts.sending();
}

/** The text to send: without what was typed since Enter. */
export function takeSubmittedText() {
  const text = submitted ?? currentText();
  submitted = null;
  return text;
}

/** Put a text into the message box, as if the visitor had typed it. */
export function write(text) {
  const area = box();
  if (!area || area.value === text) return;
  // A visitor who is typing in the middle of the remaining text stays at that place.
  const behindCaret = area.value.endsWith(text) ? area.value.length - area.selectionEnd : 0;
  // Svelte listens to `input`, and frameworks may have replaced the element's own setter.
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(area, text);
  area.dispatchEvent(new Event('input', { bubbles: true }));
  if (document.activeElement === area) placeCaret(area, text.length - behindCaret);
}

const placeCaret = (area, at) => area.setSelectionRange(Math.max(0, at), Math.max(0, at));

/** Add a text to the end of the box. */
export const insert = (text) => write(currentText().trim() ? `${currentText()}\n${text}` : text);

/** Put a question into the box, to be sent or to be changed. */
export function propose(question) {
  write(question);
  box()?.focus();
}

let listWasOpen = false; // when Escape was pressed: by the time it bubbles, the list is closed

function onKeyDown(event, drafts) {
  listWasOpen = [...document.querySelectorAll(OPEN_LIST)].some(isVisible);
  if (!inBox(event)) return;
  if (event.key === 'Enter' && composing(event)) event.stopImmediatePropagation();
  else if (event.key === 'Enter' && !event.shiftKey) submit(drafts);
  else if (event.key === 'ArrowUp' && !event.target.value) editLast(event);
}

function editLast(event) {
  event.preventDefault();
  document.dispatchEvent(new CustomEvent('linly:edit-last'));
}

function onEscape(event) {
  if (event.key !== 'Escape' || event.defaultPrevented || composing(event) || listWasOpen) return;
  const clearsSearch = event.target.matches?.('input[type="search"]') && event.target.value;
  const stop = document.querySelector(STOP);
  if (!clearsSearch && isVisible(stop)) stop.click();
}
