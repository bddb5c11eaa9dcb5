// The messages of a chat as children of `list`, each redrawn only when its data change. Of a long chat
// the end is drawn at once, and the other messages, from the end to the beginning, while the browser is
// idle. `follower` keeps the reader's place.

import { arrange, keepingFocus, setAttribute } from './dom.js';
import { Groups } from './groups.js';
import { MessageView } from './message.js';
import { withLive } from './streaming_state.js';

const DRAWN_AT_ONCE = 20;
const SENDING_EDITOR = '.editor[aria-busy="true"]';
const SLICE = 8; // milliseconds of drawing at a time: half a frame

const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 30));

export class Messages {
  #views = new Map();
  #messages = [];
  #footer = null;
  #filling = false;
  #groups = new Groups();
  #lastArticle = null;

  constructor(list, follower, act) {
    this.list = list;
    this.follower = follower;
    this.act = act;
  }

  /** Show these messages, and an element behind them if there is one. */
  show(messages, footer) {
    const focused = this.#focusedTool();
    this.#drop(messages);
    this.#messages = messages;
    this.#footer = footer;
    const firstAtOnce = messages.length - DRAWN_AT_ONCE;
    this.#draw(messages.filter(({ id }, i) => i >= firstAtOnce || this.#views.has(id)));
    this.#restoreFocus(focused);
    this.#fill();
  }

  /** Redraw the streaming messages of these ids. */
  showLive(ids) {
    const grown = this.#messages.slice(-DRAWN_AT_ONCE).filter(({ id }) => ids.has(id));
    if (!grown.length) return;
    this.follower.keep(() => {
      for (const message of grown) this.#views.get(message.id)?.show(withLive(message));
    });
  }

  /** The view of the last message by `role`, if there is one. */
  last(role) {
    const message = this.#messages.findLast((candidate) => candidate.role === role);
    if (message) this.#draw([message]);
    return message && this.#views.get(message.id);
  }

  // Forget the views of messages that are gone.
  #drop(messages) {
    const ids = new Set(messages.map(({ id }) => id));
    this.#messages.forEach(({ id }, i) => {
      if (ids.has(id)) return;
      this.#views.get(id)?.onReplaced(messages[i]);
      this.#views.delete(id);
    });
  }

  #draw(messages) {
    this.follower.keep(() => keepingFocus(() => {
      for (const message of messages) this.#view(message).show(withLive(message));
      const articles = this.#messages.map(({ id }) => this.#views.get(id)?.article ?? null);
      this.#markLast(articles.at(-1));
      arrange(this.list, [...this.#groups.of(articles), this.#footer].filter(Boolean));
    }));
  }

  // By a class: `:last-of-type` would make the browser restyle every message when one is added.
  #markLast(article) {
    if (this.#lastArticle === article) return;
    this.#lastArticle?.classList.remove('last');
    article?.classList.add('last');
    this.#lastArticle = article;
  }

  #view(message) {
    if (!this.#views.has(message.id)) {
      this.#views.set(message.id, new MessageView(message, this.act));
    }
    return this.#views.get(message.id);
  }

  // The list is busy until it is complete, so that screen readers do not read out old messages.
  #fill() {
    const missing = this.#messages.filter(({ id }) => !this.#views.has(id));
    setAttribute(this.list, 'aria-busy', missing.length > 0);
    if (this.#filling || !missing.length) return;
    this.#filling = true;
    whenIdle(() => {
      this.#filling = false;
      this.#drawSlice();
      this.#fill();
    }, { timeout: 500 });
  }

  #drawSlice() {
    const missing = this.#messages.filter(({ id }) => !this.#views.has(id));
    const end = performance.now() + SLICE;
    do {
      const message = missing.pop();
      if (message) this.#view(message).show(withLive(message));
    } while (missing.length && performance.now() < end);
    this.#draw([]);
  }

  // Another version of a message is another element. A reader who pages by keyboard stays on the arrow;
  // a reader whose edit was being sent, when nothing has the focus, comes to the new message's tools.
  #focusedTool() {
    const focused = document.activeElement;
    const sending = focused === document.body ? this.list.querySelector(SENDING_EDITOR) : null;
    const article = (sending ?? focused)?.closest?.('article');
    const at = this.#messages.findIndex(({ id }) => this.#views.get(id)?.article === article);
    return { at, tool: sending ? 'edit' : article && at >= 0 && focused.dataset.act };
  }

  #restoreFocus({ at, tool }) {
    if (!tool || document.activeElement !== document.body) return;
    const article = this.#views.get(this.#messages[at]?.id)?.article;
    article?.querySelector(`[data-act="${tool}"]`)?.focus({ preventScroll: true });
  }
}
