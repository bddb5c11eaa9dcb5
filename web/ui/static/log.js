// The log of a chat, and what is said live in it: the stream's events `log` and `live`.

import { act } from './actions.js';
import { ComparisonView } from './comparison.js';
import { copyCode } from './code.js';
import { h, refresh, setAttribute } from './dom.js';
import { propose } from './message_box.js';
import { icon, iconButton } from './icons.js';
import { Items } from './items.js';
import { fillTexts, hear, settle } from './streaming_state.js';
import { Messages } from './messages.js';
import { Follower } from './scroll.js';
import { onShown, show } from './current_chat.js';
import { onEvent, reconnect } from './stream.js';
import { language, speak, words } from './i18n.js';

export function mountLog(element) {
  const log = new Log(act);
  let messages = new Items();
  element.replaceChildren(log.element);
  onShown((value) => log.take(value));
  onEvent('tab', () => { messages = new Items(); }); // the stream begins anew
  onEvent('log', (value) => {
    if (!fillTexts(Object.values(value.messages.changed))) return reconnect();
    return show({ ...value, messages: messages.whole(value.messages) });
  });
  onEvent('live', (news) => log.drawLive(hear(news)));
  document.addEventListener('linly:edit-last', () => log.editLast());
}

class Log {
  #value = null; // the newest
  #drawn = null; // the one on the screen
  #due = new Set(); // what the next frame is to draw
  #heard = new Set(); // the messages that have grown since the last one

  constructor(act) {
    this.list = h('div', { class: 'messages' });
    this.scroller = h('div', { class: 'scroller', role: 'log', 'aria-live': 'polite', tabindex: 0 },
      this.list);
    this.empty = h('div', { class: 'empty' });
    this.end = h('div', { class: 'to-end', hidden: true });
    this.element = h('div', { class: 'linly-log' }, this.scroller, this.empty, this.end);
    this.element.addEventListener('click', copyCode);
    this.follower = new Follower(this.scroller, this.list, (away) => { this.end.hidden = !away; });
    this.messages = new Messages(this.list, this.follower, act);
    this.comparison = new ComparisonView(act);
  }

  take(value) {
    settle([...value.messages, ...(value.comparison?.replies ?? [])]);
    this.#value = value;
    this.#nextFrame('all');
  }

  drawLive(ids) {
    for (const id of ids) this.#heard.add(id);
    this.#nextFrame('live');
  }

  editLast() {
    const view = this.messages.last('user');
    view?.edit();
    view?.article.scrollIntoView({ block: 'nearest' });
  }

  // Values may come faster than the screen shows them. Only the newest is drawn.
  #nextFrame(what) {
    if (!this.#due.size) requestAnimationFrame(() => this.#draw());
    this.#due.add(what);
  }

  #draw() {
    const all = this.#due.has('all');
    this.#due.clear();
    if (all) this.#drawAll();
    else if (this.#drawn) this.#drawReplies();
    this.#heard.clear();
  }

  #drawReplies() {
    this.messages.showLive(this.#heard);
    const { comparison } = this.#drawn;
    if (comparison) this.follower.keep(() => this.comparison.show(comparison));
  }

  #drawAll() {
    const value = this.#value;
    const before = this.#drawn;
    this.#drawn = value;
    speak(value.language);
    this.#drawFrame(value);
    if (value.comparison) this.follower.keep(() => this.comparison.show(value.comparison));
    this.messages.show(value.messages, value.comparison && this.comparison.element);
    if (before?.chat !== value.chat || spokeNow(before, value)) this.follower.toEnd();
  }

  #drawFrame({ messages, comparison, empty, suggestions }) {
    const t = words();
    setAttribute(this.scroller, 'aria-label', t('log'));
    const toEnd = () => this.follower.toEnd();
    refresh(this.end, language(), () => iconButton('down', t('to_the_end'), toEnd));
    this.list.classList.toggle('wide', Boolean(comparison));
    this.empty.hidden = messages.length > 0 || Boolean(comparison);
    refresh(this.empty, [language(), empty, suggestions], () => welcome(empty, suggestions ?? []));
  }
}

/** Whether the reader has just sent a message: then they want to see it, wherever they were. */
function spokeNow(before, { messages }) {
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
      'aria-label': words()('suggestions') }, suggestions.map(suggest)),
  ];
}
