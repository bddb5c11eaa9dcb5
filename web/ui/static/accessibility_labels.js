// What Gradio leaves unnamed, or names in words of its own, in the page's language: controls, and
// lines that are to be read out when they change. Svelte writes some of it again
// when a control changes, so those parts of the page are watched.

import { setAttribute, whenThere } from './dom.js';
import { onShown } from './current_chat.js';
import { speak, words } from './i18n.js';

const LABEL = '[data-testid="block-info"]';
const INSIDE = { childList: true, subtree: true, attributeFilter: ['aria-label', 'class'] };
const READ_OUT = {
  status: 'status', meter: 'status', job: 'status', notice: 'alert', 'train-notice': 'alert',
};

export function mountNames() {
  onShown((value) => {
    speak(value.language);
    nameSoon();
  });
  whenThere('#settings').then((bar) => watch(bar, INSIDE));
  whenThere('#train-tab').then((tab) => watch(tab, INSIDE));
  // Not what is inside of it, which changes with each word of a reply.
  whenThere('#entry').then((entry) => watch(entry.parentElement, { childList: true }));
}

function watch(element, what) {
  new MutationObserver(nameSoon).observe(element, what);
  nameSoon();
}

let due = false;

function nameSoon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const part of [nameSliders, nameChoices, nameFolds, nameLines]) part(words());
  });
}

const all = (selector) => document.querySelectorAll(selector);
const labelOf = (block) => block.querySelector(LABEL)?.textContent.trim() ?? '';

function nameSliders(t) {
  for (const reset of all('.reset-button')) {
    const block = reset.closest('.block');
    const label = labelOf(block);
    setAttribute(reset, 'aria-label', t('reset', { label }));
    setAttribute(reset, 'title', t('reset', { label }));
    setAttribute(block.querySelector('input[type="number"]'), 'aria-label', t('as_number', { label }));
    setAttribute(block.querySelector('input[type="range"]'), 'aria-label', label);
  }
}

function nameChoices() {
  for (const choice of all('fieldset.block')) setAttribute(choice, 'aria-label', labelOf(choice));
}

function nameFolds() {
  for (const fold of all('.label-wrap')) {
    setAttribute(fold, 'aria-expanded', String(fold.classList.contains('open')));
    setAttribute(fold.querySelector('.icon'), 'aria-hidden', 'true');
  }
  const compare = document.getElementById('compare');
  setAttribute(compare, 'aria-expanded', String(Boolean(document.getElementById('rivals'))));
}

function nameLines() {
  for (const [id, role] of Object.entries(READ_OUT)) setAttribute(document.getElementById(id), 'role', role);
}
