// The Train tab's file: a box to drop a file into, or to choose one. The file is uploaded at once;
// `uploadToken()` is its token, or null while it is being uploaded.

import { act, upload } from './actions.js';
import { h } from './dom.js';
import { iconButton } from './icons.js';
import { onLogChange } from './current_chat.js';
import { setLanguage, translator } from './i18n.js';

const TYPES = '.json,.jsonl,.txt,.csv,.tsv,.gz';

let token = null;

export const uploadToken = () => token;

export function mountUpload(element) {
  const box = new UploadBox();
  element.replaceChildren(box.element);
  onLogChange((value) => {
    setLanguage(value.language);
    box.show();
  });
  box.show();
}

class UploadBox {
  #name = '';
  #busy = false;
  #count = 0; // of choices and clearings: only the newest counts

  constructor() {
    this.input = h('input', { type: 'file', accept: TYPES, class: 'linly-hidden', tabindex: -1,
      onchange: () => this.#onFile(this.input.files[0]) });
    this.label = h('span', { class: 'label' });
    this.choose = h('button', { type: 'button', class: 'choose',
      onclick: () => this.input.click() });
    this.clear = iconButton('close', '', () => this.#clear());
    this.element = h('div', { class: 'upload' }, this.input,
      h('div', { class: 'inside' }, this.label, this.choose, this.clear));
    this.element.addEventListener('dragover', (event) => event.preventDefault());
    this.element.addEventListener('drop', (event) => {
      event.preventDefault();
      this.#onFile(event.dataTransfer.files[0]);
    });
  }

  show() {
    const t = translator();
    this.input.setAttribute('aria-label', t('upload_file'));
    this.element.setAttribute('aria-busy', this.#busy);
    this.label.textContent = t('train_file');
    this.choose.textContent = this.#name
      || `${t('drop_file')} ${t('drop_or')} ${t('choose_file')}`;
    this.clear.hidden = !this.#name;
    this.clear.title = t('clear_file');
    this.clear.setAttribute('aria-label', t('clear_file'));
  }

  async #onFile(file) {
    this.input.value = ''; // so that the same file can be chosen again
    if (!file) return;
    const count = this.#set(file.name, true);
    const uploaded = await upload(file);
    if (count !== this.#count) return;
    this.#set(uploaded && file.name, false);
    token = uploaded;
    act({ kind: 'train_look' });
  }

  #clear() {
    this.#set('', false);
    this.choose.focus(); // the pressed button is hidden now
    act({ kind: 'train_look' });
  }

  #set(name, busy) {
    token = null;
    this.#name = name ?? '';
    this.#busy = busy;
    this.show();
    this.#count += 1;
    return this.#count;
  }
}
