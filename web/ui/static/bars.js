// Gradio's two side bars: their buttons get names, and on a phone, where a bar covers everything,
// opening a chat closes it.

import { onShown } from './shown.js';
import { words } from './words.js';

const BARS = ['chats', 'settings']; // ids of the bars, and keys of what their buttons are called
const PHONE = '(max-width: 40rem)';

export function mountBars() {
  onShown(name);
  closeOnPhones();
  document.addEventListener('linly:opened', closeOnPhones);
}

const button = (bar) => document.querySelector(`#${bar} > .toggle-button`);

function name() {
  for (const bar of BARS) {
    const label = words()(`bar_${bar}`);
    button(bar)?.setAttribute('aria-label', label);
    button(bar)?.setAttribute('title', label);
  }
}

function closeOnPhones() {
  const open = document.querySelector('#chats.open');
  if (open && window.matchMedia(PHONE).matches) button('chats')?.click();
}
