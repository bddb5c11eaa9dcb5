// Gradio's controls, for the page's own scripts. Gradio alone knows their values and draws them: it
// is asked through the hidden component `bridge`, whose events `read` and `update` run functions of
// this module (see `web/ui/page.py`).

const WAIT = 10_000; // milliseconds for the controls' values
const readers = []; // functions that wait for them
const updates = []; // what Gradio has yet to be given, oldest first
let trigger = null;
let loaded_chat = ''; // the chat that the controls are about

const SETTINGS = ['adapter', 'scale', 'template', 'system', 'temperature', 'top_p', 'top_k',
  'min_p', 'repetition_penalty', 'max_tokens', 'seed'];
const TRAINING = ['train_name', 'train_template', 'train_epochs', 'train_rank', 'train_rate',
  'train_description', 'train_inputs'];

export function mountControls(send) {
  trigger = send;
  window.linlyControls = {
    read: (names, values) => {
      readers.shift()?.(Object.fromEntries(names.map((name, i) => [name, values[i]])));
    },
    next: () => {
      const list = [];
      for (const [number, properties] of updates.shift() ?? []) {
        list[number] = { __type__: 'update', ...properties };
      }
      return list;
    },
  };
}

/** What the controls say, by name. Rejects where Gradio does not tell. */
export function values() {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      readers.splice(readers.indexOf(reader), 1);
      reject(new Error('the controls do not answer'));
    }, WAIT);
    const reader = (all) => {
      clearTimeout(late);
      resolve(all);
    };
    readers.push(reader);
    trigger('read', {});
  });
}

/** Bring controls up to date: [number, properties] each. */
export function update(encoded) {
  if (!encoded?.length) return;
  updates.push(encoded);
  trigger('update', {});
}

/** From now on the controls are about this chat; '' is one to come. */
export function fill(chat) {
  if (typeof chat === 'string') loaded_chat = chat;
}

const number = (value) => (value === '' || value === null || value === undefined ? null : value);
const picked = (all, names) => Object.fromEntries(names.map((name) => [name, number(all[name])]));

/** How the visitor wants to be answered, as the server takes it. */
export const form = (all) => ({
  ...picked(all, SETTINGS),
  adapter: all.adapter ?? '',
  template: all.template ?? '',
  system: all.system ?? '',
  loaded_chat,
});

export const trainForm = (all, upload) => ({ ...picked(all, TRAINING), upload });
