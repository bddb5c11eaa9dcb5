// The side bar's menu: export chats to files, import them from a file, copy a chat's link. `element` is
// the menu; `show(chat)` sets the open chat, or null.

import { exportChats, importChats } from './actions.js';
import { copy } from './clipboard.js';
import { h, refresh } from './dom.js';
import { toast } from './toast.js';
import { language, translator } from './i18n.js';

const MAX_BYTES = 5_000_000; // of one request
const PART_LENGTH = 1_000_000; // characters of each part of a larger file, unless a chat is larger
const ARCHIVES = /^(PK\x03\x04|\x1f)/; // zip and gzip files
const FILE_TYPES = '.json,.jsonl,application/json';

export class TransferMenu {
  constructor() {
    const onchange = () => this.#import();
    this.file = h('input', { type: 'file', hidden: true, accept: FILE_TYPES, onchange });
    this.element = h('details', { class: 'menu' });
  }

  show(chat) {
    refresh(this.element, [language(), Boolean(chat)], () => this.#entries(Boolean(chat)));
  }

  #entries(isOpen) {
    const t = translator();
    const entry = (key, press, enabled = true) => h('li', {}, h('button',
      { type: 'button', disabled: !enabled, onclick: () => this.#onChoice(press) }, t(key)));
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

  #onChoice(press) {
    this.element.open = false;
    press();
  }

  async #import() {
    const [file] = this.file.files;
    if (!file) return;
    const { name } = file;
    let sent = [];
    try {
      const texts = splitFile(await readFile(file));
      sent = texts.map((text, i) => this.#send(name, text, i < texts.length - 1));
    } catch {
      toast(translator()('unreadable', { name }));
    }
    this.file.value = ''; // so that the same file can be chosen again
    tellLeftOut(name, await Promise.all(sent));
  }

  #send(name, text, more) {
    if (byteLength(text) <= MAX_BYTES) return importChats(text, more);
    toast(translator()('too_large', { name }));
    return {};
  }
}

/** Returns a file's text; of an archive only the beginning, which the server's error explains. */
async function readFile(file) {
  const start = await file.slice(0, 4).text();
  return ARCHIVES.test(start) ? start : file.text();
}

/** Shows what was left out of all parts of a file, each as counts by kind. */
function tellLeftOut(name, parts) {
  const counts = new Map();
  for (const [kind, count] of parts.flatMap(Object.entries)) {
    counts.set(kind, (counts.get(kind) ?? 0) + count);
  }
  if (!counts.size) return;
  const t = translator();
  const items = [...counts].map(([kind, count]) => t(`left_out_${kind}`, { count }));
  toast(t('left_out', { name, items: items.join(t('left_out_comma')) }));
}

/** Splits a file that is too large for one request into several with some of its chats each. */
function splitFile(text) {
  if (byteLength(text) <= MAX_BYTES) return [text];
  const value = parseJson(text);
  if (value === null) return splitLines(text);
  if (Array.isArray(value)) return groupChats(value).map((chats) => JSON.stringify(chats));
  if (!Array.isArray(value?.chats)) return [text];
  return groupChats(value.chats).map((chats) => JSON.stringify({ ...value, chats }));
}

/** Splits a file with a chat on each line. */
function splitLines(text) {
  const lines = text.split('\n').filter((line) => line.trim());
  if (!lines.length || parseJson(lines[0]) === null) return [text];
  return groupChats(lines).map((group) => group.join('\n'));
}

const byteLength = (text) => new Blob([text]).size;

function groupChats(chats) {
  const groups = [];
  let room = 0;
  for (const chat of chats) {
    const { length } = JSON.stringify(chat);
    if (length > room) {
      groups.push([]);
      room = PART_LENGTH;
    }
    groups.at(-1).push(chat);
    room -= length;
  }
  return groups;
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // the server's error says what is wrong with it
  }
}

async function copyLink() {
  await copy(location.href);
  toast(translator()('link_copied'));
}
