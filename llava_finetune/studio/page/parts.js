// Parts that several screens show: a command with its copy button, a pill, a job that runs.
import { call } from "./api.js";
import { el, later, say } from "./dom.js";
import { duration, t } from "./texts.js";

export function commandBox(text, open = false) {
  const code = el("pre", { tabindex: "0" }, text);
  const copy = el("button", { class: "plain small", type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(code);
    }
    copy.textContent = t("copied");
    say(t("copied"));
  } }, t("copy"));
  return el("details", { class: "command", open }, el("summary", {}, t("command")), el("div", { class: "code" }, code, copy));
}

export const pill = (state) => el("span", { class: `pill ${state}` }, t(`state.${state}`));

export function jobLine(job) {
  const words = job.state === "failed" ? job.why : job.state === "killed" ? t("killed.why") : "";
  return el("div", { class: "job" }, pill(job.state), el("span", {}, t(`job.${job.kind}`)),
    el("span", { class: "dim" }, duration(job.seconds)), words ? el("p", { class: "bad" }, words) : null);
}

// Wait until a job has ended, calling `told` with each look at it.
export async function ended(name, told) {
  for (;;) {
    const job = await call("job", { name });
    told(job);
    if (!["waiting", "running"].includes(job.state)) return job;
    await later(600);
  }
}

export const field = (label, control, hint) => {
  const id = control.id || `f-${Math.random().toString(36).slice(2)}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-h`);
  return el("div", { class: "field" }, el("label", { for: id }, label), control,
    hint ? el("small", { id: `${id}-h` }, hint) : null);
};

export const options = (choices, chosen) => choices.map(([value, label]) =>
  el("option", { value, selected: value === chosen }, label));
