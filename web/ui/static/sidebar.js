// The side bar with the visitor's chats: a search, the list by day, an undo for the deleted chat, and a
// menu: the stream's event `sidebar`. If it covers the page, opening a chat dispatches `linly:opened`
// on the document, which closes it.

import { act } from './actions.js';
import { arrange, h, keepingFocus, refresh, setAttribute } from './dom.js';
import { iconButton } from './icons.js';
import { Items } from './items.js';
import { ChatRow } from './chat_row.js';
import { sidebarsCover } from './viewport.js';
import { onEvent } from './stream.js';
import { TransferMenu } from './import_export_menu.js';
import { language, setLanguage, translator } from './i18n.js';

const SEARCH_DELAY = 200; // milliseconds without a key until a search begins
const DAYS = ['today', 'yesterday', 'earlier'];

export function mountSidebar(element) {
  const sidebar = new Sidebar(act);
  let chats = new Items();
  element.replaceChildren(sidebar.element);
  onEvent('tab', () => { chats = new Items(); }); // a new stream sends all items again
  onEvent('sidebar', (value) => sidebar.show({ ...value, chats: chats.merge(value.chats) }));
}

class Sidebar {
  #rows = new Map();
  #hidden = null; // the deleted chat whose bar was closed
  #timer = 0;

  constructor(act) {
    this.act = act;
    this.search = h('input', { type: 'search', oninput: () => this.#searchSoon() });
    this.days = DAYS.map((day) => ({ day, title: h('h2'), list: h('ul') }));
    this.noChats = h('p', { class: 'none' });
    const sections = this.days.map(({ title, list }) => h('section', {}, title, list));
    this.more = h('p', { class: 'more' });
    this.nav = h('nav', {}, sections, this.noChats, this.more);
    this.deleted = h('div', { class: 'deleted', role: 'status' });
    this.note = h('p', { class: 'note' });
    this.menu = new TransferMenu();
    this.element = h('div', { class: 'linly-sidebar', hidden: true },
      this.search, this.nav, this.deleted, this.note, this.menu.element);
  }

  show(value) {
    setLanguage(value.language);
    this.element.hidden = false; // until now nothing in it had a label
    keepingFocus(() => this.#draw(value));
  }

  #draw({ chats, more, current, query, deleted, persistent }) {
    const t = translator();
    this.#drawSearch(query);
    setAttribute(this.nav, 'aria-label', t('chats'));
    this.noChats.textContent = chats.length ? '' : t(query ? 'nothing_found' : 'no_chats');
    this.more.textContent = more ? t('older_chats', { count: chats.length }) : '';
    this.#drawChats(chats, current);
    this.#drawDeleted(deleted);
    this.note.textContent = persistent === false ? t('not_kept') : '';
    this.menu.show(current);
  }

  // While the visitor types, the server's query is older than the box's text.
  #drawSearch(query) {
    const label = translator()('search_chats');
    this.search.placeholder = label;
    setAttribute(this.search, 'aria-label', label);
    if (document.activeElement !== this.search) this.search.value = query ?? '';
  }

  #searchSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.act({ kind: 'search', text: this.search.value }), SEARCH_DELAY);
  }

  #drawChats(chats, current) {
    const ids = new Set(chats.map(({ id }) => id));
    for (const id of this.#rows.keys()) if (!ids.has(id)) this.#rows.delete(id);
    for (const { day, title, list } of this.days) {
      const shown = chats.filter(({ updated }) => dayOf(updated) === day);
      title.textContent = translator()(day);
      list.parentElement.hidden = !shown.length;
      arrange(list, shown.map((chat) => this.#row(chat, chat.id === current)));
    }
  }

  #row(chat, isCurrent) {
    if (!this.#rows.has(chat.id)) {
      this.#rows.set(chat.id, new ChatRow(chat.id, (action) => this.#actInRow(action)));
    }
    const row = this.#rows.get(chat.id);
    row.show(chat, isCurrent);
    return row.item;
  }

  #actInRow(action) {
    this.act(action);
    const closes = action.kind === 'open' && sidebarsCover();
    if (closes) document.dispatchEvent(new CustomEvent('linly:opened'));
  }

  #drawDeleted(deleted) {
    if (deleted?.id !== this.#hidden) this.#hidden = null;
    const chat = deleted && deleted.id !== this.#hidden ? deleted : null;
    refresh(this.deleted, [language(), chat], () => chat && this.#undoBar(chat));
  }

  #undoBar(chat) {
    const t = translator();
    const undo = () => this.act({ kind: 'undo', id: chat.id });
    const hide = () => {
      this.#hidden = chat.id;
      this.#drawDeleted(chat);
    };
    return [
      h('span', {}, t('deleted', { title: chat.title || t('untitled') })),
      h('button', { type: 'button', class: 'linly-button', onclick: undo }, t('undo')),
      iconButton('close', t('close'), hide),
    ];
  }
}

/** Returns the part of the list that a time belongs to, by this browser's clock. */
function dayOf(seconds) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  const time = seconds * 1000;
  if (time >= midnight.getTime()) return 'today';
  midnight.setDate(midnight.getDate() - 1);
  return time >= midnight.getTime() ? 'yesterday' : 'earlier';
}
