// Stores the unsent text of the message box in this browser, for each chat.

import { readText, storeText } from './browser_storage.js';

const DELAY = 200; // milliseconds after typing until it is stored
const NEW = 'new';

const keyOf = (chat) => `draft.${chat ?? NEW}`;
const lastQuestion = (messages) => messages.findLast(({ role }) => role === 'user');
const without = (text, sent) => (text.startsWith(sent) ? text.slice(sent.length) : text);

/** `read()` returns the text of the box, `write(text)` changes it. */
export class Drafts {
  #chat; // undefined until the log has shown a chat
  #timer = 0;
  #questionId; // of the last question that the log showed
  #leaving = null; // the chat that is being opened, and the box's text at that moment
  #pending = []; // sent texts, until the server has confirmed them and their chat is known

  constructor(read, write) {
    this.read = read;
    this.write = write;
  }

  /** The visitor has typed. */
  typed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#store(), DELAY);
  }

  /** Another chat is being opened. Text that is typed from now on belongs to it. */
  leaving(chat) {
    if (this.#chat === undefined) return;
    if (chat === this.#chat) this.#leaving = null;
    else this.#leaving = { text: this.read(), ...this.#leaving, chat };
  }

  /** The server refused to open it. */
  openRefused() {
    this.#leaving = null;
  }

  /** The box's text is being sent. It belongs to this chat, even if another one is shown soon. */
  sending() {
    const chat = this.#leaving ? this.#leaving.chat : this.#chat;
    const text = this.read();
    if (!text.trim()) return;
    const others = this.#pending.filter((sent) => sent.chat !== chat || sent.text !== text);
    const sent = { chat, text, previousId: this.#questionId, removed: false, shown: false };
    this.#pending = [...others, sent];
  }

  /** The server has this text: it leaves the box, and text that was typed behind it stays. */
  sent(text) {
    const pending = this.#pending.find((sent) => sent.text === text);
    this.#remove(pending ?? { chat: this.#chat, text });
    // The log has yet to show which chat the first message of a new one has begun.
    const beginsChat = (pending?.chat ?? null) === null;
    if (!beginsChat) this.#pending = this.#pending.filter((sent) => sent !== pending);
  }

  /** Store the box's text now. */
  flush() {
    clearTimeout(this.#timer);
    this.#store();
  }

  /** The log shows this chat with these messages. It may do so before `sent` is called. */
  show({ chat, messages }) {
    const question = lastQuestion(messages);
    // The log may skip the new chat, and show the chat that its first message has begun.
    if (this.#leaving?.chat === null && chat !== this.#chat && chat !== null) this.#switchTo(null);
    const arrived = this.#pending.find((sent) => this.#isShown(sent, chat, question));
    if (arrived && this.#chat === null && chat !== null) this.#nameNewChat(chat);
    else if (chat !== this.#chat) this.#switchTo(chat);
    if (arrived) this.#confirm(arrived, chat);
    this.#questionId = question?.id;
  }

  #store() {
    if (this.#chat !== undefined) storeText(keyOf(this.#chat), this.read() || null);
  }

  // An earlier question may have the same text: only another message shows that this one arrived.
  #isShown(sent, chat, question) {
    const inThisChat = sent.chat === chat || (sent.chat === null && this.#chat === null);
    const isNew = question && question.id !== sent.previousId && !sent.shown;
    return inThisChat && isNew && question.text.trim() === sent.text.trim();
  }

  #confirm(sent, chat) {
    const confirmedBefore = sent.removed;
    Object.assign(sent, { chat, shown: true });
    this.#remove(sent);
    if (confirmedBefore) this.#pending = this.#pending.filter((other) => other !== sent);
  }

  // Remove a sent text from the box, or from the draft of its chat.
  #remove(sent) {
    if (sent.removed) return;
    sent.removed = true;
    if (sent.chat !== this.#chat) {
      const key = keyOf(sent.chat);
      storeText(key, without(readText(key) ?? '', sent.text) || null);
      return;
    }
    this.write(without(this.read(), sent.text));
    this.flush();
  }

  // The first message has begun a chat: text that was typed since belongs to it.
  #nameNewChat(chat) {
    storeText(keyOf(null), null);
    this.#chat = chat;
    this.flush();
  }

  #switchTo(chat) {
    const isFirst = this.#chat === undefined;
    const added = this.#leave();
    this.#chat = chat;
    if (isFirst) for (const sent of this.#pending) sent.chat ??= chat;
    else this.#pending = this.#pending.filter(({ removed }) => !removed);
    const draft = [readText(keyOf(chat)), added].filter(Boolean).join('\n');
    // Text that was typed while the page was loading stays.
    if (!isFirst || !this.read()) this.write(draft);
  }

  /** Store the draft of the chat that is left; returns the text that was typed since `leaving`. */
  #leave() {
    const leaving = this.#leaving;
    this.#leaving = null;
    if (!leaving) {
      this.flush();
      return '';
    }
    clearTimeout(this.#timer);
    storeText(keyOf(this.#chat), leaving.text || null);
    return without(this.read(), leaving.text);
  }
}
