// A chat in the side bar: `item` is its element, `show(chat, isCurrent)` updates it. While the visitor
// types a new title, updates leave the text box alone.

import { composing, h, refresh } from './dom.js';
import { iconButton } from './icons.js';
import { language, translator } from './i18n.js';

export class ChatRow {
  #chat = null;
  #box = null; // for the new title, while the chat is renamed

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
    const t = translator();
    const remove = () => this.act({ kind: 'delete', id: this.id });
    return [
      iconButton('edit', t('rename'), () => this.#rename()),
      iconButton('remove', t('delete'), remove),
    ];
  }

  #rename() {
    const label = translator()('rename_chat');
    this.#box = h('input', { class: 'rename', 'aria-label': label, maxlength: 200 });
    this.#box.value = this.#chat.title;
    this.#box.addEventListener('keydown', (event) => this.#onKeyDown(event));
    this.item.prepend(this.#box);
    this.item.classList.add('renaming');
    this.#box.select();
    this.#box.focus();
  }

  #onKeyDown(event) {
    if (composing(event) || !['Enter', 'Escape'].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation(); // Escape closes this box, and stops no reply
    const title = this.#box.value.trim();
    const isNew = event.key === 'Enter' && title && title !== this.#chat.title;
    this.#box.remove();
    this.#box = null;
    this.item.classList.remove('renaming');
    this.open.focus();
    if (isNew) this.act({ kind: 'rename', id: this.id, title });
  }
}

function titleOf({ title, running }) {
  const t = translator();
  const name = h('span', { class: 'title' }, title || t('untitled'));
  const dot = h('span', { class: 'dot' }, h('span', { class: 'linly-hidden' }, t('replying')));
  return [name, running && dot];
}
