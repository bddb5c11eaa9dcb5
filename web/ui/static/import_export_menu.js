// The side bar's menu: chats out as files, in from a file, and the link to a chat. `element` is the
// menu, `show(chat)` tells it which chat is open, if any.

import { exportChats, importChats } from './actions.js';
import { copy } from './clipboard.js';
import { h, refresh } from './dom.js';
import { toast } from './toast.js';
import { language, words } from './i18n.js';

const LARGEST = 5_000_000; // bytes that are sent at once
const PART = 1_000_000; // characters of each part of a larger file, if its chats are not larger
const KINDS = '.json,application/json';

export class TransferMenu {
  constructor() {
    const chosen = () => this.#import();
    this.file = h('input', { type: 'file', hidden: true, accept: KINDS, onchange: chosen });
    this.element = h('details', { class: 'menu' });
  }

  show(chat) {
    refresh(this.element, [language(), Boolean(chat)], () => this.#entries(Boolean(chat)));
  }

  #entries(isOpen) {
    const t = words();
    const entry = (key, press, enabled = true) => h('li', {}, h('button',
      { type: 'button', disabled: !enabled, onclick: () => this.#choose(press) }, t(key)));
    const save = (kind) => () => exportChats(kind);
    this.file.setAttribute('aria-label', t('import'));
    return [
      h('summary', {}, t('transfer')),
      h('ul', {},
        entry('copy_link', copyLink, isOpen),
        entry('export_json', save('json'), isOpen),
        entry('export_markdown', save('markdown'), isOpen),
        entry('export_all', save('all')),
        entry('export_pairs', save('pairs')),
        entry('import', () => this.file.click())),
      this.file,
    ];
  }

  #choose(press) {
    this.element.open = false;
    press();
  }

  async #import() {
    const [file] = this.file.files;
    if (!file) return;
    const { name } = file;
    try {
      const texts = parts(await file.text());
      texts.forEach((text, at) => this.#send(name, text, at < texts.length - 1));
    } catch {
      toast(words()('unreadable', { name }));
    }
    this.file.value = ''; // so that the same file can be chosen again
  }

  #send(name, text, more) {
    if (bytes(text) > LARGEST) toast(words()('too_large', { name }));
    else importChats(text, more);
  }
}

/** A file that is too large to be sent at once, as several with some of its chats each. */
function parts(text) {
  if (bytes(text) <= LARGEST) return [text];
  const value = parsed(text);
  if (Array.isArray(value)) return grouped(value).map((chats) => JSON.stringify(chats));
  if (!Array.isArray(value?.chats)) return [text];
  return grouped(value.chats).map((chats) => JSON.stringify({ ...value, chats }));
}

const bytes = (text) => new Blob([text]).size;

function grouped(chats) {
  const groups = [];
  let room = 0;
  for (const chat of chats) {
    const { length } = JSON.stringify(chat);
    if (length > room) {
      groups.push([]);
      room = PART;
    }
    groups.at(-1).push(chat);
    room -= length;
  }
  return groups;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // the server says what is wrong with it
  }
}

async function copyLink() {
  await copy(location.href);
  toast(words()('link_copied'));
}
