// Lists that the stream sends in parts: their order, and the items that are new or have changed.

export class Items {
  #items = new Map(); // by id

  /** Returns the complete list, from {order, changed}. Unchanged items are the same objects. */
  merge({ order, changed }) {
    for (const [id, item] of Object.entries(changed)) this.#items.set(id, item);
    const ids = new Set(order);
    for (const id of this.#items.keys()) if (!ids.has(id)) this.#items.delete(id);
    return order.map((id) => this.#items.get(id)).filter(Boolean);
  }
}
