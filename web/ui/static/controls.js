// Reads and updates Gradio's controls for the page's own scripts. Only Gradio knows their values and
// draws them, so this goes through the hidden component `bridge`: its events `read` and `update` run
// functions of this module (see `web/ui/page.py`).

const TIMEOUT = 10_000; // milliseconds for the controls' values
const RETRY = 1_000; // milliseconds until an update that Gradio has not taken is announced again
const readers = []; // functions that wait for the values
const updates = []; // that Gradio has not taken yet, oldest first
let trigger = null;
let retryTimer = 0;
const orders = new Map(); // a control's number and property → the order of its last update
let loaded_chat = ''; // the chat whose settings the controls show

let settings = []; // names of the controls of a reply's settings
const TRAINING = ['train_name', 'train_template', 'train_epochs', 'train_rank', 'train_rate',
  'train_description', 'train_inputs'];

/** `triggerEvent(name, {})` triggers an event of the bridge. */
export function mountControls(triggerEvent) {
  trigger = triggerEvent;
  window.linlyControls = {
    read: (names, values, settingNames) => {
      settings = settingNames;
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

/** The controls' values by name. Rejects if Gradio does not answer. */
export function readControls() {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      readers.splice(readers.indexOf(reader), 1);
      reject(new Error('the controls do not answer'));
    }, TIMEOUT);
    const reader = (values) => {
      clearTimeout(timer);
      resolve(values);
    };
    readers.push(reader);
    trigger('read', {});
  });
}

/** Update controls: [number, properties] each. Properties with a later `order` stay: a response to an
 *  action may arrive after the stream has sent a newer state. */
export function updateControls(encoded, { order } = {}) {
  if (!encoded?.length) return;
  updates.push(order === undefined ? encoded : withoutOlder(encoded, order));
  announceUpdates();
}

/** Gradio takes one update for each event. If it missed one, the controls would stay behind by one. */
function announceUpdates() {
  if (!updates.length) return;
  trigger('update', {});
  clearTimeout(retryTimer);
  retryTimer = setTimeout(announceUpdates, RETRY);
}

/** The next updates are those of another stream, which counts anew. */
export const forgetOrders = () => orders.clear();

function withoutOlder(encoded, order) {
  const isNew = (key) => {
    if (order < (orders.get(key) ?? 0)) return false;
    orders.set(key, order);
    return true;
  };
  return encoded.map(([number, properties]) => [number, Object.fromEntries(
    Object.entries(properties).filter(([name]) => isNew(`${number} ${name}`)),
  )]);
}

/** From now on the controls show this chat's settings; '' is a new chat. */
export function setLoadedChat(chat) {
  if (typeof chat === 'string') loaded_chat = chat;
}

const emptyAsNull = (value) => (value === '' || value === undefined ? null : value);
const pick = (values, names) =>
  Object.fromEntries(names.map((name) => [name, emptyAsNull(values[name])]));

/** The settings of a reply, as the server takes them. */
export const collectForm = (values) => ({
  ...pick(values, settings),
  adapter: values.adapter ?? '',
  template: values.template ?? '',
  system: values.system ?? '',
  loaded_chat,
});

export const collectTrainForm = (values, upload) => ({ ...pick(values, TRAINING), upload });
