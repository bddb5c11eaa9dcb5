// Keeps what is in the message box and has not been sent, for each chat, in this browser.

import { keep, kept } from './store.js';

const DELAY = 200; // milliseconds after typing until it is kept
const NEW = 'new';

const key = (chat) => `draft.${chat ?? NEW}`;
const lastQuestion = (messages) => messages.findLast(({ role }) => role === 'user');
const without = (text, sent) => (text.startsWith(sent) ? text.slice(sent.length) : text);

/** `read()` is the text of the box, `write(text)` changes it. */
export class Drafts {
  #chat; // undefined until the log has said which it is
  #typing = 0;
  #asked; // the id of the last question that the log showed
  #leaving = null; // the chat that was asked for, and what was in the box then
  #underway = []; // what was sent, until both the server has said so and its chat is known

  constructor(read, write) {
    this.read = read;
    this.write = write;
  }

  typed() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.#keep(), DELAY);
  }

  /** Another chat was asked for. What is typed from now on belongs to that one. */
  leaving(chat) {
    if (this.#chat === undefined) return;
    if (chat === this.#chat) this.#leaving = null;
    else this.#leaving = { text: this.read(), ...this.#leaving, chat };
  }

  /** The server refused to open it. */
  stayed() {
    this.#leaving = null;
  }

  /** What is in the box is on its way. It belongs to this chat, whichever is shown by then. */
  sending() {
    const chat = this.#leaving ? this.#leaving.chat : this.#chat;
    const text = this.read();
    if (!text.trim()) return;
    const others = this.#underway.filter((one) => one.chat !== chat || one.text !== text);
    this.#underway = [...others, { chat, text, after: this.#asked, taken: false, shown: false }];
  }

  /** The server has this text: it leaves the box, and what was typed behind it stays. */
  sent(text) {
    const found = this.#underway.find((one) => one.text === text);
    this.#take(found ?? { chat: this.#chat, text });
    // The log has yet to show which chat the first message of a new one has begun.
    const begins = (found?.chat ?? null) === null;
    if (!begins) this.#underway = this.#underway.filter((one) => one !== found);
  }

  /** Keep what is in the box now. */
  flush() {
    clearTimeout(this.#typing);
    this.#keep();
  }

  /** The log shows this chat with these messages. It may do so before the server says `sent`. */
  show({ chat, messages }) {
    const question = lastQuestion(messages);
    // The log may skip the new chat, and show what its first message made of it.
    if (this.#leaving?.chat === null && chat !== this.#chat && chat !== null) this.#turnTo(null);
    const arrived = this.#underway.find((one) => this.#isShown(one, chat, question));
    if (arrived && this.#chat === null && chat !== null) this.#moveTo(chat);
    else if (chat !== this.#chat) this.#turnTo(chat);
    if (arrived) this.#settle(arrived, chat);
    this.#asked = question?.id;
  }

  #keep() {
    if (this.#chat !== undefined) keep(key(this.#chat), this.read() || null);
  }

  // The same words may have been asked before: only another message tells that these arrived.
  #isShown(one, chat, question) {
    const here = one.chat === chat || (one.chat === null && this.#chat === null);
    const another = question && question.id !== one.after && !one.shown;
    return here && another && question.text.trim() === one.text.trim();
  }

  #settle(one, chat) {
    const told = one.taken;
    Object.assign(one, { chat, shown: true });
    this.#take(one);
    if (told) this.#underway = this.#underway.filter((other) => other !== one);
  }

  #take(one) {
    if (one.taken) return;
    one.taken = true;
    if (one.chat !== this.#chat) {
      keep(key(one.chat), without(kept(key(one.chat)) ?? '', one.text) || null);
      return;
    }
    this.write(without(this.read(), one.text));
    this.flush();
  }

  // The first message made a chat of the new one: what has been typed since belongs to it.
  #moveTo(chat) {
    keep(key(null), null);
    this.#chat = chat;
    this.flush();
  }

  #turnTo(chat) {
    const first = this.#chat === undefined;
    const added = this.#leave();
    this.#chat = chat;
    if (first) for (const one of this.#underway) one.chat ??= chat;
    else this.#underway = this.#underway.filter(({ taken }) => !taken);
    const draft = [kept(key(chat)), added].filter(Boolean).join('\n');
    // Whoever typed while the page was loading keeps that.
    if (!first || !this.read()) this.write(draft);
  }

  /** Keep the draft of the chat that is left; what was typed after another one was asked for. */
  #leave() {
    const leaving = this.#leaving;
    this.#leaving = null;
    if (!leaving) {
      this.flush();
      return '';
    }
    clearTimeout(this.#typing);
    keep(key(this.#chat), leaving.text || null);
    return without(this.read(), leaving.text);
  }
}
