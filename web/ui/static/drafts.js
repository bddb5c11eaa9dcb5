// Keeps what is in the message box and has not been sent, for each chat, in this browser.

import { keep, kept } from './store.js';

const DELAY = 200; // milliseconds after typing until it is kept
const LOOK = 200; // and between two looks at whether a sent message has left the box
const NEW = 'new';

const key = (chat) => `draft.${chat ?? NEW}`;
const lastQuestion = (messages) => messages.findLast(({ role }) => role === 'user')?.text.trim();

/** `read()` is the text of the box, `write(text)` changes it. */
export class Drafts {
  #chat; // undefined until the log has said which it is
  #typing = 0;
  #leaving = 0;
  #sent = null; // what is on its way to the server

  constructor(read, write) {
    this.read = read;
    this.write = write;
  }

  typed() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.#keep(), DELAY);
  }

  /** The server will empty the box, and no event will tell. */
  sending() {
    this.#sent = this.read().trim() || this.#sent;
    clearInterval(this.#leaving);
    this.#leaving = setInterval(() => !this.read() && this.flush(), LOOK);
  }

  /** Keep what is in the box now. */
  flush() {
    clearTimeout(this.#typing);
    clearInterval(this.#leaving);
    this.#keep();
  }

  /** The log shows this chat with these messages. */
  show({ chat, messages }) {
    const arrived = this.#sent !== null && lastQuestion(messages) === this.#sent;
    const begun = arrived && this.#chat === null;
    if (begun) this.#moveTo(chat);
    else if (chat !== this.#chat) this.#turnTo(chat);
    if (arrived && this.read().trim() === this.#sent) keep(key(chat), null);
    if (arrived) this.#sent = null;
  }

  #keep() {
    if (this.#chat !== undefined) keep(key(this.#chat), this.read() || null);
  }

  // The first message made a chat of the new one: what has been typed since belongs to it.
  #moveTo(chat) {
    keep(key(null), null);
    this.#chat = chat;
    this.flush();
  }

  #turnTo(chat) {
    const first = this.#chat === undefined;
    this.flush();
    this.#chat = chat;
    this.#sent = null;
    const draft = kept(key(chat)) ?? '';
    // Whoever typed while the page was loading keeps that.
    if (!first || !this.read()) this.write(draft);
  }
}
