// Copies text, also on pages without HTTPS, where browsers have no `navigator.clipboard`.

import { h } from './dom.js';
import { icon } from './icons.js';
import { translator } from './i18n.js';

const SHOWN = 1500; // milliseconds for which a button shows that it has copied

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
}

/** Copy, and show that on the pressed button. */
export async function copyFrom(button, text) {
  await copy(text);
  if (button.dataset.copied) return;
  const before = [button.title, ...button.childNodes];
  button.dataset.copied = 'yes';
  setLabel(button, translator()('copied'));
  button.replaceChildren(icon('done'));
  setTimeout(() => restore(button, ...before), SHOWN);
}

function restore(button, title, ...children) {
  delete button.dataset.copied;
  setLabel(button, title);
  button.replaceChildren(...children);
}

function setLabel(button, label) {
  button.title = label;
  button.setAttribute('aria-label', label);
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = h('textarea', { class: 'linly-hidden', 'aria-hidden': 'true' });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  focused?.focus({ preventScroll: true });
}
