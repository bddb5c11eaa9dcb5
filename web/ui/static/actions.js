// What the visitor does, told to the server: one post after another, in the order in which it was
// done. `act` is for the page's own parts, `mountActions` listens to Gradio's controls. What could
// not be done is said in a sentence; the document hears of it as `linly:said`, and of a message that
// has arrived as `linly:sent`.

import { fill, form, trainForm, update, values } from './controls.js';
import { download } from './download.js';
import { entered, insert, typed } from './message_box.js';
import { keepLanguage } from './store.js';
import { reconnect, tab } from './stream.js';
import { toast } from './toast.js';
import { uploaded } from './upload.js';
import { language, words } from './i18n.js';

const AT_ONCE = ['stop']; // not kept waiting by what was asked before
const SENDS = ['send', 'compare']; // what was in the message box at Enter or Send
const LATEST = ['settings', 'train_look', 'search']; // only the newest of these is sent
// Not twice at a time: Gradio tells of an option that was clicked, and again as its list closes.
const ONE_AT_A_TIME = ['use_snippet'];
const WAIT = 60_000; // milliseconds for an answer
// What these need of the controls and of the message box, beside what the page's own parts say.
const BODIES = {
  send: (all) => ({ text: all.message, form: form(all) }),
  regenerate: (all) => ({ form: form(all) }),
  settings: (all) => ({ form: form(all) }),
  edit: (all) => ({ form: form(all) }),
  continue: (all) => ({ form: form(all) }),
  compare: (all) => ({ text: all.message, form: form(all), rivals: rivals(all) }),
  preset: (all) => ({ name: all.preset }),
  language: (all) => ({ language: all.language }),
  save_preset: (all) => ({ name: all.preset_name, form: form(all) }),
  delete_preset: (all) => ({ name: all.preset }),
  use_snippet: (all) => ({ name: all.snippet }),
  save_snippet: (all) => ({ name: all.snippet_name, message: all.message }),
  delete_snippet: (all) => ({ name: all.snippet_name }),
  train_look: (all) => ({ form: trainForm(all, uploaded()) }),
  train_start: (all) => ({ form: trainForm(all, uploaded()) }),
};
// What these leave for, if the server lets them.
const LEAVES = { new_chat: () => null, open: ({ id }) => id };
// Sliders that were set by a preset are settings of the chat, too.
const THEN = { preset: 'settings' };

let line = Promise.resolve(); // the end of what was asked so far
let imports = Promise.resolve(); // and of what is imported
const newest = {}; // of each kind in LATEST, how many there were
const underway = new Set(); // kinds in ONE_AT_A_TIME

export function mountActions() {
  const early = window.linlyControl ?? []; // what was done before this script had come
  window.linlyControl = { push: (kind) => act({ kind }) };
  for (const kind of early) act({ kind });
}

/** Do `kind` with these values, and with what it needs of the controls as they are now. */
export function act({ kind, ...given }) {
  if (underway.has(kind)) return line;
  if (ONE_AT_A_TIME.includes(kind)) underway.add(kind);
  const count = (newest[kind] ?? 0) + 1;
  newest[kind] = count;
  if (kind === 'language') remember();
  if (LEAVES[kind]) tell('linly:leaving', LEAVES[kind](given));
  const text = SENDS.includes(kind) ? entered() : typed();
  const needed = BODIES[kind] ? gathered(kind, text, given) : given;
  const outdated = () => LATEST.includes(kind) && newest[kind] !== count;
  const send = async () => {
    const body = await needed;
    if (outdated()) return;
    const path = `page/actions/${kind}`;
    const done = await post(path, JSON.stringify(body), { 'Content-Type': 'application/json' });
    if (LEAVES[kind] && !done) tell('linly:stayed');
    if (THEN[kind]) act({ kind: THEN[kind] });
  };
  if (AT_ONCE.includes(kind)) return send();
  line = line.then(send).catch(failed) // what comes behind it is done all the same
    .finally(() => underway.delete(kind));
  return line;
}

const gathered = async (kind, message, given) =>
  ({ ...BODIES[kind]({ ...await values(), message }), ...given });

function failed(error) {
  console.error(error);
  said(words()('not_sent'));
}

async function remember() {
  keepLanguage((await values()).language);
}

const rivals = (all) => [0, 1, 2, 3]
  .map((n) => ({ adapter: all[`rival_${n}`] ?? '-', preset: all[`rival_preset_${n}`] ?? '' }));

/** Chats from a file: its text, or a part of it with `more` behind. */
export function importChats(text, more) {
  const path = `page/import?more=${more ? 1 : 0}`;
  const send = () => post(path, text, { 'Content-Type': 'text/plain' }, taking, null);
  imports = imports.then(send);
  return imports;
}

/** Chats into a file. */
export function exportChats(kind) {
  const body = JSON.stringify({ kind });
  const save = async (response) => {
    const told = response.headers.get('content-disposition') ?? '';
    const named = /filename\*=UTF-8''([^;]+)/.exec(told);
    download(await response.blob(), named ? decodeURIComponent(named[1]) : 'chats.json');
  };
  return post('page/export', body, { 'Content-Type': 'application/json' }, save, null);
}

/** A file with training data; the token that it is known by, or null. */
export async function upload(file) {
  let token = null;
  const path = `page/upload?${new URLSearchParams({ name: file.name })}`;
  await post(path, file, { 'Content-Type': 'application/octet-stream' }, async (response) => {
    ({ upload: token } = await response.json());
  }, null);
  return token;
}

const taking = async (response) => taken(await response.json());

// Whether it was done. `take` takes the answer. Files travel for as long as it takes: without `wait`.
async function post(path, body, headers, take = taking, wait = WAIT) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: 'POST',
      body,
      headers: { ...headers, ...who() },
      signal: wait ? AbortSignal.timeout(wait) : undefined,
    });
    if (response.ok) await take(response);
    else await refused(response);
    return response.ok;
  } catch {
    said(words()('not_sent'));
    return false;
  }
}

function who() {
  const chat = new URL(location.href).searchParams.get('chat') ?? '';
  return {
    'X-Linly-Tab': tab || 'none',
    'X-Linly-Language': language(),
    ...(/^[\x21-\x7e]+$/.test(chat) && { 'X-Linly-Chat': chat }),
  };
}

function taken({ say, sent, inserted, chat, loaded_chat, lost, controls }) {
  fill(loaded_chat);
  update(controls);
  if (say) said(say);
  if (sent) tell('linly:sent', sent);
  if (inserted) insert(inserted);
  if (lost) show(chat);
}

// This tab's stream had gone when it was done: the next one shows what it was done in.
function show(chat) {
  const address = new URL(location.href);
  if (chat) address.searchParams.set('chat', chat);
  else address.searchParams.delete('chat');
  history.replaceState(history.state, '', address);
  reconnect();
}

async function refused(response) {
  if (response.status === 401 || response.status === 410) location.reload();
  const answer = await response.json().catch(() => null);
  said(answer?.error?.message ?? words()('not_sent'));
}

function said(sentence) {
  toast(sentence);
  tell('linly:said', sentence);
}

const tell = (event, detail) => document.dispatchEvent(new CustomEvent(event, { detail }));
