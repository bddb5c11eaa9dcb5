// A plugin of markdown-it for a reply's links: only http(s) and mail, opened in a new tab without a
// referrer. Images become links, so that showing a reply fetches nothing.

const SAFE = /^(https?:\/\/|mailto:)/i;

export function links(md) {
  md.validateLink = (url) => SAFE.test(url);
  // Words such as `main.py` do not become links, though .py is a domain.
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
