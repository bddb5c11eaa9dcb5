// Follows the end of a scrolling element while its reader is at the end, and not otherwise.
// `keep(change)` changes the content without moving the text that is being read; `onAway(isAway)` is
// called when the reader leaves the end or returns. The content's children may be groups of articles.

const NEAR = 40; // pixels from the end that still count as being there

export class Follower {
  #following = true;
  #top = 0;
  #anchor = null; // the element that is being read away from the end, and its distance from the top

  constructor(scroller, content, onAway) {
    this.scroller = scroller;
    this.content = content;
    this.onAway = onAway;
    scroller.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    const resized = new ResizeObserver(() => (this.#followsNow ? this.toEnd() : this.#toAnchor()));
    resized.observe(scroller);
    resized.observe(content);
  }

  toEnd() {
    this.#follow(true);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#top = this.scroller.scrollTop;
  }

  keep(change) {
    const isAnchored = this.#anchor?.element.isConnected && this.scroller.scrollTop === this.#top;
    if (!this.#followsNow && !isAnchored) this.#anchor = this.#findAnchor();
    change();
    if (this.#followsNow) this.toEnd();
    else this.#toAnchor();
  }

  // Not while the reader edits a message: new text below would move it out of view.
  get #followsNow() {
    const focused = document.activeElement;
    const editing = focused?.tagName === 'TEXTAREA' && this.content.contains(focused);
    return this.#following && !editing;
  }

  #findAnchor() {
    const { top } = this.scroller.getBoundingClientRect();
    const firstOf = (parent) => [...parent.children]
      .find((child) => child.getBoundingClientRect().bottom > top);
    const first = firstOf(this.content);
    const element = first?.matches('.group') ? firstOf(first) : first;
    return element && { element, from: element.getBoundingClientRect().top - top };
  }

  #toAnchor() {
    if (!this.#anchor?.element.isConnected) return;
    const { element, from } = this.#anchor;
    const { top } = this.scroller.getBoundingClientRect();
    const moved = element.getBoundingClientRect().top - top - from;
    if (!moved) return;
    this.scroller.scrollTop += moved;
    this.#top = this.scroller.scrollTop;
  }

  // Only scrolling up leaves the end: the distance grows with the content, too.
  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollHeight - scrollTop - clientHeight <= NEAR) this.#follow(true);
    else if (scrollTop < this.#top) this.#follow(false);
    this.#top = scrollTop;
    this.#anchor = this.#following ? null : this.#findAnchor();
  }

  #follow(following) {
    if (this.#following === following) return;
    this.#following = following;
    this.onAway(!following);
  }
}
