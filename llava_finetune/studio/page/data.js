// Screen 1: pictures and answers. What is dropped or found is shown first, then taken into the grid.
import { call, upload } from "./api.js";
import { el, fill, find, pictureAt, say } from "./dom.js";
import { Grid } from "./grid.js";
import { trouble } from "./main.js";
import { Findings } from "./checks.js";
import { commandBox, ended, field, jobLine, options } from "./parts.js";
import { t } from "./texts.js";

const TAKEN = /\.(jpe?g|jpe|jfif|mpo|png|webp|gif|bmp|dib|tiff?|avif|hei[cf]|hif|jp2|jpx|j2k|p[bgnp]m|csv|tsv|jsonl?|ndjson|xlsx|parquet|zip|txt|caption)$/i;

const HUB_COLUMNS = ["image", "question", "answer", "messages", "caption"];

let hubTyping = null;
let grid = null;
let checks = null;
let isAdding = false;

export async function open(place, state) {
  const add = el("section", { class: "add", id: "add", "aria-label": t("add") });
  const work = el("div", { class: "work", id: "work", hidden: true });
  place.append(add, work);
  isAdding = false; // without rows it is offered anyway
  drop(place);
  grid?.leave();
  grid = new Grid(trouble);
  checks = new Findings(grid, trouble);
  work.append(grid.place, checks.place);
  await refresh(state, true);
}

export async function refresh(state, first = false) {
  const add = find("#add");
  const work = find("#work");
  if (!add || !work) return;
  work.hidden = !state.rows;
  add.classList.toggle("small", Boolean(state.rows) && !isAdding);
  if (first || add.dataset.rows !== String(Boolean(state.rows)) + isAdding) {
    add.dataset.rows = String(Boolean(state.rows)) + isAdding;
    await offer(add, state);
  }
  if (state.rows) {
    await grid.refresh(state.table, first);
    await checks.refresh(state.table);
  }
}

async function offer(add, state) {
  if (state.rows && !isAdding) {
    add.replaceChildren(el("button", { class: "plain", id: "more", onclick: async () => {
      isAdding = true;
      await refresh(state, true);
      find("#choose-folder").focus();
    } }, t("add.more")));
    return;
  }
  const { sources } = await call("sources");
  add.replaceChildren(...[
    el("div", { class: "drop", id: "drop" },
      el("h2", {}, state.rows ? t("add.more") : t("add.title")),
      el("p", {}, t("add.what")),
      el("p", { class: "buttons" }, chooser("choose-folder", t("add.folder"), true), chooser("choose-files", t("add.files"), false),
        state.rows ? el("button", { class: "plain", onclick: async () => { isAdding = false; await refresh(state, true); } }, t("close")) : null),
      el("progress", { id: "sending", max: 1, value: 0, hidden: true, "aria-label": t("sending") }),
      el("p", { id: "sent", class: "dim" })),
    sources.length ? el("div", { class: "here" }, el("h3", {}, t("add.here", { name: state.name })),
      el("ul", { class: "sources" }, sources.map(sourceCard))) : null,
    hubPart(),
    el("div", { id: "preview" }),
  ].filter(Boolean));
}

// A data set of the hub: fetched by a command of its own, then looked at like anything that lies here.
function hubPart() {
  const name = el("input", { id: "hub-name", placeholder: "OWNER/NAME", autocomplete: "off", spellcheck: "false" });
  const limit = el("input", { id: "hub-limit", type: "number", min: 1, max: 200000, value: 1000 });
  const split = el("input", { id: "hub-split", placeholder: "train", autocomplete: "off" });
  const columns = HUB_COLUMNS.map((role) => [role, el("input", { "data-hub": role, placeholder: t("hub.guessed"), autocomplete: "off" })]);
  const progress = el("div", { id: "fetched" });
  const command = el("div");
  const asked = () => ({ name: name.value, limit: Number(limit.value) || 1, split: split.value,
    columns: Object.fromEntries(columns.filter(([, input]) => input.value.trim()).map(([role, input]) => [role, input.value])) });
  const show = async () => {
    try {
      const seen = name.value.trim() ? await call("hub", { ...asked(), dry: true }) : { command: "" };
      fill(command, seen.command, () => (seen.command ? commandBox(seen.command) : null));
      button.disabled = !seen.command;
      progress.replaceChildren();
    } catch (error) {
      button.disabled = true;
      progress.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  };
  const button = el("button", { id: "hub-fetch", type: "submit", disabled: true }, t("hub.fetch"));
  const fetchIt = async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      const begun = await call("hub", asked());
      const last = await ended(begun.job, (seen) => progress.replaceChildren(jobLine(seen)));
      if (last.state === "done") await look(begun.records, begun.images);
    } catch (error) {
      trouble(error);
    }
    button.disabled = false;
  };
  return el("details", { class: "hub", id: "hub" }, el("summary", {}, t("hub")),
    el("form", { class: "panel", onsubmit: fetchIt, oninput: () => { clearTimeout(hubTyping); hubTyping = setTimeout(show, 400); } },
      el("p", { class: "dim" }, t("hub.what")),
      el("div", { class: "fields" }, field(t("hub.name"), name), field(t("hub.limit"), limit), field(t("hub.split"), split)),
      el("details", {}, el("summary", {}, t("hub.columns")), el("p", { class: "dim" }, t("hub.columns.what")),
        el("div", { class: "fields" }, columns.map(([role, input]) => field(t(`hub.column.${role}`), input)))),
      el("p", { class: "buttons" }, button), progress, command));
}

function sourceCard(source) {
  const detail = source.kind === "pictures" ? t("pictures", { count: source.pictures }) : t(`kind.${source.kind}`);
  const name = source.name === "." ? t("add.top") : source.name;
  return el("li", {}, el("button", { class: "source", "data-source": source.name, onclick: () => look(source.name) },
    el("span", { class: `icon ${source.kind}`, "aria-hidden": "true" }), el("b", {}, name), el("small", {}, detail)));
}

function chooser(id, label, isFolder) {
  const input = el("input", { type: "file", multiple: true, class: "hidden", id: `${id}-input`, tabindex: "-1", "aria-hidden": "true", webkitdirectory: isFolder,
    onchange: (event) => send([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file])).catch((error) => trouble(error)) });
  return el("span", {}, el("button", { id, class: isFolder ? "main" : "", onclick: () => input.click() }, label), input);
}

// Dropping anywhere on the screen; folders are walked through.
function drop(place) {
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", (event) => { if (event.target === place) place.classList.remove("over"); });
  place.addEventListener("drop", async (event) => {
    event.preventDefault();
    place.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(walk))).flat()
      : [...event.dataTransfer.files].map((file) => [file.name, file]);
    await send(files).catch((error) => trouble(error));
  });
}

async function walk(entry) {
  if (entry.isFile) return [[entry.fullPath.slice(1), await new Promise((done, fail) => entry.file(done, fail))]];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) break;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
  return found;
}

// A file that is refused is told, and the others come all the same; where the disk is full, it ends.
async function send(files) {
  const wanted = files.filter(([name]) => TAKEN.test(name) && !name.split("/").some((part) => part.startsWith(".")));
  if (!wanted.length) {
    trouble(Object.assign(new Error(t("add.nothing")), { status: 400 }));
    return;
  }
  isAdding = true;
  if (!find("#sending")) await refresh(await call("state"), true);
  trouble(null);
  const total = wanted.reduce((sum, [, file]) => sum + file.size, 0) || 1;
  const placed = [];
  const queue = [...wanted];
  let sent = 0;
  let problem = null;
  const show = () => { // the screen may be another one by now, and back again
    const bar = find("#sending");
    if (!bar) return;
    bar.hidden = !queue.length && placed.length === wanted.length;
    bar.value = sent / total;
    find("#sent").textContent = t("add.sent", { done: placed.length, all: wanted.length }) + (wanted.length < files.length ? ` ${t("add.left", { count: files.length - wanted.length })}` : "");
  };
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      try {
        placed.push(await upload(next[1], next[0], (bytes) => { sent += bytes; show(); }));
      } catch (error) {
        problem = error;
        if (error.status !== 400) queue.length = 0;
      }
      show();
    }
  };
  await Promise.all([worker(), worker(), worker()]);
  if (find("#sending")) {
    await refresh(await call("state"), true);
    show();
    find("#sending").hidden = true;
    if (placed.length) await look(best(placed));
  }
  if (problem) trouble(problem);
}

// Of what was sent, the table tells most; then the archive; else the folder of the pictures.
function best(placed) {
  const ending = (pattern) => placed.find((name) => pattern.test(name));
  return ending(/\.(csv|tsv|xlsx|parquet|jsonl?|ndjson)$/i) ?? ending(/\.zip$/i) ?? (placed[0].includes("/") ? placed[0].split("/")[0] : ".");
}

async function look(name, images = null, encoding = null) {
  const place = find("#preview");
  try {
    const seen = await call("look", { name, images, encoding });
    const { sources } = await call("sources");
    if (!place?.isConnected) return;
    place.replaceChildren(seen.readings ? readingsOf(seen) : previewOf(seen, sources));
    place.scrollIntoView({ block: "nearest" });
    find("h3", place).focus();
    trouble(null);
  } catch (error) {
    place?.replaceChildren();
    trouble(error);
  }
}

// A table of an older program does not say how its letters are written: somebody who knows the words chooses.
function readingsOf(seen) {
  return el("section", { class: "panel preview", id: "readings" }, el("h3", { tabindex: "-1" }, seen.name), el("p", {}, t("readings")),
    el("p", { class: "buttons" }, seen.readings.map(([encoding, text]) =>
      el("button", { "data-encoding": encoding, onclick: () => look(seen.name, null, encoding) }, text, " ", el("small", {}, encoding)))));
}

function previewOf(seen, sources) {
  const isTable = seen.kind === "table";
  const roles = {};
  const selects = ["image", "question", "answer"].map((role) => {
    roles[role] = el("select", { "data-role": role }, options([["", t(`role.${role}.none`)], ...seen.columns.map((one) => [one, one])], seen.roles[role] ?? ""));
    return field(t(`role.${role}`), roles[role]);
  });
  const folders = el("select", { id: "folder", onchange: () => look(seen.name, folders.value, seen.encoding) },
    options([...new Set([seen.images ?? "", ...sources.filter((one) => one.kind === "pictures").map((one) => one.name)])].map((one) => [one, one === "." ? t("add.top") : one]), seen.images ?? ""));
  const question = el("input", { type: "text", id: "question", value: "", placeholder: t("question.usual"), oninput: () =>
    made.querySelectorAll("[data-asked]").forEach((one) => { one.textContent = question.value.trim() || t("question.usual"); }) });
  const labels = el("input", { type: "checkbox", id: "labels", checked: seen.labels });
  const needsQuestion = !seen.roles.question && seen.kind !== "records";
  const button = el("button", { class: "main", id: "take", onclick: () => take(seen, roles, folders.value || seen.images, question.value, labels.checked, button) }, t("take"));
  const made = el("section", { class: "panel preview" },
    el("h3", { tabindex: "-1" }, seen.name === "." ? t("add.top") : seen.name, " ", el("small", {}, wordsOf(seen))),
    el("div", { class: "fields" }, isTable ? selects : null, isTable || seen.kind === "records" ? field(t("role.folder"), folders) : null,
      needsQuestion ? field(t("question.all"), question, t("question.all.why")) : null,
      seen.labels ? el("label", { class: "check" }, labels, t("labels")) : null),
    el("div", { class: "wide" }, el("table", { class: "first" }, el("thead", {}, el("tr", {}, el("th", {}, t("picture")), el("th", {}, t("question")), el("th", {}, t("answer")))),
      el("tbody", {}, seen.rows.map((row) => firstRow(seen, row))))),
    el("p", { class: "buttons" }, button));
  return made;
}

function wordsOf(seen) {
  if (seen.kind === "pictures") return t("pictures", { count: seen.found });
  const rows = seen.seen >= 200 ? t("rows.first", { count: seen.seen }) : t("rows", { count: seen.seen });
  return `${rows}, ${t("pictures.found", { count: seen.found })}`;
}

function firstRow(seen, row) {
  const name = row[""] ?? "";
  const folder = seen.images && seen.images !== "." ? `${seen.images}/` : "";
  const cell = (role) => (seen.kind === "table" ? row[seen.roles[role]] : row[role]) ?? "";
  const image = name ? el("img", { src: pictureAt("thumbnail", `:/${folder}${name}`), alt: "", loading: "lazy", width: 64, height: 64, onerror: missing }) : null;
  return el("tr", {}, el("td", {}, image, el("code", {}, name || cell("image"))), el("td", {}, cell("question") || el("span", { class: "dim", "data-asked": "" }, t("question.usual"))),
    el("td", {}, cell("answer") || el("span", { class: "dim" }, t("answer.none"))));
}

export function missing(event) {
  event.target.classList.add("missing");
  event.target.removeAttribute("src");
}

async function take(seen, roles, images, question, labels, button) {
  button.disabled = true;
  try {
    const chosen = Object.fromEntries(Object.entries(roles).map(([role, select]) => [role, select.value || null]));
    const taken = await call("take", { name: seen.name, images, roles: chosen, question: question || t("question.usual"), labels, encoding: seen.encoding });
    isAdding = false;
    await refresh(taken, true);
    const words = Object.entries(taken.counts).filter(([, count]) => count).map(([what, count]) => t(`taken.${what}`, { count })).join(", ") || t("taken.nothing");
    say(words);
    grid.tell(words);
    grid.focus();
  } catch (error) {
    trouble(error);
    button.disabled = false;
  }
}
