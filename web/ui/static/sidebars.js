// Gradio's two side bars: their buttons get names and say whether a bar is open. Where a bar lies
// over the page, opening a chat, a click beside it and Escape close it, and what it covers cannot
// be reached by Tab.

import { composing, setAttribute, whenThere } from './dom.js';
import { barsCover, onBarsCover } from './viewport.js';
import { onShown } from './current_chat.js';
import { speak, words } from './i18n.js';

const BARS = ['chats', 'settings']; // ids of the bars, and keys of what their buttons are called
const COVERED = ['language', 'theme', 'tabs'];
const BOTH = window.matchMedia('(width > 1024px)'); // below, two bars leave too little of a chat

export function mountBars() {
  onShown((value) => {
    speak(value.language);
    name();
  });
  for (const id of BARS) whenThere(`#${id}`).then((element) => follow(element, id));
  onBarsCover(look);
  document.addEventListener('linly:opened', () => barsCover() && closeAll());
  document.addEventListener('click', asked, { capture: true });
  document.addEventListener('pointerdown', pressed);
  document.addEventListener('keydown', escaped);
}

const bar = (id) => document.getElementById(id);
const button = (id) => document.querySelector(`#${id} > .toggle-button`);
const isOpen = (id) => Boolean(bar(id)?.classList.contains('open'));
const toggle = (id) => button(id)?.click();

function closeAll() {
  const open = BARS.filter(isOpen);
  open.forEach(toggle);
  return open;
}

function name() {
  for (const id of BARS) {
    const label = words()(`bar_${id}`);
    setAttribute(bar(id), 'role', 'region');
    for (const element of [bar(id), button(id)]) setAttribute(element, 'aria-label', label);
    setAttribute(button(id), 'title', label);
  }
}

let wanted = null; // the bar whose button the visitor has pressed

function asked({ isTrusted, target }) {
  if (isTrusted && target.closest('.toggle-button')) wanted = target.closest('.sidebar').id;
}

function follow(element, id) {
  let open = false;
  const changed = () => {
    mark(element.closest('.wrap'));
    const opened = !open && isOpen(id);
    open = isOpen(id);
    if (opened) makeRoom(id);
    look();
  };
  const observer = new MutationObserver(changed);
  observer.observe(element, { attributeFilter: ['class'] });
  observer.observe(element.closest('.wrap'), { attributeFilter: ['class'] });
  changed();
  name();
}

// Gradio's style looks by `:has()` for an open bar in all of the page. Classes say it for less: they
// are read without a search through every message of a chat.
function mark(page) {
  page.classList.replace('sidebar-parent', 'with-bars');
  for (const id of BARS) page.classList.toggle(`${id}-open`, isOpen(id));
}

// Gradio opens the chats from the beginning, sooner or later. Where they cover everything, only the
// visitor is to open them.
function makeRoom(id) {
  if (barsCover() && wanted !== id) toggle(id);
  else if (!BOTH.matches) BARS.filter((other) => other !== id && isOpen(other)).forEach(toggle);
}

function look() {
  for (const id of BARS) setAttribute(button(id), 'aria-expanded', isOpen(id));
  const covered = barsCover() && BARS.some(isOpen);
  for (const id of COVERED) bar(id)?.toggleAttribute('inert', covered);
}

function pressed({ target }) {
  if (barsCover() && target.isConnected && !target.closest('.sidebar, ul.options')) closeAll();
}

// A drop-down and a search have their own use for Escape.
function escaped(event) {
  if (event.key !== 'Escape' || event.defaultPrevented || composing(event) || !barsCover()) return;
  if (event.target.matches?.('[role="combobox"], [role="listbox"]') || event.target.value) return;
  const [first] = closeAll();
  if (!first) return;
  event.preventDefault(); // and stops no reply
  button(first).focus();
}
