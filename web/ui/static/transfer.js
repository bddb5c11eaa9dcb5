// The side bar's menu: chats out as files, in from a file, and the link to a chat. `element` is the
// menu, `show(chat)` tells it which chat is open, if any.

import { copy } from './clipboard.js';
import { h, refresh } from './dom.js';
import { toast } from './toast.js';
import { language, words } from './words.js';

const LARGEST = 5_000_000; // bytes
const KINDS = '.json,application/json';

export class TransferMenu {
  constructor(act) {
    this.act = act;
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
    const send = (action) => () => this.act(action);
    this.file.setAttribute('aria-label', t('import'));
    return [
      h('summary', {}, t('transfer')),
      h('ul', {},
        entry('copy_link', copyLink, isOpen),
        entry('export_json', send({ kind: 'export', format: 'json' }), isOpen),
        entry('export_markdown', send({ kind: 'export', format: 'markdown' }), isOpen),
        entry('export_all', send({ kind: 'export_all' })),
        entry('export_pairs', send({ kind: 'pairs' })),
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
    if (file.size > LARGEST) toast(words()('too_large', { name }));
    else await this.#send(file, name);
    this.file.value = ''; // so that the same file can be chosen again
  }

  async #send(file, name) {
    try {
      this.act({ kind: 'import', name, text: await file.text() });
    } catch {
      toast(words()('unreadable', { name }));
    }
  }
}

async function copyLink() {
  await copy(location.href);
  toast(words()('link_copied'));
}
