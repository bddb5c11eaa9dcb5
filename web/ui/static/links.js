// A plugin of markdown-it for a reply's links: only http(s) and mail, opened in a new tab without a
// referrer. Images become links, so that showing a reply fetches nothing.

import { CJK } from './cjk.js';

const WITHOUT_CJK = new RegExp(`[^${CJK}]+`, 'gu');
const ONE_CJK = new RegExp(`[${CJK}]`, 'u');
const SAFE = /^(https?:\/\/|mailto:)/i;

export function links(md) {
  md.validateLink = (url) => SAFE.test(url);
  // Words such as `main.py` do not become links, though .py is a domain.
  md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
  endAtCjk(md.linkify);
  md.core.ruler.push('images_as_links', (state) => {
    for (const token of state.tokens) {
      if (token.children) token.children = withoutImages(token.children, state.Token);
    }
  });
  md.renderer.rules.link_open = (tokens, i, options, env, self) => {
    tokens[i].attrSet('target', '_blank');
    tokens[i].attrSet('rel', 'noopener noreferrer nofollow');
    return self.renderToken(tokens, i, options);
  };
}

// A bare address begins and ends at CJK text, which has no spaces around it.
function endAtCjk(linkify) {
  const [test, match, matchAtStart] = ['test', 'match', 'matchAtStart'].map((name) => linkify[name].bind(linkify));
  const partsWithAddress = (text) => {
    if (!text.includes(':')) return [];
    return [...text.matchAll(WITHOUT_CJK)].filter(([part]) => part.includes(':') && test(part));
  };
  linkify.test = (text) => partsWithAddress(text).length > 0;
  linkify.match = (text) => partsWithAddress(text).flatMap(({ 0: part, index }) => {
    return match(part).map((found) => Object.assign(found, {
      index: found.index + index, lastIndex: found.lastIndex + index,
    }));
  });
  linkify.matchAtStart = (text) => {
    const found = matchAtStart(text);
    const end = found ? found.raw.search(ONE_CJK) : -1;
    return end < 0 ? found : matchAtStart(text.slice(0, end));
  };
}

function withoutImages(tokens, Token) {
  let depth = 0; // of links: they cannot be nested
  return tokens.flatMap((token) => {
    if (token.type === 'link_open') depth += 1;
    if (token.type === 'link_close') depth -= 1;
    return token.type === 'image' ? asLink(token, depth > 0, Token) : [token];
  });
}

function asLink(image, insideLink, Token) {
  const text = new Token('text', '', 0);
  text.content = image.content || image.attrGet('src');
  if (insideLink) return [text];
  const open = new Token('link_open', 'a', 1);
  open.attrSet('href', image.attrGet('src'));
  return [open, text, new Token('link_close', 'a', -1)];
}
