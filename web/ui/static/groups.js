// Groups of a chat's articles. Once a group has been laid out, the browser may skip it while it is far
// from the viewport (see `.laid-out` in chat.css). Its height stays, and a new word at the end of a
// long chat costs as little as in a short one.

import { arrange, h } from './dom.js';

const SIZE = 20;

export class Groups {
  #groups = [];
  #observer = new ResizeObserver((entries) => this.#onLaidOut(entries));

  /** Returns the groups of these articles, in order. Null is an article that is not drawn yet. */
  of(articles) {
    const before = this.#groups;
    this.#groups = [];
    for (let first = 0; first < articles.length; first += SIZE) {
      const drawn = articles.slice(first, first + SIZE).filter(Boolean);
      const group = before[first / SIZE] ?? h('div', { class: 'group' });
      if (drawn.length) this.#groups[first / SIZE] = this.#fill(group, drawn);
    }
    return this.#groups.filter(Boolean);
  }

  #fill(group, articles) {
    const { children } = group;
    const same = articles.every((article, i) => article === children[i]);
    if (same && children.length === articles.length) return group;
    arrange(group, articles);
    group.classList.remove('laid-out');
    this.#observer.observe(group);
    return group;
  }

  #onLaidOut(entries) {
    for (const { target, contentRect } of entries) {
      this.#observer.unobserve(target);
      target.style.containIntrinsicBlockSize = `auto ${contentRect.height}px`;
      target.classList.add('laid-out');
    }
  }
}
