// Lists that the stream sends in parts: their order, and the items that are new or have changed.

export class Items {
  #known = new Map();

  /** The whole list, from {order, changed}. Items that stayed the same are the same objects. */
  whole({ order, changed }) {
    for (const [id, item] of Object.entries(changed)) this.#known.set(id, item);
    const wanted = new Set(order);
    for (const id of this.#known.keys()) if (!wanted.has(id)) this.#known.delete(id);
    return order.map((id) => this.#known.get(id)).filter(Boolean);
  }
}
