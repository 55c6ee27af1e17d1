// Several trainings side by side: a table, their curves in one picture, and the settings that differ.
import { call } from "./api.js";
import { figures, watch } from "./charts.js";
import { el, fill, find } from "./dom.js";
import { trouble } from "./main.js";
import { pill } from "./parts.js";
import { brief, duration, language, number as counted, percent, t, tOr } from "./texts.js";

const LOOKS_BETWEEN = 4; // what runs on is looked at again at each fourth turn: every look reads all that was written
let left = new Set();
let turn = 0;

export async function open(place) {
  left = new Set();
  turn = 0;
  place.append(
    el("p", {}, el("a", { href: "#train" }, t("compare.back"))),
    el("h2", {}, t("compare")),
    el("fieldset", { class: "chips", id: "chosen" }),
    el("p", { class: "lead", id: "verdict", role: "status" }),
    el("div", { id: "lines" }), el("div", { id: "curves" }), el("div", { id: "settings" }));
  watch(place);
  await draw();
}

export async function refresh() {
  turn += 1;
  if (find("#chosen") && turn % LOOKS_BETWEEN === 0) await draw();
}

async function draw() {
  const { runs: all } = await call("runs");
  const known = all.map((run) => run.name);
  const names = known.filter((name) => !left.has(name));
  const seen = await call("compare", { names, language });
  if (!find("#chosen")) return; // another screen was opened meanwhile
  const shown = new Set(seen.runs.map((run) => run.name));
  fill(find("#chosen"), known, () => [el("legend", { class: "hidden" }, t("compare.which")), ...known.map((name) => choice(name, shown.has(name)))]);
  find("#verdict").textContent = known.length < 2 ? t("compare.few") : verdict(seen.verdict);
  fill(find("#lines"), seen.runs, () => lines(seen.runs));
  fill(find("#curves"), seen.charts, () => (seen.charts ? figures(seen.charts) : null));
  fill(find("#settings"), [seen.settings, seen.runs.map((run) => run.name)], () => settings(seen));
}

function choice(name, isShown) {
  if (!isShown) left.add(name);
  return el("label", { class: "choice" }, el("input", { type: "checkbox", "data-choose": name, checked: isShown, onchange: (event) => {
    if (event.target.checked) left.delete(name);
    else left.add(name);
    draw().catch((error) => trouble(error));
  } }), name);
}

function verdict(found) {
  if (!found) return t("compare.unscored");
  const values = { best: found.best, second: found.second, score: percent(found.score), count: found.count };
  if (!found.count) return t("compare.apart", values);
  return t(found.is_told_apart ? "compare.better" : "compare.level", values);
}

const score = (run) => (run.score === null ? (run.so_far === null ? "–" : t("compare.so.far", { score: percent(run.so_far) })) : el("b", {}, percent(run.score)));
const head = (runs) => runs.map((run) => el("th", { scope: "col" }, el("span", { class: `key ${run.colour}` }, run.name)));
const scrolled = (label, table) => el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label }, table);
const number = (value) => (value === null || value === undefined ? "–" : brief(value));

function lines(runs) {
  if (!runs.length) return null;
  const rows = [
    ["compare.state", (run) => pill(run.state)],
    ["compare.score", (run) => score(run)],
    ["compare.before", (run) => (run.first === null ? "–" : percent(run.first))],
    ["compare.prior", (run) => (run.prior === null ? "–" : percent(run.prior))],
    ["compare.loss.held", (run) => number(run.held_out)],
    ["compare.loss", (run) => number(run.loss)],
    ["compare.steps", (run) => (run.step ? counted(run.step) : "–")],
    ["compare.time", (run) => (run.trained === null ? "–" : duration(run.trained))],
    ["compare.memory", (run) => (run.memory === null ? "–" : `${brief(run.memory)} GB`)],
  ];
  return scrolled(t("compare.table"), el("table", { class: "plain side-by-side" }, el("thead", {}, el("tr", {}, el("td", {}), head(runs))),
    el("tbody", {}, rows.map(([key, make]) => el("tr", {}, el("th", { scope: "row" }, t(key)), runs.map((run) => el("td", {}, make(run))))))));
}

function settings({ settings: rows, runs }) {
  if (!rows.length) return null;
  const value = (row, text) => (row.name === "recipe" && text ? t(`recipe.${text}`) : text || "–");
  const table = (label, some) => scrolled(label, el("table", { class: "plain side-by-side settings" }, el("thead", {}, el("tr", {}, el("td", {}), head(runs))),
    el("tbody", {}, some.map((row) => el("tr", { class: row.differs ? "differs" : "", "data-setting": row.name },
      el("th", { scope: "row" }, tOr(`setting.${row.name}`, row.name), tOr(`setting.${row.name}`, null) && row.name !== "recipe" ? el("small", {}, ` (${row.name})`) : null, row.differs ? el("small", {}, ` ${t("compare.differs")}`) : null),
      row.values.map((text) => el("td", {}, value(row, text))))))));
  const [given, rest] = [true, false].map((is) => rows.filter((row) => row.is_given === is));
  const more = t("compare.settings.more", { count: rest.length });
  return [el("h3", {}, t("compare.settings")), el("p", { class: "dim" }, t("compare.settings.what")), table(t("compare.settings"), given),
    rest.length ? el("details", { id: "more-settings" }, el("summary", {}, more), table(more, rest)) : null];
}
