// Whether the side bars cover the page instead of lying beside it. Gradio's style has the same limit.

const NARROW = window.matchMedia('(width <= 768px)');

export const sidebarsCover = () => NARROW.matches;

/** Call `listen` whenever that changes. */
export const onSidebarsCover = (listen) => NARROW.addEventListener('change', listen);
