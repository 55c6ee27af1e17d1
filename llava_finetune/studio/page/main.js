// The frame of the page: which screen is shown, in which language, and whether the server answers.
import { call } from "./api.js";
import { el, fill, find, later } from "./dom.js";
import { speak, t } from "./texts.js";
import * as data from "./data.js";
import * as learn from "./learn.js";
import * as train from "./train.js";
import * as compare from "./compare.js";
import * as use from "./use.js";

const screens = { data, learn, train, use, compare };
const STEPS = ["data", "learn", "train", "use"];
const POLL = 1500;
let shown = null;
export let state = {};

const wanted = () => {
  const name = location.hash.slice(1).split("/")[0];
  return name in screens ? name : "data";
};

// The name after the screen's in the address: #train/first-try. A browser keeps letters outside of ASCII encoded there.
export function named() {
  try {
    return decodeURIComponent(location.hash.split("/")[1] ?? "") || null;
  } catch {
    return null;
  }
}

// What went wrong, until it is closed; what the server does not answer, or a poll found, until that is well again.
export function trouble(error, isPolled = false) {
  const place = find("#trouble");
  place.hidden = !error;
  if (error && (isPolled || error.status === 0 || error.status === 503)) place.dataset.lost = "yes";
  else delete place.dataset.lost;
  if (error) fill(place, error.message + error.status, () => [
    el("b", {}, error.status === 0 ? t("trouble.gone") : t("trouble.refused")),
    ` ${error.status === 0 ? t("trouble.gone.what") : error.message}`,
    error.status === 0 || error.status === 503 ? null
      : el("button", { class: "plain", onclick: () => { place.hidden = true; } }, t("close")),
  ]);
}

function steps() {
  fill(find("#steps"), [wanted(), document.documentElement.lang], () => STEPS.map((name) =>
    el("a", { href: `#${name}`, "aria-current": name === (wanted() === "compare" ? "train" : wanted()) ? "page" : null }, el("span", {}, t(`step.${name}`)))));
  find("#steps [aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" }); // a phone shows half of them
}

async function show() {
  steps();
  const name = wanted();
  if (shown === name) return;
  shown = name;
  document.title = `${t(`step.${name}`)} · ${state.name ?? "studio"}`;
  const place = el("div"); // a screen's own: what an earlier one still has to show lands in no other
  find("#screen").className = `screen ${name}`;
  find("#screen").replaceChildren(place);
  scrollTo(0, 0);
  await screens[name].open(place, state);
}

async function poll() {
  for (;;) {
    try {
      state = await call("state");
      await screens[shown]?.refresh?.(state);
      if (find("#trouble").dataset.lost) trouble(null);
    } catch (error) {
      if (error.status === undefined) reportError(error);
      else trouble(error, true);
    }
    await later(document.hidden ? 4 * POLL : POLL);
  }
}

async function begin() {
  try {
    state = await call("state");
  } catch (error) {
    await speak("en");
    trouble(error, true);
  }
  const guess = navigator.language.slice(0, 2);
  await speak(state.language ?? guess);
  find("#language").value = document.documentElement.lang.slice(0, 2);
  find("#workspace").textContent = state.name ?? "";
  find("#workspace").title = state.workspace ?? "";
  find("#language").addEventListener("change", async (event) => {
    await speak(event.target.value);
    await call("keep", { language: event.target.value }).catch((error) => trouble(error));
    shown = null;
    await show();
  });
  find("#language").disabled = false; // a choice before now would be heard by nobody
  addEventListener("hashchange", () => show().catch((error) => trouble(error)));
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault()); // never leaves for a file
  await show().catch((error) => trouble(error));
  poll();
}

begin();
