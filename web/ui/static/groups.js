// The articles of a chat in groups of some. Once a group has been laid out, the browser may leave it
// out while it is far from what is seen (see `.at-rest` in chat.css): it stays as high as it was, and
// a word more at the end of a long chat costs no more than in a short one.

import { arrange, h } from './dom.js';

const SIZE = 20;

export class Groups {
  #groups = [];
  #laidOut = new ResizeObserver((entries) => this.#rest(entries));

  /** The groups that hold these articles, in their order. Null stands for one that is not there yet. */
  of(articles) {
    const before = this.#groups;
    this.#groups = [];
    for (let first = 0; first < articles.length; first += SIZE) {
      const there = articles.slice(first, first + SIZE).filter(Boolean);
      const group = before[first / SIZE] ?? h('div', { class: 'group' });
      if (there.length) this.#groups[first / SIZE] = this.#filled(group, there);
    }
    return this.#groups.filter(Boolean);
  }

  #filled(group, articles) {
    const { children } = group;
    if (children.length === articles.length && articles.every((one, i) => one === children[i])) {
      return group;
    }
    arrange(group, articles);
    group.classList.remove('at-rest');
    this.#laidOut.observe(group);
    return group;
  }

  #rest(entries) {
    for (const { target, contentRect } of entries) {
      this.#laidOut.unobserve(target);
      target.style.containIntrinsicBlockSize = `auto ${contentRect.height}px`;
      target.classList.add('at-rest');
    }
  }
}
