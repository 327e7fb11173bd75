// A listening test, pair by pair. Answers are kept in this browser until they are saved as a file.

const field = (id) => document.getElementById(id);
const every = (selector) => [...document.querySelectorAll(selector)];
const KEPT = `listening-test-${run.page}`;
const pairs = Object.fromEntries(run.pairs.map((pair) => [pair.id, pair]));
const players = { a: new Audio(), b: new Audio() };
let state = kept() ?? begin();
let last = "a"; // what replay plays
let turn = 0; // the question that the next key answers

/** A new listener, with an order of its own; pairs heard again come last. */
function begin() {
  const shuffled = (list) =>
    list.map((pair) => [Math.random(), pair.id]).sort((x, y) => x[0] - y[0]).map(([, id]) => id);
  const number = crypto.getRandomValues(new Uint32Array(2));
  return {
    listener: [...number].map((part) => part.toString(16).padStart(8, "0")).join(""),
    begun: new Date().toISOString(),
    order: [run.pairs.filter((pair) => !pair.of), run.pairs.filter((pair) => pair.of)].flatMap(shuffled),
    at: -1,
    heard: {},
  };
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify(state));
  } catch {
    field("forgets").hidden = false;
  }
}

const current = () => pairs[state.order[state.at]];
const heard = () => (state.heard[current().id] ??= { plays: { a: 0, b: 0 }, answers: {} });
const complete = () => run.questions.every((name) => heard().answers[name]);

/** The file: what was answered, in this listener's order. */
function results() {
  const answered = state.order.filter((id) => Object.keys(state.heard[id]?.answers ?? {}).length);
  const answers = answered.map((pair) => ({ pair, ...state.heard[pair] }));
  const { listener, begun } = state;
  return JSON.stringify({ page: run.page, listener, begun, saved: new Date().toISOString(), pairs: answers });
}

function render() {
  const [at, total, pair] = [state.at, state.order.length, current()];
  field("intro").hidden = at >= 0;
  field("pair").hidden = !pair;
  field("done").hidden = at < total;
  field("save").hidden = !Object.values(state.heard).some((one) => Object.keys(one.answers).length);
  Object.assign(field("bar"), { max: total, value: Math.max(0, at) });
  field("count").textContent = pair ? `${at + 1} of ${total}` : `${total} pairs`;
  if (at >= total) field("text").value = results();
  if (!pair) return;
  const { plays, answers } = heard();
  const ready = plays.a > 0 && plays.b > 0;
  field("caption").textContent = pairs[pair.of ?? pair.id].text;
  field("hint").textContent = ready ? "" : "Play both before you answer.";
  field("next").disabled = !complete();
  for (const [index, set] of every("fieldset").entries()) {
    set.classList.toggle("turn", ready && index === turn && !complete());
    for (const button of set.querySelectorAll("button")) {
      button.disabled = !ready;
      button.setAttribute("aria-pressed", answers[set.dataset.question] === button.dataset.value);
    }
  }
}

function stop() {
  for (const player of Object.values(players)) player.pause();
}

/** To another pair, its sides loaded. A pair heard again is the first one with its sides swapped. */
function go(by) {
  if (by > 0 && current() && !complete()) return;
  stop();
  state.at = Math.min(state.order.length, Math.max(-1, state.at + by));
  load();
  keep();
  scrollTo(0, 0);
}

function load() {
  const pair = current();
  turn = 0;
  last = "a";
  for (const [side, other] of pair ? [["a", "b"], ["b", "a"]] : []) {
    const clip = pair.of ? pairs[pair.of][other] : pair[side];
    players[side].src = `data:audio/flac;base64,${clip}`;
  }
  render();
}

/** From the beginning; only ever by a touch or a key, as phones demand. */
function play(side) {
  if (!current()) return;
  stop();
  last = side;
  const { plays } = heard(); // of this pair, wherever the listener is by the time it sounds
  players[side].currentTime = 0;
  players[side].play().then(() => {
    plays[side] += 1;
    keep();
    render();
  }, (error) => {
    if (error.name !== "AbortError") field("hint").textContent = `This browser cannot play it: ${error.message}`;
  });
}

function answer(index, value) {
  if (!current() || field("pair").querySelector(".answer").disabled) return;
  heard().answers[run.questions[index]] = value;
  turn = (index + 1) % run.questions.length;
  keep();
  render();
}

for (const button of every(".clip")) {
  const { side } = button.dataset;
  const player = players[side];
  const shows = () => button.setAttribute("aria-pressed", !player.paused);
  for (const event of ["play", "pause", "ended"]) player.addEventListener(event, shows);
  player.addEventListener("timeupdate", () =>
    button.style.setProperty("--heard", `${(100 * player.currentTime) / player.duration || 0}%`));
  button.addEventListener("click", () => (player.paused ? play(side) : stop()));
}
for (const [index, set] of every("fieldset").entries()) {
  for (const button of set.querySelectorAll("button")) {
    button.addEventListener("click", () => answer(index, button.dataset.value));
  }
}
for (const button of every(".go")) button.addEventListener("click", () => go(Number(button.dataset.by)));
field("save").addEventListener("click", () => {
  const href = URL.createObjectURL(new Blob([results()], { type: "application/json" }));
  make("a", { href, download: `listening-${run.page.slice(0, 8)}-${state.listener}.json` }).click();
});
field("another").addEventListener("click", () => {
  if (!confirm("Are the answers saved? They are forgotten now.")) return;
  state = begin();
  load();
  keep();
});
const KEYS = {
  1: () => play("a"), 2: () => play("b"), r: () => play(last),
  a: () => answer(turn, "a"), b: () => answer(turn, "b"), t: () => answer(turn, "tie"),
  n: () => go(1), arrowleft: () => go(-1),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("textarea")) return;
  KEYS[event.key.toLowerCase()]?.();
});
keep();
load();
