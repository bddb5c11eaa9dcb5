// The tab's stream: one WebSocket, with everything that the page shows (see `web/ui/stream.py`).
// `onEvent` listens to an event by name. When the connection is lost, the page says so, and goes on
// once the server answers; drafts are in this browser, and replies go on at the server.

import { h } from './dom.js';
import { words } from './i18n.js';

const PATIENCE = 25_000; // milliseconds without a sign of life; the server gives one each 10 s
const LOOK = 1_000;
const FIRST_RETRY = 300;
const MAX_RETRY = 5_000;
const REFUSALS = 4;
const BANNER = 1_000; // for which a connection may be away before the page says so
const TOO_MANY_TABS = 4429; // close codes of the server's
const FINAL = [TOO_MANY_TABS];

const listeners = new Map(); // event → functions
let socket = null;
let heard = 0; // when the last message came
let retry = FIRST_RETRY;
let banner = null;
let version = null; // of the scripts that this page was loaded with
let begun = false;
let askLanguage = () => 'en';

export let tab = ''; // this tab's id at the server

export function onEvent(name, listen) {
  listeners.set(name, [...(listeners.get(name) ?? []), listen]);
}

/** Connect, and stay connected. `spoken()` is the language to ask for. */
export function begin(spoken) {
  if (begun) return;
  begun = true;
  askLanguage = spoken;
  onEvent('tab', greet);
  connect();
  setInterval(look, LOOK);
  window.addEventListener('online', wake);
  document.addEventListener('visibilitychange', () => document.hidden || wake());
  // A page that comes back from the browser's cache has a connection no more.
  window.addEventListener('pageshow', ({ persisted }) => persisted && reconnect());
}

function wake() {
  look();
  connect();
}

function connect() {
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  const url = new URL('page/events', document.baseURI);
  url.protocol = url.protocol.replace('http', 'ws');
  url.searchParams.set('language', askLanguage());
  const chat = new URL(location.href).searchParams.get('chat');
  if (chat) url.searchParams.set('chat', chat);
  const mine = new WebSocket(url);
  socket = mine;
  heard = Date.now();
  mine.addEventListener('message', ({ data }) => socket === mine && take(JSON.parse(data)));
  mine.addEventListener('close', (event) => socket === mine && lost(event));
}

/** Connect anew, for another chat than the server would show. Before `begin`, that will do it: what
 *  comes earlier would be heard by the parts alone that are there by then. */
export function reconnect() {
  if (!begun) return;
  const before = socket;
  socket = null;
  tab = '';
  before?.close();
  connect();
}

function take(received) {
  heard = Date.now();
  const message = Array.isArray(received) ? { live: received } : received;
  for (const [name, value] of Object.entries(message)) {
    for (const listen of listeners.get(name) ?? []) listen(value, message);
  }
}

function greet(id, { version: served }) {
  tab = id;
  retry = FIRST_RETRY;
  refusals = 0;
  // The server was started anew with other scripts than these.
  if (version && version !== served) location.reload();
  version = served;
  clearTimeout(waiting);
  clearTimeout(retrying);
  banner?.remove();
  banner = null;
}

let waiting = 0; // until the banner shows
let retrying = 0;
let refusals = 0; // times in a row that the server answered, and its stream did not begin

function lost({ code, reason }) {
  tab = '';
  if (FINAL.includes(code)) {
    say(reason || words()('connection_lost'));
    return;
  }
  if (!banner) {
    clearTimeout(waiting);
    waiting = setTimeout(() => say(words()('connection_lost')), BANNER);
  }
  clearTimeout(retrying);
  retrying = setTimeout(again, retry * (0.5 + Math.random()));
  retry = Math.min(retry * 2, MAX_RETRY);
}

// A server that answers, but not to this page, wants a login, or its link has ended: it says so
// where the page would be.
async function again() {
  const page = new URL('./', document.baseURI);
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const { ok, status } = await fetch(page, { method: 'HEAD', cache: 'no-store', signal });
    if (tab) return; // connected meanwhile
    if (!ok && status < 500) location.reload();
    refusals = ok ? refusals + 1 : 0;
    if (refusals >= REFUSALS) say(words()('no_websocket'));
  } catch {
    refusals = 0; // it is away
  }
  connect();
}

function say(sentence) {
  clearTimeout(waiting);
  banner?.remove();
  banner = h('div', { class: 'linly-banner', role: 'status' }, sentence);
  document.body.append(banner);
}

// A connection can be dead without an end, or never begin: a machine that was unplugged says nothing.
function look() {
  if (!socket || socket.readyState > WebSocket.OPEN || Date.now() - heard < PATIENCE) return;
  const before = socket;
  socket = null;
  before.close();
  lost({ code: 0 });
}
