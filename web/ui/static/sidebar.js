// The visitor's chats: a search, the list by day, a way back for a chat that was deleted, and a
// menu: the stream's event `sidebar`. Where it covers the page, opening a chat sends `linly:opened`
// to the document, which makes room.

import { act } from './actions.js';
import { arrange, h, keepingFocus, refresh, setAttribute } from './dom.js';
import { iconButton } from './icons.js';
import { Items } from './items.js';
import { ChatRow } from './chat_row.js';
import { barsCover } from './viewport.js';
import { onEvent } from './stream.js';
import { TransferMenu } from './import_export_menu.js';
import { language, speak, words } from './i18n.js';

const TYPING = 200; // milliseconds without a key until a search begins
const DAYS = ['today', 'yesterday', 'earlier'];

export function mountSidebar(element) {
  const sidebar = new Sidebar(act);
  let chats = new Items();
  element.replaceChildren(sidebar.element);
  onEvent('tab', () => { chats = new Items(); }); // the stream begins anew
  onEvent('sidebar', (value) => sidebar.show({ ...value, chats: chats.whole(value.chats) }));
}

class Sidebar {
  #rows = new Map();
  #hidden = null; // the deleted chat whose bar was closed
  #typing = 0;

  constructor(act) {
    this.act = act;
    this.search = h('input', { type: 'search', oninput: () => this.#searchSoon() });
    this.days = DAYS.map((day) => ({ day, title: h('h2'), list: h('ul') }));
    this.none = h('p', { class: 'none' });
    const sections = this.days.map(({ title, list }) => h('section', {}, title, list));
    this.more = h('p', { class: 'more' });
    this.nav = h('nav', {}, sections, this.none, this.more);
    this.deleted = h('div', { class: 'deleted', role: 'status' });
    this.note = h('p', { class: 'note' });
    this.menu = new TransferMenu();
    this.element = h('div', { class: 'linly-sidebar', hidden: true },
      this.search, this.nav, this.deleted, this.note, this.menu.element);
  }

  show(value) {
    speak(value.language);
    this.element.hidden = false; // until now nothing in it had a name
    keepingFocus(() => this.#draw(value));
  }

  #draw({ chats, more, current, query, deleted, kept }) {
    const t = words();
    this.#drawSearch(query);
    setAttribute(this.nav, 'aria-label', t('chats'));
    this.none.textContent = chats.length ? '' : t(query ? 'nothing_found' : 'no_chats');
    this.more.textContent = more ? t('older_chats', { count: chats.length }) : '';
    this.#drawChats(chats, current);
    this.#drawDeleted(deleted);
    this.note.textContent = kept === false ? t('not_kept') : '';
    this.menu.show(current);
  }

  // While somebody types, the server's idea of what is searched for is older than theirs.
  #drawSearch(query) {
    const label = words()('search_chats');
    this.search.placeholder = label;
    setAttribute(this.search, 'aria-label', label);
    if (document.activeElement !== this.search) this.search.value = query ?? '';
  }

  #searchSoon() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.act({ kind: 'search', text: this.search.value }), TYPING);
  }

  #drawChats(chats, current) {
    const ids = new Set(chats.map(({ id }) => id));
    for (const id of this.#rows.keys()) if (!ids.has(id)) this.#rows.delete(id);
    for (const { day, title, list } of this.days) {
      const those = chats.filter(({ updated }) => dayOf(updated) === day);
      title.textContent = words()(day);
      list.parentElement.hidden = !those.length;
      arrange(list, those.map((chat) => this.#row(chat, chat.id === current)));
    }
  }

  #row(chat, isCurrent) {
    if (!this.#rows.has(chat.id)) {
      this.#rows.set(chat.id, new ChatRow(chat.id, (action) => this.#did(action)));
    }
    const row = this.#rows.get(chat.id);
    row.show(chat, isCurrent);
    return row.item;
  }

  #did(action) {
    this.act(action);
    const makesRoom = action.kind === 'open' && barsCover();
    if (makesRoom) document.dispatchEvent(new CustomEvent('linly:opened'));
  }

  #drawDeleted(deleted) {
    if (deleted?.id !== this.#hidden) this.#hidden = null;
    const chat = deleted && deleted.id !== this.#hidden ? deleted : null;
    refresh(this.deleted, [language(), chat], () => chat && this.#wayBack(chat));
  }

  #wayBack(chat) {
    const t = words();
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

/** Which part of the list a time belongs to, by this browser's clock. */
function dayOf(seconds) {
  const midnight = new Date();
  midnight.setHours(0, 0, 0, 0);
  const time = seconds * 1000;
  if (time >= midnight.getTime()) return 'today';
  midnight.setDate(midnight.getDate() - 1);
  return time >= midnight.getTime() ? 'yesterday' : 'earlier';
}
