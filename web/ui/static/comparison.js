// Replies side by side: `element` has a column for each, and buttons for a vote. `show(comparison)`
// updates it.

import { arrange, h, keepingFocus, refresh } from './dom.js';
import { MessageView } from './message.js';
import { withLive } from './streaming_state.js';
import { language, translator } from './i18n.js';

export class ComparisonView {
  #views = new Map();

  constructor(act) {
    this.act = act;
    this.columns = h('div', { class: 'columns' });
    this.tie = h('div', { class: 'tie' });
    this.element = h('section', { class: 'comparison' }, this.columns, this.tie);
  }

  show(comparison) {
    const { id, vote, replies } = comparison;
    const busy = replies.some(({ state }) => state === 'streaming');
    this.element.setAttribute('aria-label', translator()('side_by_side'));
    const views = replies.map((reply) => {
      const view = this.#view(reply, id);
      view.show({ ...withLive(reply), vote, busy });
      return view;
    });
    const ids = new Set(replies.map((reply) => reply.id));
    for (const key of this.#views.keys()) if (!ids.has(key)) this.#views.delete(key);
    arrange(this.columns, views.map(({ article }) => article));
    keepingFocus(() => this.#showTie(id, vote, busy));
  }

  #view(reply, comparison) {
    if (!this.#views.has(reply.id)) {
      const tools = (view) => votingTools(view, comparison);
      const kind = { name: ({ who }) => who, heading, tools };
      this.#views.set(reply.id, new MessageView(reply, this.act, kind));
    }
    return this.#views.get(reply.id);
  }

  #showTie(comparison, vote, busy) {
    const press = () => this.act({ kind: 'vote', comparison, winner: 'tie' });
    refresh(this.tie, [language(), comparison, vote, busy], () =>
      voteButton('tie', press, { 'aria-pressed': String(vote === 'tie'), disabled: busy }));
  }
}

const heading = ({ who }) => who && h('h2', {}, who);

function votingTools({ message, act }, comparison) {
  const { id, vote, busy } = message;
  const best = { 'aria-pressed': String(vote === id), disabled: busy };
  return [
    voteButton('best', () => act({ kind: 'vote', comparison, winner: id }), best),
    voteButton('choose', () => act({ kind: 'choose', id }), { disabled: busy }),
  ];
}

function voteButton(kind, onclick, attributes) {
  const names = { type: 'button', class: 'linly-button', 'data-act': kind };
  return h('button', { ...names, onclick, ...attributes }, translator()(kind));
}
