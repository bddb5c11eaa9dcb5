// Follows the end of a scrolling element while its reader is there, and leaves it alone otherwise.
// `keep(change)` changes the content without moving what is read; `away(told)` says by true and
// false whether the reader has left the end.

const NEAR = 40; // pixels from the end that still count as being there

export class Follower {
  #following = true;
  #top = 0;

  constructor(scroller, content, away) {
    this.scroller = scroller;
    this.content = content;
    this.away = away;
    scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    const resized = new ResizeObserver(() => this.#leads && this.toEnd());
    resized.observe(scroller);
    resized.observe(content);
  }

  toEnd() {
    this.#follow(true);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#top = this.scroller.scrollTop;
  }

  keep(change) {
    const anchor = this.#leads ? null : this.#firstVisible();
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (this.#leads) this.toEnd();
    else if (anchor?.isConnected) {
      this.scroller.scrollTop += anchor.getBoundingClientRect().top - before;
    }
  }

  // Whoever edits a message would be carried away from it by what comes in below.
  get #leads() {
    const focused = document.activeElement;
    const editing = focused?.tagName === 'TEXTAREA' && this.content.contains(focused);
    return this.#following && !editing;
  }

  #firstVisible() {
    const { top } = this.scroller.getBoundingClientRect();
    return [...this.content.children].find((child) => child.getBoundingClientRect().bottom > top);
  }

  // Only moving up leaves the end: growing content makes the distance larger all by itself.
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollHeight - scrollTop - clientHeight <= NEAR) this.#follow(true);
    else if (scrollTop < this.#top) this.#follow(false);
    this.#top = scrollTop;
  }

  #follow(following) {
    if (this.#following === following) return;
    this.#following = following;
    this.away(!following);
  }
}
