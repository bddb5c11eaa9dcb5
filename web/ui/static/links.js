// Where a reply's links may lead, as a plugin of markdown-it: http(s) and mail, in a new tab that
// knows nothing of this one. Images become links, so that reading a reply fetches nothing.

const SAFE = /^(https?:\/\/|mailto:)/i;

export function links(md) {
  md.validateLink = (url) => SAFE.test(url);
  // Words such as `main.py` are no addresses, though .py is a domain.
  md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
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

function withoutImages(tokens, Token) {
  let depth = 0; // within a link: links cannot lie in each other
  return tokens.flatMap((token) => {
    if (token.type === 'link_open') depth += 1;
    if (token.type === 'link_close') depth -= 1;
    return token.type === 'image' ? asLink(token, depth > 0, Token) : [token];
  });
}

function asLink(image, within, Token) {
  const text = new Token('text', '', 0);
  text.content = image.content || image.attrGet('src');
  if (within) return [text];
  const open = new Token('link_open', 'a', 1);
  open.attrSet('href', image.attrGet('src'));
  return [open, text, new Token('link_close', 'a', -1)];
}
