// The Train tab's file: a box to drop one into, or to choose one with. It is uploaded at once, and
// known by a token from then on: `uploaded()`.

import { act, upload } from './actions.js';
import { h, refresh } from './dom.js';
import { iconButton } from './icons.js';
import { onEvent } from './stream.js';
import { language, words } from './words.js';

const TYPES = '.json,.jsonl,.txt';

let token = null;

export const uploaded = () => token;

export function mountUpload(element) {
  const box = new UploadBox();
  element.replaceChildren(box.element);
  onEvent('log', () => box.show());
  box.show();
}

class UploadBox {
  #name = '';
  #busy = false;

  constructor() {
    this.input = h('input', { type: 'file', accept: TYPES, class: 'linly-hidden',
      onchange: () => this.#chosen(this.input.files[0]) });
    this.slot = h('div', { class: 'inside' });
    this.element = h('div', { class: 'upload' }, this.input, this.slot);
    this.element.addEventListener('dragover', (event) => event.preventDefault());
    this.element.addEventListener('drop', (event) => {
      event.preventDefault();
      this.#chosen(event.dataTransfer.files[0]);
    });
  }

  show() {
    const t = words();
    this.input.setAttribute('aria-label', t('upload_file'));
    this.element.setAttribute('aria-busy', this.#busy);
    refresh(this.slot, [language(), this.#name, this.#busy], () => this.#inside(t));
  }

  #inside(t) {
    const choose = h('button', { type: 'button', class: 'choose',
      onclick: () => this.input.click() }, this.#name || `${t('drop_file')} ${t('drop_or')} ${t('choose_file')}`);
    return [
      h('span', { class: 'label' }, t('train_file')),
      choose,
      this.#name && iconButton('close', t('clear_file'), () => this.#clear()),
    ];
  }

  async #chosen(file) {
    this.input.value = ''; // so that the same file can be chosen again
    if (!file) return;
    this.#busy = true;
    this.#name = file.name;
    this.show();
    token = await upload(file);
    this.#busy = false;
    if (!token) this.#name = '';
    this.show();
    act({ kind: 'train_look' });
  }

  #clear() {
    token = null;
    this.#name = '';
    this.show();
    act({ kind: 'train_look' });
  }
}
