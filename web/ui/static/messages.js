// The messages of a chat as children of `list`, each drawn again only when its data changes. Of a
// long chat the end is drawn at once, and the rest, from the end to the beginning, when the browser
// has time. `follower` keeps what is read in its place.

import { arrange, keepingFocus, setAttribute } from './dom.js';
import { Groups } from './groups.js';
import { MessageView } from './message.js';
import { withLive } from './streaming_state.js';

const AT_ONCE = 20;
const WAITING = '.editor[aria-busy="true"]';
const SLICE = 8; // milliseconds of drawing at a time: half a frame

const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 30));

export class Messages {
  #views = new Map();
  #messages = [];
  #footer = null;
  #filling = false;
  #groups = new Groups();
  #last = null; // the last article

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
    const late = messages.length - AT_ONCE;
    this.#draw(messages.filter(({ id }, i) => i >= late || this.#views.has(id)));
    this.#focusAgain(focused);
    this.#fill();
  }

  /** Draw again the messages of these ids, which are being said. */
  showLive(ids) {
    const said = this.#messages.slice(-AT_ONCE).filter(({ id }) => ids.has(id));
    if (!said.length) return;
    this.follower.keep(() => {
      for (const message of said) this.#views.get(message.id)?.show(withLive(message));
    });
  }

  /** The view of the last message by `role`, if there is one. */
  last(role) {
    const message = this.#messages.findLast((one) => one.role === role);
    if (message) this.#draw([message]);
    return message && this.#views.get(message.id);
  }

  // Forget the views of what is not among `messages`.
  #drop(messages) {
    const ids = new Set(messages.map(({ id }) => id));
    this.#messages.forEach(({ id }, i) => {
      if (ids.has(id)) return;
      this.#views.get(id)?.replaced(messages[i]);
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

  // By a class: `:last-of-type` would have the browser style every message again when one comes.
  #markLast(article) {
    if (this.#last === article) return;
    this.#last?.classList.remove('last');
    article?.classList.add('last');
    this.#last = article;
  }

  #view(message) {
    if (!this.#views.has(message.id)) {
      this.#views.set(message.id, new MessageView(message, this.act));
    }
    return this.#views.get(message.id);
  }

  // Screen readers are not to read out what was said long ago: the list is busy until it is whole.
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

  // Another version of a message is another element; whoever pages by keyboard stays on the arrow,
  // and whoever wrote that version, and waited without a focus, comes to its tools.
  #focusedTool() {
    const focused = document.activeElement;
    const waiting = focused === document.body ? this.list.querySelector(WAITING) : null;
    const article = (waiting ?? focused)?.closest?.('article');
    const at = this.#messages.findIndex(({ id }) => this.#views.get(id)?.article === article);
    return { at, tool: waiting ? 'edit' : article && at >= 0 && focused.dataset.act };
  }

  #focusAgain({ at, tool }) {
    if (!tool || document.activeElement !== document.body) return;
    const article = this.#views.get(this.#messages[at]?.id)?.article;
    article?.querySelector(`[data-act="${tool}"]`)?.focus({ preventScroll: true });
  }
}
