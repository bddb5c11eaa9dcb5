// A plugin of markdown-it: each block of a reply runs as its first letter does. Not with dir="auto", with
// which a browser takes seconds to draw a paragraph of many parts.

const BLOCKS = new Set([
  'paragraph_open', 'heading_open', 'bullet_list_open', 'ordered_list_open', 'list_item_open',
  'blockquote_open', 'table_open', 'th_open', 'td_open',
]);
const RIGHT_TO_LEFT = /[\p{scx=Arab}\p{scx=Hebr}\p{scx=Syrc}\p{scx=Thaa}\p{scx=Nkoo}\p{scx=Adlm}]/u;

export function direction(md) {
  md.core.ruler.push('direction', ({ tokens }) => {
    const open = []; // blocks around the current token, with their directions where they are known
    for (const token of tokens) {
      if (token.nesting > 0) open.push({ token, direction: null });
      else if (token.nesting < 0) open.pop();
      else if (token.type === 'inline') setDirections(open, token.content);
    }
  });
}

function setDirections(open, text) {
  const [letter] = text.match(/\p{L}/u) ?? [];
  if (!letter) return;
  let around = 'ltr';
  for (const block of open) {
    if (!BLOCKS.has(block.token.type) || block.token.hidden) continue;
    if (!block.direction) {
      block.direction = RIGHT_TO_LEFT.test(letter) ? 'rtl' : 'ltr';
      if (block.direction !== around) block.token.attrSet('dir', block.direction);
    }
    around = block.direction;
  }
}
