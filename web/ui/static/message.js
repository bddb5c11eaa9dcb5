// One message of the log: `article` is its element, `show(message)` updates it part by
// part. `act(action)` runs an action of the reader. `kind` may replace the accessible
// `name`, the `heading` and the `tools`, for replies side by side.

import { copyFrom } from './clipboard.js';
import { h, refresh, setAttribute } from './dom.js';
import { discardSentEdit, editor, storedEdit } from './editor.js';
import { iconButton } from './icons.js';
import { renderReply, renderTyped } from './markdown.js';
import { language, translator } from './i18n.js';

const PARTS = ['heading', 'notice', 'state', 'facts', 'tools'];
const ENDED_EARLY = ['stopped', 'cut', 'interrupted', 'failed'];

export class MessageView {
  #editor = null;
  #shownKey = '';

  constructor(message, act, kind = {}) {
    this.act = act;
    this.kind = { name: nameOf, heading: () => null, tools: messageTools, ...kind };
    this.body = h('div', { class: 'body' });
    this.slots = Object.fromEntries(PARTS.map((part) => [part, h('div', { class: part })]));
    const { heading, ...below } = this.slots;
    this.article = h('article', { class: message.role, 'data-id': message.id },
      heading, this.body, Object.values(below));
    const edited = message.role === 'user' ? storedEdit(message.id) : null;
    if (edited !== null) this.#openEditor(edited);
  }

  show(message) {
    const key = JSON.stringify([language(), message]);
    if (key === this.#shownKey) return;
    this.#shownKey = key;
    this.message = message;
    const streaming = message.state === 'streaming';
    setAttribute(this.article, 'aria-label', this.kind.name(message));
    setAttribute(this.article, 'aria-busy', streaming);
    this.article.classList.toggle('streaming', streaming);
    this.#showBody(message);
    this.#fill('heading', [message.who], () => this.kind.heading(message));
    this.#fill('notice', [message.notice], () => message.notice);
    this.#fill('state', stateData(message), () => stateLine(this));
    this.#fill('facts', streaming ? [] : factsData(message), () => factsLine(this));
    this.#fill('tools', toolsData(message), () => this.kind.tools(this));
  }

  edit() {
    if (!this.#editor) this.#openEditor(this.message.text);
    const area = this.#editor.querySelector('textarea');
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  /** The log shows another message, or none, in this one's place. */
  onReplaced(other) {
    if (this.#editor && other?.role === 'user') discardSentEdit(this.message.id, other.text);
  }

  #showBody({ role, text, state }) {
    if (role === 'user') renderTyped(this.body, text);
    else renderReply(this.body, text, state === 'streaming');
  }

  #fill(part, data, draw) {
    const slot = this.slots[part];
    refresh(slot, [language(), ...data], draw);
    const empty = !slot.hasChildNodes();
    if (slot.hidden !== empty) slot.hidden = empty;
  }

  #openEditor(text) {
    this.#editor = editor(this.article.dataset.id, text, {
      send: (edited) => this.act({ kind: 'edit', id: this.message.id, text: edited }),
      cancel: () => this.#closeEditor(),
    });
    this.body.after(this.#editor);
    this.article.classList.add('editing');
  }

  #closeEditor() {
    this.#editor.remove();
    this.#editor = null;
    this.article.classList.remove('editing');
    this.slots.tools.querySelector('[data-act="edit"]')?.focus();
  }
}

const nameOf = ({ role }) => translator()(role === 'user' ? 'you' : 'reply');

// The data of each part, which is redrawn only when they change.
const stateData = ({ state, error, continues }) => [state, error, continues];
const factsData = ({ facts, provenance, exact }) => [facts, provenance, exact];
const toolsData = ({ role, state, branch, comparison, vote, busy }) =>
  [role, state === 'streaming', branch, comparison, vote, busy];

function stateLine({ message, act }) {
  const t = translator();
  const { id, state, error, continues } = message;
  if (state === 'streaming') return h('span', { class: 'linly-hidden' }, t('streaming'));
  return [
    ENDED_EARLY.includes(state) && h('span', { class: state }, error || t(state)),
    continues && button('continue', () => act({ kind: 'continue', id })),
  ];
}

function factsLine({ message, act }) {
  const t = translator();
  const { id, facts, provenance, exact, state } = message;
  if (state === 'streaming' || !(facts || provenance?.length)) return null;
  if (!provenance?.length) return facts;
  const row = ([label, value]) => h('div', {}, h('dt', {}, label), h('dd', {}, value));
  return h('details', {},
    h('summary', { title: t('provenance') }, facts || t('provenance')),
    h('dl', {}, provenance.map(row)),
    exact && button('again', () => act({ kind: 'again', id })));
}

const button = (kind, onclick) =>
  h('button', { type: 'button', class: 'linly-button', 'data-act': kind, onclick }, translator()(kind));

function messageTools(view) {
  const { id, role, state, branch, comparison } = view.message;
  const t = translator();
  const tool = (icon, kind, press = () => view.act({ kind, id })) =>
    iconButton(icon, t(kind), press, { 'data-act': kind });
  const copy = tool('copy', 'copy', (event) => copyFrom(event.currentTarget, view.message.text));
  const edit = tool('edit', 'edit', () => view.edit());
  const again = state !== 'streaming' && tool('again', 'regenerate');
  const sideBySide = Boolean(comparison) && tool('columns', 'side_by_side');
  return [pager(branch, view.act), copy, ...(role === 'user' ? [edit] : [again, sideBySide])];
}

/** ‹ 2/3 ›: shows the other versions of a message. */
function pager(branch, act) {
  if (!(branch?.of > 1)) return null;
  const t = translator();
  const arrow = (direction, id) => iconButton(direction, t(`version_${direction}`),
    () => act({ kind: 'branch', id }), { disabled: !id, 'data-act': direction });
  const label = t('version', branch);
  return h('span', { class: 'pager', role: 'group', 'aria-label': label },
    arrow('before', branch.before),
    h('span', { title: label }, `${branch.at}/${branch.of}`),
    arrow('after', branch.after));
}
