// Follows the end of a scrolling element while its reader is there, and leaves it alone otherwise.
// `keep(change)` changes the content without moving what is read; `away(told)` says by true and
// false whether the reader has left the end. The content's children may be groups of what is read.

const NEAR = 40; // pixels from the end that still count as being there

export class Follower {
  #following = true;
  #top = 0;
  #mark = null; // what is read, away from the end: an element, and how far it is from the top

  constructor(scroller, content, away) {
    this.scroller = scroller;
    this.content = content;
    this.away = away;
    scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    const resized = new ResizeObserver(() => (this.#leads ? this.toEnd() : this.#toMark()));
    resized.observe(scroller);
    resized.observe(content);
  }

  toEnd() {
    this.#follow(true);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#top = this.scroller.scrollTop;
  }

  keep(change) {
    const marked = this.#mark?.element.isConnected && this.scroller.scrollTop === this.#top;
    if (!this.#leads && !marked) this.#mark = this.#marked();
    change();
    if (this.#leads) this.toEnd();
    else this.#toMark();
  }

  // Whoever edits a message would be carried away from it by what comes in below.
  get #leads() {
    const focused = document.activeElement;
    const editing = focused?.tagName === 'TEXTAREA' && this.content.contains(focused);
    return this.#following && !editing;
  }

  #marked() {
    const { top } = this.scroller.getBoundingClientRect();
    const firstOf = (parent) => [...parent.children]
      .find((child) => child.getBoundingClientRect().bottom > top);
    const first = firstOf(this.content);
    const element = first?.matches('.group') ? firstOf(first) : first;
    return element && { element, from: element.getBoundingClientRect().top - top };
  }

  #toMark() {
    if (!this.#mark?.element.isConnected) return;
    const { element, from } = this.#mark;
    const { top } = this.scroller.getBoundingClientRect();
    const moved = element.getBoundingClientRect().top - top - from;
    if (!moved) return;
    this.scroller.scrollTop += moved;
    this.#top = this.scroller.scrollTop;
  }

  // Only moving up leaves the end: growing content makes the distance larger all by itself.
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollHeight - scrollTop - clientHeight <= NEAR) this.#follow(true);
    else if (scrollTop < this.#top) this.#follow(false);
    this.#top = scrollTop;
    this.#mark = this.#following ? null : this.#marked();
  }

  #follow(following) {
    if (this.#following === following) return;
    this.#following = following;
    this.away(!following);
  }
}
