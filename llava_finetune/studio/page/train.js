// Screen 4: start a training, watch it, stop it, go on with it. What is shown is read from the disk each time.
import { call } from "./api.js";
import { figures, watch } from "./charts.js";
import { el, fill, find, pictureAt, say } from "./dom.js";
import { named, trouble } from "./main.js";
import { commandBox, field, options, pill } from "./parts.js";
import { duration, language, percent, t } from "./texts.js";

const RECIPES = ["lora", "qlora", "full"];
const MORE = [["--num_train_epochs", "epochs"], ["--learning_rate", "rate"], ["--lora_r", "rank"], ["--max_steps", "steps"]];
let preview = async () => {};
let chosen = null;
let lastLines = new Map();

export async function open(place, state) {
  chosen = named() ?? chosen;
  const form = await newRun(state);
  place.append(
    el("div", { class: "two" },
      el("div", { class: "start" }, el("section", { "aria-label": t("runs"), hidden: true }, el("h2", {}, t("runs")), el("ul", { class: "runs", id: "runs" }),
        el("p", { class: "buttons", id: "several", hidden: true }, el("a", { class: "button", id: "compare", href: "#compare" }, t("compare")))), form),
      el("section", { class: "run", id: "run", "aria-label": t("run") })));
  watch(place);
  await refresh(state);
}

export async function refresh() {
  const list = find("#runs");
  if (!list) return;
  const { runs } = await call("runs");
  if (!list.isConnected) return; // another screen was opened meanwhile
  if (!runs.some((run) => run.name === chosen)) chosen = runs[0]?.name ?? null;
  fill(list, [runs.map((run) => ({ ...run, silent: null, seconds: null })), chosen], () => runs.map(runCard));
  list.parentElement.hidden = !runs.length;
  find("#several").hidden = runs.length < 2;
  const name = find("#name");
  if (!name.value && document.activeElement !== name) {
    name.value = freeName(runs);
    await preview();
  }
  if (chosen) await showRun(chosen);
  else fill(find("#run"), "none", () => el("p", { class: "dim" }, t("runs.none.what")));
}

const freeName = (runs) => {
  for (let number = 1; ; number += 1) if (!runs.some((run) => run.name === `run-${number}`)) return `run-${number}`;
};

function runCard(run) {
  const score = run.score ?? null;
  return el("li", {}, el("button", { class: "runcard", "data-run": run.name, "aria-pressed": String(run.name === chosen), onclick: async () => {
    chosen = run.name;
    history.replaceState(null, "", `#train/${encodeURIComponent(run.name)}`);
    await refresh();
    find("#stand")?.scrollIntoView({ block: "nearest" }); // a phone has it far below
  } }, el("b", {}, run.name), pill(run.state), el("small", {}, score === null ? run.about.model ?? "" : t("score.from", { score: percent(score), first: run.first === null ? "–" : percent(run.first) }))));
}

async function newRun(state) {
  const { models, cards } = await call("models");
  const model = el("input", { id: "model", list: "models", required: true, value: models.find((one) => one.where !== "hub")?.name ?? models[0]?.name ?? "", autocomplete: "off" });
  const name = el("input", { id: "name", value: "", autocomplete: "off" });
  const recipe = el("div", { class: "recipes", role: "radiogroup", "aria-label": t("recipe") }, RECIPES.map((one, number) =>
    el("label", { class: "recipe" }, el("input", { type: "radio", name: "recipe", value: one, checked: number === 0 }),
      el("span", {}, el("b", {}, t(`recipe.${one}`)), el("small", {}, t(`recipe.${one}.what`))))));
  const more = MORE.map(([flag, key]) => [flag, el("input", { inputmode: "decimal", "data-flag": flag, placeholder: t("usual") }), key]);
  const command = el("div");
  const go = el("button", { class: "main", id: "start", type: "submit" }, t("start"));
  const ahead = el("section", { class: "ahead", id: "ahead", "aria-label": t("ahead") });
  const problem = el("p", { class: "bad", role: "alert", id: "problem" });
  const asked = () => ({
    name: name.value.trim(),
    model: model.value.trim(),
    recipe: find("input[name=recipe]:checked", made).value,
    flags: Object.fromEntries(more.filter(([, input]) => input.value.trim()).map(([flag, input]) => [flag, input.value.trim()])),
  });
  let turn = 0;
  preview = async () => {
    turn += 1;
    const own = turn;
    try {
      const { command: text, forecast } = await call("train", { ...asked(), dry: true });
      if (own !== turn) return; // what was asked meanwhile is shown
      problem.textContent = "";
      fill(ahead, forecast, () => forecastParts(forecast));
      fill(command, text, () => commandBox(text));
      go.disabled = false;
    } catch (error) {
      if (error.status === 0 || own !== turn) return;
      problem.replaceChildren(error.message, error.key === "refused.not_split" ? stepOne() : "");
      problem.className = error.key === "refused.not_split" ? "warn" : "bad";
      fill(ahead, null, () => []);
      go.disabled = true;
    }
  };
  const made = el("form", { class: "panel new", "aria-label": t("run.new"), onsubmit: (event) => { event.preventDefault(); start(asked(), go); }, onchange: preview },
    el("h2", {}, t("run.new")),
    field(t("model"), model, t("model.what")), el("datalist", { id: "models" }, models.map((one) => el("option", { value: one.name }, t(`where.${one.where}`)))),
    el("div", { class: "label" }, t("recipe")), recipe,
    fitPart(asked, cards),
    field(t("run.name"), name),
    el("details", {}, el("summary", {}, t("more")), el("div", { class: "fields" }, more.map(([flag, input, key]) => field(`${t(`flag.${key}`)} (${flag})`, input, t(`flag.${key}.what`))))),
    ahead, problem, el("p", { class: "buttons" }, go), command);
  name.value = freeName((await call("runs")).runs);
  await preview();
  return made;
}

const stepOne = () => el("span", { class: "buttons" }, el("a", { class: "button", href: "#data" }, t("step.data")));

// What the training will do with these records, why so, and how long that takes where a run like it was measured here.
function forecastParts(ahead) {
  const rate = String(Number(ahead.rate));
  const reasons = [
    ahead.by_steps ? t("ahead.steps", ahead) : t(ahead.is_given ? "ahead.given" : ahead.is_little ? "ahead.little" : "ahead.much", ahead),
    ahead.by_steps ? t("ahead.batch.steps", ahead) : t(ahead.is_little ? "ahead.batch.little" : "ahead.batch", ahead),
    ahead.warmup ? t("ahead.warmup", { count: ahead.warmup, rate }) : t("ahead.rate", { rate }),
    ahead.evaluations ? t("ahead.asked", { times: ahead.evaluations }) : t("ahead.unasked"),
  ];
  return [el("h3", {}, t("ahead")),
    el("p", { id: "how-long" }, ahead.seconds === null ? t("ahead.unknown") : t("ahead.time", { time: duration(ahead.seconds), like: ahead.like })),
    ahead.is_fresh ? null : el("p", { class: "warn" }, t("parts.stale"), stepOne()),
    ahead.is_short ? el("p", { class: "warn" }, t("ahead.short", ahead)) : null,
    el("ul", {}, reasons.map((text) => el("li", {}, text)))];
}

// Will it fit: plan's answer for a card, in words; and which card this machine has.
function fitPart(asked, cards) {
  const here = cards?.length ? t("card.here", { name: cards[0].name, size: cards[0].memory }) : cards ? t("card.none") : null;
  const card = el("input", { id: "card", type: "number", min: 1, max: 1000, value: cards?.[0]?.memory ?? 24, inputmode: "numeric" });
  const words = el("p", { id: "fits", role: "status" });
  const box = el("div");
  const button = el("button", { type: "button", id: "fit", onclick: async () => {
    button.disabled = true;
    try {
      const { model, recipe } = asked();
      const plan = await call("fit", { model, recipe, card: Number(card.value) });
      const values = { card: Number(card.value), needs: Math.round(10 * plan.needs) / 10, spare: Math.abs(Math.round(10 * plan.spare) / 10) };
      words.className = plan.fits ? "good" : "bad";
      words.textContent = t(plan.fits ? "fit.yes" : "fit.no", values);
      fill(box, plan.command, () => commandBox(plan.command));
    } catch (error) {
      words.className = "bad";
      words.textContent = error.message;
    }
    button.disabled = false;
  } }, t("fit"));
  return el("div", {}, el("div", { class: "fit" }, field(t("card"), card), button, words),
    here ? el("p", {}, el("small", { id: "card-here" }, here)) : null, box);
}

async function start(asked, go) {
  go.disabled = true;
  try {
    await call("train", asked);
    chosen = asked.name;
    find("#name").value = "";
    history.replaceState(null, "", `#train/${encodeURIComponent(chosen)}`);
    say(t("started", { name: chosen }));
    await refresh();
    find("#run").scrollIntoView({ block: "nearest" });
  } catch (error) {
    trouble(error);
  }
  go.disabled = false;
}

async function showRun(name) {
  const place = find("#run");
  const run = await call("run", { name, language });
  if (name !== chosen || !place?.isConnected) return;
  if (place.dataset.name !== name) {
    place.dataset.name = name;
    delete place.dataset.key;
    place.replaceChildren(el("div", { id: "stand" }), el("div", { id: "charts" }), el("div", { id: "asked" }),
      el("details", { id: "log", ontoggle: () => { lastLines.delete(name); showLog(run.job); } }, el("summary", {}, t("log")), el("div", { id: "lines" })));
  }
  fill(find("#stand"), [name, run.state, run.stopping, run.saved, run.step, run.steps, run.left, run.memory, run.warnings, run.why, run.score, run.has, run.silent === null ? null : duration(run.silent)], () => stand(run));
  fill(find("#charts"), run.charts, () => figures(run.charts));
  fill(find("#asked"), [name, run.questions, run.held_out], () => questions(run));
  await showLog(run.job);
}

function stand(run) {
  const words = { running: run.step ? t("run.step", { step: run.step, steps: run.steps || "?" }) : t("run.begins") };
  const isUnsaved = run.state === "stopped" && !run.saved;
  if (run.state === "unknown") words.unknown = run.step ? t("run.unknown", { step: run.step, time: duration(run.silent ?? 0) }) : t("run.unknown.early");
  const sentence = words[run.state] ?? (isUnsaved ? t("run.stopped.early") : t(`run.${run.state}`, { step: run.step }));
  const part = run.steps ? Math.min(1, run.step / run.steps) : null;
  const facts = [run.left ? t("left", { time: duration(run.left) }) : null, run.memory ? t("memory", { size: run.memory }) : null,
    run.state === "running" && run.seconds ? t("since", { time: duration(run.seconds) }) : null].filter(Boolean).join(" · ");
  return [
    el("h2", {}, run.name, " ", pill(run.state)),
    el("p", { class: "lead" }, run.state === "done" && run.score !== null ? t("run.score", { score: percent(run.score), first: run.first === null ? "–" : percent(run.first) }) : sentence),
    run.state === "running" ? el("progress", { max: 1, value: part, "aria-label": sentence }) : null,
    facts ? el("p", { class: "dim" }, facts) : null,
    run.why ? el("p", { class: "reason bad" }, run.why) : null,
    run.state === "killed" ? el("p", { class: "reason" }, t("killed.why")) : null,
    ...run.warnings.map((text) => el("p", { class: "reason warn" }, text)),
    el("p", { class: "buttons" }, buttons(run)),
  ];
}

function buttons(run) {
  const out = [];
  if (["running", "waiting"].includes(run.state)) {
    out.push(el("button", { id: "stop", disabled: run.stopping, onclick: async (event) => {
      event.target.disabled = true;
      await call("stop", { name: run.job }).catch((error) => trouble(error));
      await refresh();
    } }, run.stopping ? t("stopping") : run.state === "running" ? t("stop") : t("stop.waiting")));
  }
  if (run.resumable) {
    out.push(el("button", { class: "main", id: "resume", onclick: async (event) => {
      event.target.disabled = true;
      await call("resume", { name: run.name }).catch((error) => trouble(error));
      await refresh();
    } }, run.saved ? t("resume") : t("again")));
  }
  if (run.state === "done") out.push(el("a", { class: "button main", id: "use", href: `#use/${encodeURIComponent(run.name)}` }, t("use.it")));
  if (run.has?.includes("report.html")) out.push(el("a", { class: "button", href: `/report/${encodeURIComponent(run.name)}`, target: "_blank", rel: "noopener" }, t("report")));
  return out;
}

function questions(run) {
  if (!run.questions.length) return [];
  const more = run.held_out > run.questions.length ? el("small", {}, t("asked.some", { shown: run.questions.length, all: run.held_out })) : null;
  return [el("h3", {}, t("asked"), " ", more), el("div", { class: "cards" }, run.questions.map((one) => {
    return el("article", { class: `card ${one.is_right ? "right" : "wrong"}` },
      one.image ? el("div", { class: "pic" }, el("img", { src: pictureAt("thumbnail", one.image), alt: one.image, loading: "lazy" })) : null,
      el("p", { class: "q" }, el("span", { class: `pill ${one.is_right ? "done" : "failed"}` }, t(one.is_right ? "judged.right" : "judged.wrong")), " ", one.question),
      el("dl", {}, ...few(one.answers).flatMap(([step, text]) => [el("dt", {}, step ? t("at.step", { step }) : t("before")), el("dd", {}, text || "–")]),
        el("dt", {}, t("right.answer")), el("dd", { class: "good" }, one.reference)));
  }))];
}

// Before, and the last three: more does not fit a card.
const few = (answers) => (answers.length > 4 ? [answers[0], ...answers.slice(-3)] : answers);

async function showLog(job) {
  const place = find("#log");
  if (!place?.open || !job) return;
  const seen = await call("job", { name: job });
  fill(find("#lines"), [seen.log, seen.command], () => [commandBox(seen.command), el("pre", { class: "log", tabindex: "0" }, seen.log || " ")]);
}
