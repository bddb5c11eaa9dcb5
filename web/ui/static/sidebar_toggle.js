// Gradio's two side bars: their buttons get labels, and the state of their bar. If a bar covers the
// page, opening a chat, a click beside it and Escape close it, and the covered elements cannot be
// reached by Tab.

import { composing, setAttribute, whenPresent } from './dom.js';
import { sidebarsCover, onSidebarsCover } from './viewport.js';
import { onLogChange } from './current_chat.js';
import { setLanguage, translator } from './i18n.js';

const BARS = ['chats', 'settings']; // ids of the bars, and keys of their buttons' labels
const COVERED = ['language', 'theme', 'tabs'];
const BOTH_FIT = window.matchMedia('(width > 1024px)'); // below, two bars leave too little of a chat

export function mountSidebars() {
  onLogChange((value) => {
    setLanguage(value.language);
    setLabels();
  });
  for (const id of BARS) whenPresent(`#${id}`).then((element) => observe(element, id));
  onSidebarsCover(updateState);
  document.addEventListener('linly:opened', () => sidebarsCover() && closeAll());
  document.addEventListener('click', noteRequest, { capture: true });
  document.addEventListener('pointerdown', onPointerDown);
  document.addEventListener('keydown', onEscape);
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

function setLabels() {
  for (const id of BARS) {
    const label = translator()(`bar_${id}`);
    setAttribute(bar(id), 'role', 'region');
    for (const element of [bar(id), button(id)]) setAttribute(element, 'aria-label', label);
    setAttribute(button(id), 'title', label);
  }
}

let requested = null; // the bar whose button the visitor has pressed

function noteRequest({ isTrusted, target }) {
  if (isTrusted && target.closest('.toggle-button')) requested = target.closest('.sidebar').id;
}

function observe(element, id) {
  let open = false;
  const changed = () => {
    setPageClasses(element.closest('.wrap'));
    const opened = !open && isOpen(id);
    open = isOpen(id);
    if (opened) onOpened(id);
    updateState();
  };
  const observer = new MutationObserver(changed);
  observer.observe(element, { attributeFilter: ['class'] });
  observer.observe(element.closest('.wrap'), { attributeFilter: ['class'] });
  changed();
  setLabels();
}

// Gradio's style finds an open bar by `:has()`, which searches every message of a chat. Classes cost
// less.
function setPageClasses(page) {
  page.classList.replace('sidebar-parent', 'with-bars');
  for (const id of BARS) page.classList.toggle(`${id}-open`, isOpen(id));
}

// Gradio opens the chats' bar after loading. If it would cover everything, only the visitor opens it.
function onOpened(id) {
  if (sidebarsCover() && requested !== id) toggle(id);
  else if (!BOTH_FIT.matches) BARS.filter((other) => other !== id && isOpen(other)).forEach(toggle);
}

function updateState() {
  for (const id of BARS) setAttribute(button(id), 'aria-expanded', isOpen(id));
  const covered = sidebarsCover() && BARS.some(isOpen);
  for (const id of COVERED) bar(id)?.toggleAttribute('inert', covered);
}

function onPointerDown({ target }) {
  if (sidebarsCover() && target.isConnected && !target.closest('.sidebar, ul.options')) closeAll();
}

// Drop-downs and the search use Escape themselves.
function onEscape(event) {
  if (event.key !== 'Escape' || event.defaultPrevented || composing(event) || !sidebarsCover()) return;
  if (event.target.matches?.('[role="combobox"], [role="listbox"]') || event.target.value) return;
  const [first] = closeAll();
  if (!first) return;
  event.preventDefault(); // and stops no reply
  button(first).focus();
}
