// A library that is loaded when it is first used. `get()` returns the library, or null while it is
// loading or after that has failed. `onSettled` is called once, when it has loaded or failed.

export class LazyLibrary {
  #library = null;
  #state = 'idle';

  constructor(load, onSettled) {
    this.load = load;
    this.onSettled = onSettled;
  }

  get pending() {
    return this.#state === 'pending';
  }

  get() {
    if (this.#state === 'idle') this.#load();
    return this.#library;
  }

  async #load() {
    this.#state = 'pending';
    // Without a library, code has no colours, or formulas are shown as TeX.
    this.#library = await this.load().catch(() => null);
    this.#state = 'settled';
    this.onSettled();
  }
}

/** Returns `make` with a cache of its last `size` results. */
export function memoize(make, size = 100) {
  const results = new Map();
  return (...args) => {
    const key = JSON.stringify(args);
    if (!results.has(key)) results.set(key, make(...args));
    if (results.size > size) results.delete(results.keys().next().value);
    return results.get(key);
  };
}
