// One audio element for the whole page, so one clip plays at a time. A clip is a play button.

const audio = document.getElementById("audio");
let current = null; // the button whose clip is in the player

function playButton(path, name) {
  const button = make("button", { type: "button", className: "play", "aria-label": `Play ${name}` });
  button.dataset.path = path;
  button.dataset.name = name;
  return button;
}

function show(button, playing) {
  button.classList.toggle("playing", playing);
  button.setAttribute("aria-label", `${playing ? "Pause" : "Play"} ${button.dataset.name}`);
}

function say(text) {
  document.getElementById("playing").textContent = text;
}

function choose(button) {
  if (button === current) return;
  if (current) {
    show(current, false);
    current.classList.remove("current");
  }
  current = button;
  current.classList.add("current");
  document.getElementById("player").hidden = false;
  say(button.dataset.name);
  audio.src = encoded(button.dataset.path);
}

function play(button) {
  choose(button);
  // What goes wrong is told by the error event; a play cut short by the next clip is no error.
  audio.play().catch(() => {});
}

function toggle(button) {
  if (button === current && !audio.paused) audio.pause();
  else play(button);
}

if (audio) {
  audio.addEventListener("play", () => show(current, true));
  audio.addEventListener("pause", () => show(current, false));
  audio.addEventListener("ended", () => show(current, false));
  audio.addEventListener("error", () => {
    show(current, false);
    say(`${current.dataset.path} cannot be played: is it there, beside this page?`);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.play");
    if (button) toggle(button);
  });
  document.addEventListener("keydown", onKey);
}

/** Arrows and space, where they do not belong to what has the focus. */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const at = document.activeElement;
  const onClip = at.matches("button.play");
  if (!onClip && at !== document.body) return;
  const from = onClip ? at : current;
  if (!from) return;
  const to = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const across = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (to) move(event, neighbour(from, to));
  else if (across) move(event, sameMethod(from, across));
  else if (event.key === " " && !onClip) {
    event.preventDefault();
    toggle(from);
  }
}

function move(event, button) {
  event.preventDefault(); // at the ends too: the page does not jump
  if (!button) return;
  const goesOn = audio && !audio.paused;
  button.focus();
  if (goesOn) play(button);
}

/** Play buttons that are to be seen, from the top. */
const shown = (within) =>
  [...within.querySelectorAll("button.play")].filter((button) => !button.closest("[hidden]"));

function neighbour(button, by) {
  const all = shown(document.getElementById("clips"));
  return all[all.indexOf(button) + by];
}

/** This method's clip at the nearest prompt in a direction that has one. */
function sameMethod(button, by) {
  const side = by > 0 ? "nextElementSibling" : "previousElementSibling";
  const method = button.closest("tr").dataset.method;
  for (let body = button.closest("tbody")[side]; body?.matches("tbody"); body = body[side]) {
    const found = shown(body).find((other) => other.closest("tr").dataset.method === method);
    if (found) return found;
  }
  return undefined;
}
