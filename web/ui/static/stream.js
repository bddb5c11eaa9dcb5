// The tab's stream: one WebSocket, with everything that the page shows (see `web/ui/tab_stream.py`).
// `onEvent` listens to an event by name. When the connection is lost, the page shows a banner, and
// reconnects once the server answers. Drafts are in this browser, and replies go on at the server.

import { h } from './dom.js';
import { translator } from './i18n.js';

const TIMEOUT = 25_000; // milliseconds without a message; the server sends one at least each 10 s
const CHECK_INTERVAL = 1_000;
const FIRST_RETRY = 300;
const MAX_RETRY = 5_000;
const MAX_REFUSALS = 4;
const BANNER_DELAY = 1_000; // after the loss of a connection
const TOO_MANY_TABS = 4429; // a close code of the server
const FINAL_CODES = [TOO_MANY_TABS];

const listeners = new Map(); // event → functions
let socket = null;
let lastReceived = 0; // the time of the last message
let retryDelay = FIRST_RETRY;
let banner = null;
let version = null; // of the scripts that this page was loaded with
let started = false;
let requestedLanguage = () => 'en';
let bannerTimer = null; // runs from the loss of a connection until its banner is shown
let retryTimer = 0;
let refusals = 0; // times in a row that the server answered, but its stream did not begin

export let tab = ''; // this tab's id at the server

export function onEvent(name, listen) {
  listeners.set(name, [...(listeners.get(name) ?? []), listen]);
}

/** Connect, and stay connected. `language()` is the language to request. */
export function start(language) {
  if (started) return;
  started = true;
  requestedLanguage = language;
  onEvent('tab', onTab);
  connect();
  setInterval(checkConnection, CHECK_INTERVAL);
  window.addEventListener('online', wake);
  document.addEventListener('visibilitychange', () => document.hidden || wake());
  // A page that comes back from the browser's cache has lost its connection.
  window.addEventListener('pageshow', ({ persisted }) => persisted && reconnect());
}

function wake() {
  checkConnection();
  connect();
}

function connect() {
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  const url = new URL('page/events', document.baseURI);
  url.protocol = url.protocol.replace('http', 'ws');
  url.searchParams.set('language', requestedLanguage());
  const chat = new URL(location.href).searchParams.get('chat');
  if (chat) url.searchParams.set('chat', chat);
  const opened = new WebSocket(url);
  socket = opened;
  lastReceived = Date.now();
  opened.addEventListener('message', ({ data }) => socket === opened && receive(JSON.parse(data)));
  opened.addEventListener('close', (event) => socket === opened && onClose(event));
}

/** Connect anew, for the chat of the page's address. Before `start` this does nothing, as some parts
 *  of the page would not listen yet. */
export function reconnect() {
  if (!started) return;
  const before = socket;
  socket = null;
  tab = '';
  before?.close();
  connect();
}

function receive(received) {
  lastReceived = Date.now();
  const message = Array.isArray(received) ? { live: received } : received;
  for (const [name, value] of Object.entries(message)) {
    for (const listen of listeners.get(name) ?? []) listen(value, message);
  }
}

function onTab(id, { version: served }) {
  tab = id;
  retryDelay = FIRST_RETRY;
  refusals = 0;
  // The server was restarted with other scripts than these.
  if (version && version !== served) location.reload();
  version = served;
  clearTimeout(retryTimer);
  removeBanner();
}

function onClose({ code, reason }) {
  tab = '';
  if (FINAL_CODES.includes(code)) {
    showBanner(reason || translator()('connection_lost'));
    return;
  }
  // A retry that fails must not put the banner off.
  if (!banner && bannerTimer === null) {
    bannerTimer = setTimeout(() => showBanner(translator()('connection_lost')), BANNER_DELAY);
  }
  clearTimeout(retryTimer);
  retryTimer = setTimeout(retry, retryDelay * (0.5 + Math.random()));
  retryDelay = Math.min(retryDelay * 2, MAX_RETRY);
}

// If the server refuses this page, it requires a login, or its public link has ended. Both are shown
// in the place of the page, after a reload.
async function retry() {
  const page = new URL('./', document.baseURI);
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    const { ok, status } = await fetch(page, { method: 'HEAD', cache: 'no-store', signal });
    if (tab) return; // connected meanwhile
    if (!ok && status < 500) location.reload();
    refusals = ok ? refusals + 1 : 0;
    if (refusals >= MAX_REFUSALS) showBanner(translator()('no_websocket'));
  } catch {
    refusals = 0; // the server is unreachable
  }
  connect();
}

function removeBanner() {
  clearTimeout(bannerTimer);
  bannerTimer = null;
  banner?.remove();
  banner = null;
}

function showBanner(sentence) {
  removeBanner();
  banner = h('div', { class: 'linly-banner', role: 'status' }, sentence);
  document.body.append(banner);
}

// A connection can be dead without a close event, or never open, as when a machine is unplugged.
function checkConnection() {
  if (!socket || socket.readyState > WebSocket.OPEN || Date.now() - lastReceived < TIMEOUT) return;
  const before = socket;
  socket = null;
  before.close();
  onClose({ code: 0 });
}
