// Notices that the server is gone, says so, and loads the page again once it answers. The server
// counts `beat` up every four seconds. Drafts and edits are in localStorage, so a reload
// loses nothing; and it takes a beat and PATIENCE without one until there can be another.

import { h } from './dom.js';
import { words } from './words.js';

const PATIENCE = 12_000; // milliseconds without a beat
const LOOK = 1_000;
const RETRY = 2_000;

let last = null; // when the last beat came
let counted = null;
let banner = null; // while the connection is lost
let asking = null;

export function beat(count) {
  if (count === counted) return;
  if (counted === null) watch();
  counted = count;
  last = Date.now();
  if (banner) recover();
}

function watch() {
  setInterval(look, LOOK);
  window.addEventListener('online', look);
  document.addEventListener('visibilitychange', look);
}

function look() {
  if (!banner && Date.now() - last > PATIENCE) lose();
}

function lose() {
  banner = h('div', { class: 'linly-banner', role: 'status' }, words()('connection_lost'));
  document.body.append(banner);
  asking = setInterval(ask, RETRY);
  ask();
}

function recover() {
  clearInterval(asking);
  banner.remove();
  banner = null;
}

// Whatever the server answers, it is there.
async function ask() {
  try {
    await fetch(new URL('health', document.baseURI), { cache: 'no-store' });
  } catch {
    return;
  }
  if (banner && !document.hidden) location.reload();
}
