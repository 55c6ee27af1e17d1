// Screen 4: look at what came out and use it: the report, a talk beside the base, files for other programs.
import { call, upload } from "./api.js";
import { el, fill, find, pictureAt, say } from "./dom.js";
import { named, trouble } from "./main.js";
import { commandBox, jobLine, options, pill } from "./parts.js";
import { duration, percent, t, tOr } from "./texts.js";

let chosen = null;
let picture = null;

export async function open(place) {
  const { runs } = await call("runs");
  if (!place.isConnected) return; // another screen was opened meanwhile
  const finished = runs.filter((run) => run.state === "done");
  if (!finished.length) {
    place.append(el("p", { class: "lead" }, t("use.none")), el("p", {}, el("a", { class: "button main", href: "#train" }, t("next.train"))));
    return;
  }
  const asked = named();
  chosen = finished.some((run) => run.name === asked) ? asked : finished[0].name;
  const select = el("select", { id: "which", onchange: () => { chosen = select.value; location.hash = `use/${encodeURIComponent(chosen)}`; draw(); } },
    options(finished.map((run) => [run.name, run.score === null ? run.name : `${run.name}: ${percent(run.score)}`]), chosen));
  place.append(el("div", { class: "which" }, el("label", { for: "which" }, t("use.which")), select), el("div", { id: "used" }));
  draw();
}

function draw() {
  picture = null;
  find("#used").replaceChildren(
    el("div", { class: "two" },
      el("section", { class: "panel", "aria-label": t("talk") }, el("h2", {}, t("talk")), el("div", { id: "talk" })),
      el("section", { "aria-label": t("make") }, el("h2", {}, t("make")), el("p", { class: "dim" }, t("make.what")), el("ul", { class: "products", id: "products" }))),
    el("section", { class: "report", id: "report", "aria-label": t("report") }));
  refresh();
}

export async function refresh() {
  if (!find("#used")) return;
  const name = chosen;
  const [{ products, report: stamp }, talk] = [await call("products", { name }), await call("talk", { name })];
  if (name !== chosen || !find("#used")) return;
  fill(find("#products"), [name, products.map((one) => [one.kind, one.state, one.path, one.why, one.verdicts, Math.round(one.seconds)])], () => products.map(productItem));
  fill(find("#report"), [name, stamp], () => report(stamp));
  const isBusy = talk.state === "running" && !talk.models.length && find("#talk").dataset.job === talk.job;
  if (isBusy) return; // it answers a question, and nothing else: what was said and typed stays
  find("#talk").dataset.job = talk.models.length ? talk.job : "";
  fill(find("#talk"), [name, talk.state, talk.models, talk.why, talk.models.length ? 0 : Math.round((talk.seconds ?? 0) / 5)], () => talkParts(talk));
}

// The report as it is now: a certificate joins it later.
function report(stamp) {
  if (!stamp) return [el("h2", {}, t("report")), el("p", { class: "dim" }, t("report.none"))];
  const address = `/report/${encodeURIComponent(chosen)}`;
  return [el("h2", {}, t("report"), " ", el("a", { class: "plain", href: address, target: "_blank", rel: "noopener" }, t("report.own"))),
    el("iframe", { src: `${address}?${stamp}`, title: t("report"), sandbox: "allow-scripts" })];
}

function productItem(one) {
  const isBusy = ["running", "waiting"].includes(one.state);
  const box = el("div");
  const button = el("button", { "data-make": one.kind, class: "small", disabled: isBusy, onclick: async () => {
    button.disabled = true;
    await call("make", { name: chosen, kind: one.kind }).catch((error) => trouble(error));
    await refresh();
  } }, t(`make.${one.kind}.do`));
  const details = el("details", { ontoggle: async () => {
    if (!details.open || box.firstChild) return;
    const seen = one.job ? await call("job", { name: one.job }).catch(() => null) : await call("make", { name: chosen, kind: one.kind, dry: true }).catch(() => null);
    if (seen) box.append(commandBox(seen.command, true), seen.log ? el("pre", { class: "log", tabindex: "0" }, seen.log) : "");
  } }, el("summary", {}, t("command")), box);
  return el("li", { class: one.path ? "made" : "" }, el("div", {}, el("b", {}, t(`make.${one.kind}`)), one.state ? pill(one.kind === "certify" && one.state === "found" ? "certified" : one.state) : null),
    el("p", {}, t(`make.${one.kind}.what`)),
    one.path ? el("p", { class: "path" }, el("code", {}, one.path), " ", t(`make.${one.kind}.then`, { folder: one.path })) : null,
    one.verdicts.length ? el("ul", { class: "verdicts" }, one.verdicts.map(verdict)) : null,
    one.state === "failed" ? el("p", { class: "bad" }, one.why) : null,
    one.path && one.kind !== "certify" ? null : button, details);
}

// What one program answers, in words: a certificate is more than a file.
const verdict = (one) => el("li", { class: one.verdict.replaceAll(" ", "-") }, el("b", {}, tOr(`engine.${one.engine}`, one.engine)), " ",
  t(`verdict.${one.verdict}`, { identical: one.identical, all: one.count }));

const unload = (job) => el("button", { class: "plain", id: "unload", onclick: async () => {
  await call("stop", { name: job }).catch((error) => trouble(error));
  await refresh();
} }, t("talk.stop"));

function talkParts(talk) {
  if (!talk.models.length) {
    const isLoading = talk.state === "running" || talk.state === "waiting";
    return [el("p", { class: "dim" }, t("talk.what")), talk.why ? el("p", { class: "bad" }, talk.why) : null,
      el("p", { class: "buttons" }, el("button", { class: "main", id: "load", disabled: isLoading, onclick: async (event) => {
        event.target.disabled = true;
        await call("talk-begin", { name: chosen }).catch((error) => trouble(error));
        await refresh();
      } }, isLoading ? t("talk.loading") : t("talk.load")),
      isLoading ? el("span", { class: "dim" }, duration(talk.seconds)) : null,
      isLoading ? unload(talk.job) : null)];
  }
  const shown = el("div", { class: "shown" });
  const input = el("input", { type: "file", accept: "image/*,.heic", class: "hidden", id: "new-picture", tabindex: "-1", "aria-hidden": "true", onchange: async (event) => {
    try {
      const [file] = event.target.files;
      picture = `:/${await upload(file, `asked/${file.name}`)}`;
      shown.replaceChildren(el("img", { src: pictureAt("picture", picture), alt: file.name }));
      question.focus();
    } catch (error) {
      trouble(error);
    }
  } });
  const question = el("input", { type: "text", id: "ask", "aria-label": t("question"), placeholder: t("question.usual"), autocomplete: "off" });
  const answers = el("div", { class: "answers", id: "answers", "aria-live": "polite" });
  const form = el("form", { onsubmit: async (event) => {
    event.preventDefault();
    const words = question.value.trim() || t("question.usual");
    send.disabled = true;
    try {
      const got = await call("say", { name: chosen, image: picture ?? "", question: words });
      answers.prepend(exchange(words, picture, got.answers));
    } catch (error) {
      trouble(error);
    }
    send.disabled = false;
  } }, question);
  const send = el("button", { class: "main", id: "send", type: "submit" }, t("talk.ask"));
  form.append(send);
  return [el("p", { class: "buttons" }, el("button", { id: "choose-picture", onclick: () => input.click() }, t("talk.picture")), input,
    unload(talk.job)), shown, form, answers];
}

function exchange(question, image, answers) {
  const right = el("input", { type: "text", "aria-label": t("teach.right"), placeholder: t("teach.right") });
  const teach = el("form", { class: "teach", onsubmit: async (event) => {
    event.preventDefault();
    if (!right.value.trim()) return;
    try {
      await call("teach", { image, question, answer: right.value.trim() });
      teach.replaceChildren(el("p", { class: "good" }, t("teach.done")));
      say(t("teach.done"));
    } catch (error) {
      trouble(error);
    }
  } }, right, el("button", { class: "small", type: "submit" }, t("teach")));
  return el("article", { class: "exchange" }, image ? el("img", { src: pictureAt("thumbnail", image), alt: "" }) : null, el("p", { class: "q" }, question),
    el("dl", {}, ...Object.entries(answers).flatMap(([model, text]) => [el("dt", {}, model), el("dd", {}, text || "–")])),
    image ? teach : null);
}
