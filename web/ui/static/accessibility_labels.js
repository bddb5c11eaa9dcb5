// Accessible names and roles, in the page's language, where Gradio sets none or English ones: controls,
// and lines that screen readers read out when they change. Svelte overwrites some of them when a
// control changes, so those parts of the page are observed.

import { setAttribute, whenPresent } from './dom.js';
import { onLogChange } from './current_chat.js';
import { setLanguage, translator } from './i18n.js';

const LABEL = '[data-testid="block-info"]';
const INSIDE = { childList: true, subtree: true, attributeFilter: ['aria-label', 'class'] };
const ROLES = {
  status: 'status', meter: 'status', job: 'status', notice: 'alert', 'train-notice': 'alert',
};

export function mountLabels() {
  onLogChange((value) => {
    setLanguage(value.language);
    labelSoon();
  });
  whenPresent('#settings').then((bar) => watch(bar, INSIDE));
  whenPresent('#train-tab').then((tab) => watch(tab, INSIDE));
  // Not its descendants: the log beside it changes with each word of a reply.
  whenPresent('#entry').then((entry) => watch(entry.parentElement, { childList: true }));
}

function watch(element, options) {
  new MutationObserver(labelSoon).observe(element, options);
  labelSoon();
}

let scheduled = false;

function labelSoon() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const label of [labelSliders, labelChoices, labelAccordions, setRoles]) label(translator());
  });
}

const all = (selector) => document.querySelectorAll(selector);
const labelOf = (block) => block.querySelector(LABEL)?.textContent.trim() ?? '';

function labelSliders(t) {
  for (const reset of all('.reset-button')) {
    const block = reset.closest('.block');
    const label = labelOf(block);
    setAttribute(reset, 'aria-label', t('reset', { label }));
    setAttribute(reset, 'title', t('reset', { label }));
    setAttribute(block.querySelector('input[type="number"]'), 'aria-label', t('as_number', { label }));
    setAttribute(block.querySelector('input[type="range"]'), 'aria-label', label);
  }
}

function labelChoices() {
  for (const choice of all('fieldset.block')) setAttribute(choice, 'aria-label', labelOf(choice));
}

function labelAccordions() {
  for (const header of all('.label-wrap')) {
    setAttribute(header, 'aria-expanded', String(header.classList.contains('open')));
    setAttribute(header.querySelector('.icon'), 'aria-hidden', 'true');
  }
  const compare = document.getElementById('compare');
  setAttribute(compare, 'aria-expanded', String(Boolean(document.getElementById('rivals'))));
}

function setRoles() {
  for (const [id, role] of Object.entries(ROLES)) {
    setAttribute(document.getElementById(id), 'role', role);
  }
}
