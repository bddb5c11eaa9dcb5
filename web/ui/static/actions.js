// The visitor's actions, posted to the server one after another, in the order in which they were
// done. `act` is for the page's own scripts; `mountActions` listens to Gradio's controls. If an action
// fails, the page shows a message, and the document gets the event `linly:message-shown`. When the
// server has received a question, the document gets `linly:sent`.

import { updateAddress } from './page_url.js';
import {
  collectForm, collectTrainForm, readControls, setLoadedChat, updateControls,
} from './controls.js';
import { h } from './dom.js';
import { currentText, insert, takeSubmittedText } from './message_box.js';
import { storeLanguage } from './browser_storage.js';
import { reconnect, tab } from './stream.js';
import { toast } from './toast.js';
import { uploadToken } from './upload.js';
import { language, translator } from './i18n.js';

const UNQUEUED = ['stop']; // does not wait for earlier actions
const SENDS = ['send', 'compare']; // send the message box as it was at Enter or Send
const LATEST = ['settings', 'train_look', 'search']; // only the newest of these is sent
// Not twice at a time: Gradio reports a clicked option, and reports it again as its list closes.
const ONE_AT_A_TIME = ['use_snippet'];
const TIMEOUT = 60_000; // milliseconds for a response
// Request bodies that contain values of the controls and the message box.
const BODIES = {
  send: (values) => ({ text: values.message, form: collectForm(values) }),
  regenerate: (values) => ({ form: collectForm(values) }),
  settings: (values) => ({ form: collectForm(values) }),
  edit: (values) => ({ form: collectForm(values) }),
  continue: (values) => ({ form: collectForm(values) }),
  compare: (values) => ({ text: values.message, form: collectForm(values), rivals: rivals(values) }),
  preset: (values) => ({ name: values.preset }),
  language: (values) => ({ language: values.language }),
  save_preset: (values) => ({ name: values.preset_name, form: collectForm(values) }),
  delete_preset: (values) => ({ name: values.preset }),
  use_snippet: (values) => ({ name: values.snippet }),
  save_snippet: (values) => ({ name: values.snippet_name, message: values.message }),
  delete_snippet: (values) => ({ name: values.snippet_name }),
  train_look: (values) => ({ form: collectTrainForm(values, uploadToken()) }),
  train_start: (values) => ({ form: collectTrainForm(values, uploadToken()) }),
};
// The chat that these actions open, if the server accepts them; null is a new one.
const OPENED_CHAT = { new_chat: () => null, open: ({ id }) => id };
// A preset moves sliders, which are settings of the chat, too.
const FOLLOW_UPS = { preset: 'settings' };

let queue = Promise.resolve(); // settles after the last action
let importQueue = Promise.resolve(); // and after the last import
const counts = {}; // of actions, by kind
const running = new Set(); // kinds in ONE_AT_A_TIME

export function mountActions() {
  const early = window.linlyControl ?? []; // actions from before this script was loaded
  window.linlyControl = { push: (kind) => act({ kind }) };
  for (const kind of early) act({ kind });
}

/** Do the action `kind` with these values, and with the controls' values as they are now. */
export function act({ kind, ...args }) {
  if (running.has(kind)) return queue;
  if (ONE_AT_A_TIME.includes(kind)) running.add(kind);
  const count = (counts[kind] ?? 0) + 1;
  counts[kind] = count;
  if (kind === 'language') rememberLanguage();
  if (OPENED_CHAT[kind]) dispatch('linly:leaving', OPENED_CHAT[kind](args));
  const text = SENDS.includes(kind) ? takeSubmittedText() : currentText();
  const pendingBody = BODIES[kind] ? collectBody(kind, text, args) : args;
  const outdated = () => LATEST.includes(kind) && counts[kind] !== count;
  const send = async () => {
    const body = await pendingBody;
    if (outdated()) return;
    const path = `page/actions/${kind}`;
    const ok = await post(path, JSON.stringify(body), { 'Content-Type': 'application/json' });
    if (OPENED_CHAT[kind] && !ok) dispatch('linly:open-refused');
    if (FOLLOW_UPS[kind]) act({ kind: FOLLOW_UPS[kind] });
  };
  if (UNQUEUED.includes(kind)) return send();
  queue = queue.then(send).catch(onFault) // later actions are done all the same
    .finally(() => running.delete(kind));
  return queue;
}

const collectBody = async (kind, message, args) =>
  ({ ...BODIES[kind]({ ...await readControls(), message }), ...args });

function onFault(error) {
  console.error(error);
  showMessage(translator()('not_sent'));
}

async function rememberLanguage() {
  storeLanguage((await readControls()).language);
}

const rivals = (values) => [0, 1, 2, 3]
  .map((n) => ({ adapter: values[`rival_${n}`] ?? '-', preset: values[`rival_preset_${n}`] ?? '' }));

/** Import chats from a file's text, or from a part of it with `more` to come. Returns what was left
out, counted by kind. */
export function importChats(text, more) {
  const path = `page/import?more=${more ? 1 : 0}`;
  let leftOut = {};
  const read = async (response, sender) => {
    const result = await response.json();
    leftOut = result.left_out ?? {};
    applyResult(result, sender);
  };
  const send = () => post(path, text, { 'Content-Type': 'text/plain' }, read, null);
  importQueue = importQueue.then(send).then(() => leftOut);
  return importQueue;
}

/** Export chats into a file. */
export function exportChats(kind) {
  const body = JSON.stringify({ kind });
  const save = async (response) => {
    const disposition = response.headers.get('content-disposition') ?? '';
    const name = /filename\*=UTF-8''([^;]+)/.exec(disposition);
    download(await response.blob(), name ? decodeURIComponent(name[1]) : 'chats.json');
  };
  return post('page/export', body, { 'Content-Type': 'application/json' }, save, null);
}

function download(blob, name) {
  const href = URL.createObjectURL(blob);
  const link = h('a', { href, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(href), 60_000); // large files are read after the click
}

/** Upload a file with training data; returns its token, or null. */
export async function upload(file) {
  let token = null;
  const path = `page/upload?${new URLSearchParams({ name: file.name })}`;
  await post(path, file, { 'Content-Type': 'application/octet-stream' }, async (response) => {
    ({ upload: token } = await response.json());
  }, null);
  return token;
}

const readResult = async (response, sender) => applyResult(await response.json(), sender);

// Returns whether it succeeded. `onResponse` reads the response. Files have no `timeout`.
async function post(path, body, headers, onResponse = readResult, timeout = TIMEOUT) {
  const sender = tab;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: 'POST',
      body,
      headers: { ...headers, ...tabHeaders() },
      signal: timeout ? AbortSignal.timeout(timeout) : undefined,
    });
    if (response.ok) await onResponse(response, sender);
    else await showError(response);
    return response.ok;
  } catch {
    showMessage(translator()('not_sent'));
    return false;
  }
}

function tabHeaders() {
  const chat = new URL(location.href).searchParams.get('chat') ?? '';
  return {
    'X-Linly-Tab': tab || 'none',
    'X-Linly-Language': language(),
    ...(/^[\x21-\x7e]+$/.test(chat) && { 'X-Linly-Chat': chat }),
  };
}

function applyResult({ say, sent, inserted, chat, loaded_chat, lost, controls, order }, sender) {
  setLoadedChat(loaded_chat);
  // Each stream counts for itself: all that this one has sent is newer than a response to another.
  updateControls(controls, { order: (sender === tab && order) || 0 });
  if (say) showMessage(say);
  if (sent) dispatch('linly:sent', sent);
  if (inserted) insert(inserted);
  if (lost) reconnectTo(chat);
}

// The action was done without this tab's stream, which was gone: the next stream shows its chat.
function reconnectTo(chat) {
  updateAddress({ chat });
  reconnect();
}

async function showError(response) {
  if (response.status === 401 || response.status === 410) location.reload();
  const body = await response.json().catch(() => null);
  showMessage(body?.error?.message ?? translator()('not_sent'));
}

function showMessage(sentence) {
  toast(sentence);
  dispatch('linly:message-shown', sentence);
}

const dispatch = (event, detail) => document.dispatchEvent(new CustomEvent(event, { detail }));
