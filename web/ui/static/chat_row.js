// A chat in the side bar: `item` is its element, `show(chat, isCurrent)` brings it up to date. A
// name that is being typed stays until it is saved or given up, whatever is shown meanwhile.

import { composing, h, refresh } from './dom.js';
import { iconButton } from './icons.js';
import { language, words } from './i18n.js';

export class ChatRow {
  #chat = null;
  #box = null; // while the chat is renamed

  constructor(id, act) {
    this.id = id;
    this.act = act;
    const open = () => act({ kind: 'open', id });
    this.open = h('button', { type: 'button', class: 'open', onclick: open });
    this.tools = h('span', { class: 'tools' });
    this.item = h('li', { 'data-id': id }, this.open, this.tools);
  }

  show(chat, isCurrent) {
    this.#chat = chat;
    if (isCurrent) this.open.setAttribute('aria-current', 'page');
    else this.open.removeAttribute('aria-current');
    refresh(this.open, [language(), chat.title, chat.running], () => titleOf(chat));
    this.open.title = chat.title;
    refresh(this.tools, language(), () => this.#buttons());
  }

  #buttons() {
    const t = words();
    const remove = () => this.act({ kind: 'delete', id: this.id });
    return [
      iconButton('edit', t('rename'), () => this.#rename()),
      iconButton('remove', t('delete'), remove),
    ];
  }

  #rename() {
    const label = words()('rename_chat');
    this.#box = h('input', { class: 'rename', 'aria-label': label, maxlength: 200 });
    this.#box.value = this.#chat.title;
    this.#box.addEventListener('keydown', (event) => this.#pressed(event));
    this.item.prepend(this.#box);
    this.item.classList.add('renaming');
    this.#box.select();
    this.#box.focus();
  }

  #pressed(event) {
    if (composing(event) || !['Enter', 'Escape'].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation(); // Escape closes this box, and stops no reply
    const title = this.#box.value.trim();
    const renamed = event.key === 'Enter' && title && title !== this.#chat.title;
    this.#box.remove();
    this.#box = null;
    this.item.classList.remove('renaming');
    this.open.focus();
    if (renamed) this.act({ kind: 'rename', id: this.id, title });
  }
}

function titleOf({ title, running }) {
  const t = words();
  const name = h('span', { class: 'title' }, title || t('untitled'));
  const dot = h('span', { class: 'dot' }, h('span', { class: 'linly-hidden' }, t('replying')));
  return [name, running && dot];
}
