// A library that is fetched when it is first needed. `get()` is the library or, while it is under
// way or could not be had, null. `settled` is called once, when it has come or failed.

export class Lazy {
  #library = null;
  #state = 'unasked';

  constructor(load, settled) {
    this.load = load;
    this.settled = settled;
  }

  get pending() {
    return this.#state === 'pending';
  }

  get() {
    if (this.#state === 'unasked') this.#fetch();
    return this.#library;
  }

  async #fetch() {
    this.#state = 'pending';
    // Without it, code has no colours and formulas are shown as TeX.
    this.#library = await this.load().catch(() => null);
    this.#state = 'settled';
    this.settled();
  }
}

/** `make` with its last `room` results remembered. */
export function remembering(make, room = 100) {
  const results = new Map();
  return (...inputs) => {
    const key = JSON.stringify(inputs);
    if (!results.has(key)) results.set(key, make(...inputs));
    if (results.size > room) results.delete(results.keys().next().value);
    return results.get(key);
  };
}
