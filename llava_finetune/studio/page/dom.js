// Elements from data: el("p", {class: "note"}, "text", child). Text is always text, never markup.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name === "value") made.value = value;
    else if (name === "html") made.innerHTML = value; // figures that our own server drew
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const find = (selector, within = document) => within.querySelector(selector);

// Replace what an element holds, but only when it changed: what is focused, open or scrolled stays. A control that is
// made anew keeps the focus, so that a key reaches it.
export function fill(place, key, make) {
  const text = JSON.stringify(key);
  if (place.dataset.key === text) return;
  place.dataset.key = text;
  const held = place.contains(document.activeElement) ? nameOfControl(document.activeElement) : null;
  place.replaceChildren(...[make()].flat().filter(Boolean));
  if (held) find(held, place)?.focus({ preventScroll: true });
}

function nameOfControl(control) {
  if (control.id) return `#${CSS.escape(control.id)}`;
  const own = [...control.attributes].find((one) => one.name.startsWith("data-"));
  return own ? `[${own.name}="${CSS.escape(own.value)}"]` : null;
}

export function say(text) {
  find("#spoken").textContent = text;
}

export const pictureAt = (kind, name) => `/${kind}/${name.split("/").map(encodeURIComponent).join("/")}`;

export const later = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
