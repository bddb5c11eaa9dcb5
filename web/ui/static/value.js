// What a component's value says: `take` gets a plain copy of it now, if there is one, and after
// each change. Gradio's own object is a proxy, which is slow to read and cannot be compared.

export function onValue({ props, watch }, take) {
  const look = () => {
    const value = typeof props.value === 'string' ? parsed(props.value) : props.value;
    if (value) take(JSON.parse(JSON.stringify(value)));
  };
  watch('value', look);
  look();
}

const parsed = (text) => (text ? JSON.parse(text) : null);
