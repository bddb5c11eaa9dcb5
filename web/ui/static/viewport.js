// Whether the side bars lie over the page instead of beside it. Gradio's style draws the same line.

const NARROW = window.matchMedia('(width <= 768px)');

export const barsCover = () => NARROW.matches;

/** Call `listen` whenever that changes. */
export const onBarsCover = (listen) => NARROW.addEventListener('change', listen);
