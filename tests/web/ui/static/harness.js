// A fake server and fake Gradio controls that tests steer. Loaded before the page's own scripts, which
// connect to `Socket`, post through `fetch`, and read controls by the bridge.
(() => {
  const NONE = { say: null, sent: null, inserted: null, chat: null, loaded_chat: null, lost: false, controls: [], order: null };
  const VALUES = { // of Gradio's controls, by the names of `Layout.form`; a test may change them
    language: 'en', adapter: '', scale: 1, template: '', system: '', temperature: 0.7, top_p: 0.9,
    top_k: 40, min_p: 0, repetition_penalty: 1.1, max_tokens: 512, seed: null, preset: 'Balanced',
    rival_0: '', rival_1: '-', rival_2: '-', rival_3: '-', rival_preset_0: '',
    rival_preset_1: '', rival_preset_2: '', rival_preset_3: '', preset_name: '', snippet: null,
    snippet_name: '', train_name: '', train_template: '', train_epochs: 3, train_rank: 8,
    train_rate: 0.0003, train_description: '', train_inputs: false,
  };

  const SETTINGS = ['adapter', 'scale', 'template', 'system', 'temperature', 'top_p', 'top_k', 'min_p',
    'repetition_penalty', 'max_tokens', 'seed'];

  class Socket extends EventTarget {
    static CONNECTING = 0;
    static OPEN = 1;
    static CLOSING = 2;
    static CLOSED = 3;

    readyState = Socket.CONNECTING;

    constructor(url) {
      super();
      this.url = String(url);
      harness.sockets.push(this);
      queueMicrotask(() => server.accept(this));
    }

    close() {
      if (this.readyState !== Socket.CLOSED) this.readyState = Socket.CLOSING;
    }

    send() {
      throw new Error('the page sends nothing in its stream');
    }

    /** The server or the network closes the connection. */
    end(code = 1006, reason = '') {
      if (this.readyState === Socket.CLOSED) return;
      this.readyState = Socket.CLOSED;
      this.dispatchEvent(new CloseEvent('close', { code, reason, wasClean: code !== 1006 }));
    }

    receive(events) {
      if (this.readyState !== Socket.OPEN) throw new Error('there is no connection');
      this.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(events) }));
    }
  }

  /** The state of a tab, as `web/ui/tab_stream.py` has it. */
  class Tab {
    #parts = { messages: new Map(), chats: new Map() };
    #sent = new Map();
    #count = 0;

    /** Returns a list's order, and the items that have changed since the last time. */
    changed(kind, items) {
      const before = this.#parts[kind];
      const now = new Map(items.map((item) => [item.id, JSON.stringify(item)]));
      const changed = items.filter(({ id }) => before.get(id) !== now.get(id));
      this.#parts[kind] = now;
      return { order: [...now.keys()], changed: Object.fromEntries(changed.map((item) => [item.id, item])) };
    }

    /** Returns for each changed reply its added text, or its full text. */
    liveChanges(replies) {
      const all = Object.entries(replies);
      const changes = all.map(([id, { text, notice }]) => {
        const before = this.#sent.get(id);
        const n = before?.n ?? (this.#count += 1);
        this.#sent.set(id, { n, text, notice });
        const hasGrown = before && before.notice === notice && text.startsWith(before.text);
        if (!hasGrown) return { n, id, text, notice };
        return text !== before.text && [n, text.slice(before.text.length)];
      });
      for (const id of this.#sent.keys()) if (!(id in replies)) this.#sent.delete(id);
      return changes.filter(Boolean);
    }
  }

  const server = {
    way: 'open', // what happens to a connection: open, silent, or closed with {code, reason}
    version: 'v1',
    head: 200, // the status of the page itself; 0 is no response
    tabs: 0,
    answers: {}, // path → the responses to its next posts, in order
    ...window.harnessServer,
    accept(socket) {
      if (this.way === 'silent') return;
      if (this.way !== 'open') {
        socket.end(this.way.code, this.way.reason);
        return;
      }
      this.tabs += 1;
      harness.tab = new Tab();
      socket.readyState = Socket.OPEN;
      socket.dispatchEvent(new Event('open'));
      socket.receive({ tab: `t${this.tabs}`, version: this.version });
    },
  };

  async function answer(path) {
    const planned = server.answers[path]?.shift() ?? {};
    if (planned.delayed) await new Promise((go) => { harness.delayed.push(go); });
    if (planned.fails) throw new TypeError('Failed to fetch');
    const { status = 200, text, headers, ...values } = planned;
    const error = status >= 400 ? values : { ...NONE, ...values };
    const body = text ?? JSON.stringify(error);
    const response = new Response(body, { status, headers });
    response.json = async () => JSON.parse(body); // synchronous, so that tests need not wait
    return response;
  }

  const realFetch = window.fetch.bind(window);
  window.WebSocket = Socket;
  window.fetch = async (url, init = {}) => {
    if (init.method === 'HEAD') {
      harness.headRequests += 1;
      if (!server.head) throw new TypeError('Failed to fetch');
      return new Response(null, { status: server.head });
    }
    if (init.method !== 'POST') return realFetch(url, init);
    const { pathname, search } = new URL(url);
    const { headers } = new Request(url, init); // throws if a browser would refuse them
    const { body } = init;
    harness.posts.push({
      path: pathname.slice(1), query: search, headers: Object.fromEntries(headers),
      body: body instanceof File ? await body.text() : body,
    });
    return answer(pathname.slice(1));
  };

  const places = { Log: 'log', Sidebar: 'side', Upload: 'data' };
  const bridge = (event) => queueMicrotask(() => {
    if (harness.mute) return;
    if (event === 'update') {
      harness.updates.push(window.linlyControls.next());
      return;
    }
    window.linlyControls.read(
      Object.keys(harness.values), Object.values(harness.values), SETTINGS);
  });

  window.harness = {
    server,
    sockets: [],
    posts: [],
    delayed: [], // responses that wait for `release`
    headRequests: 0, // by which the page checks whether the server answers
    updates: [], // of controls, as Gradio gets them
    values: { ...VALUES },
    mute: false, // the controls do not answer
    tab: null,
    get socket() {
      return this.sockets.at(-1);
    },
    event(events) {
      this.socket.receive(events);
    },
    log(value) {
      this.event({ log: { ...value, messages: this.tab.changed('messages', value.messages) } });
    },
    sidebar(value) {
      this.event({ sidebar: { ...value, chats: this.tab.changed('chats', value.chats) } });
    },
    live(replies) {
      const changes = this.tab.liveChanges(replies);
      if (changes.length) this.event(changes.every(Array.isArray) ? changes : { live: changes });
    },
    control(kind) {
      (window.linlyControl ??= []).push(kind);
    },
    async mount() {
      const scripts = await import(new URL('page/chat.js', document.baseURI));
      for (const name of ['Upload', 'Log', 'Sidebar', 'Page']) {
        scripts[`mount${name}`](document.getElementById(places[name]), bridge);
      }
      await Promise.resolve(); // the connection is open
      this.ready = true;
    },
  };
})();
