// The run's data, and how elements are made. Text goes in as text: no string here becomes markup.

const run = JSON.parse(document.getElementById("data").textContent);

/** An element with properties, attributes (names with a dash, and role) and children. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Read aloud, and not shown. */
const unseen = (text) => make("span", { className: "unseen" }, text);

const minus = (text) => text.replace("-", "−");
const number = (value, digits) => minus(value.toFixed(digits));
const signed = (value, digits) => (value < 0 ? "" : "+") + number(value, digits);

/** A path beside the page as a URL; whatever its parts hold, they stay parts of a path. */
const encoded = (path) =>
  path.split("/").map((part) => (part === ".." ? part : encodeURIComponent(part))).join("/");
