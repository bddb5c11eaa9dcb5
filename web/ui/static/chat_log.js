// The log of a chat with its streaming replies: the stream's events `log` and `live`.

import { act } from './actions.js';
import { ComparisonView } from './comparison.js';
import { copyCode } from './code.js';
import { h, refresh, setAttribute } from './dom.js';
import { propose } from './message_box.js';
import { icon, iconButton } from './icons.js';
import { Items } from './items.js';
import { fillKnownTexts, forgetEnded, receiveLive } from './streaming_state.js';
import { Messages } from './message_list.js';
import { Follower } from './scroll.js';
import { onLogChange, setLogValue } from './current_chat.js';
import { onEvent, reconnect } from './stream.js';
import { language, setLanguage, translator } from './i18n.js';

export function mountLog(element) {
  const log = new Log(act);
  let messages = new Items();
  element.replaceChildren(log.element);
  onLogChange((value) => log.show(value));
  onEvent('tab', () => { messages = new Items(); }); // a new stream sends all items again
  onEvent('log', (value) => {
    if (!fillKnownTexts(Object.values(value.messages.changed))) return reconnect();
    return setLogValue({ ...value, messages: messages.merge(value.messages) });
  });
  onEvent('live', (changes) => log.drawLive(receiveLive(changes)));
  document.addEventListener('linly:edit-last', () => log.editLast());
}

class Log {
  #value = null; // the newest
  #drawn = null; // the one on the screen
  #due = new Set(); // parts that the next frame draws: 'all', 'live'
  #grown = new Set(); // ids of the messages that have grown since the last frame

  constructor(act) {
    this.list = h('div', { class: 'messages' });
    this.scroller = h('div', { class: 'scroller', role: 'log', 'aria-live': 'polite', tabindex: 0 },
      this.list);
    this.empty = h('div', { class: 'empty' });
    this.end = h('div', { class: 'to-end', hidden: true });
    this.element = h('div', { class: 'linly-log' }, this.scroller, this.empty, this.end);
    this.element.addEventListener('click', copyCode);
    this.follower = new Follower(this.scroller, this.list, (isAway) => { this.end.hidden = !isAway; });
    this.messages = new Messages(this.list, this.follower, act);
    this.comparison = new ComparisonView(act);
  }

  show(value) {
    forgetEnded([...value.messages, ...(value.comparison?.replies ?? [])]);
    this.#value = value;
    this.#schedule('all');
  }

  drawLive(ids) {
    for (const id of ids) this.#grown.add(id);
    this.#schedule('live');
  }

  editLast() {
    const view = this.messages.last('user');
    view?.edit();
    view?.article.scrollIntoView({ block: 'nearest' });
  }

  // Values may come faster than frames are drawn. Only the newest is drawn.
  #schedule(part) {
    if (!this.#due.size) requestAnimationFrame(() => this.#draw());
    this.#due.add(part);
  }

  #draw() {
    const all = this.#due.has('all');
    this.#due.clear();
    if (all) this.#drawAll();
    else if (this.#drawn) this.#drawLiveMessages();
    this.#grown.clear();
  }

  #drawLiveMessages() {
    this.messages.showLive(this.#grown);
    const { comparison } = this.#drawn;
    if (comparison) this.follower.keep(() => this.comparison.show(comparison));
  }

  #drawAll() {
    const value = this.#value;
    const before = this.#drawn;
    this.#drawn = value;
    setLanguage(value.language);
    this.#drawFrame(value);
    if (value.comparison) this.follower.keep(() => this.comparison.show(value.comparison));
    this.messages.show(value.messages, value.comparison && this.comparison.element);
    if (before?.chat !== value.chat || hasJustAsked(before, value)) this.follower.toEnd();
  }

  #drawFrame({ messages, comparison, empty, suggestions }) {
    const t = translator();
    setAttribute(this.scroller, 'aria-label', t('log'));
    const toEnd = () => this.follower.toEnd();
    refresh(this.end, language(), () => iconButton('down', t('to_the_end'), toEnd));
    this.list.classList.toggle('wide', Boolean(comparison));
    this.empty.hidden = messages.length > 0 || Boolean(comparison);
    refresh(this.empty, [language(), empty, suggestions], () => welcome(empty, suggestions ?? []));
  }
}

/** Whether the reader has just sent a message: then the log scrolls to it. */
function hasJustAsked(before, { messages }) {
  const lastOf = (all) => all.findLast(({ role }) => role === 'user')?.id;
  return before && messages.length > before.messages.length
    && lastOf(messages) !== lastOf(before.messages);
}

function welcome(text, suggestions) {
  const suggest = (question) => h('button',
    { type: 'button', class: 'linly-button', onclick: () => propose(question) }, question);
  return [
    icon('chat'),
    h('p', {}, text),
    suggestions.length && h('div', { class: 'suggestions', role: 'group',
      'aria-label': translator()('suggestions') }, suggestions.map(suggest)),
  ];
}
