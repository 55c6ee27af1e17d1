// Screen 2: what the model will be taught, as the model sees it: pictures, tokens, and which of them count.
import { call } from "./api.js";
import { el, fill } from "./dom.js";
import { trouble } from "./main.js";
import { commandBox, ended, field, jobLine } from "./parts.js";
import { t } from "./texts.js";

export async function open(place, state) {
  const { models } = await call("models");
  const model = el("input", { id: "eyes", list: "eyes-models", value: models.find((one) => one.where !== "hub")?.name ?? models[0]?.name ?? "", autocomplete: "off" });
  const command = el("div");
  const progress = el("div");
  const of = el("p", { id: "of" });
  const frame = el("div", { class: "frame" });
  const next = el("p", { class: "buttons", hidden: true }, el("a", { class: "button", href: "#train" }, t("next.train")));
  const button = el("button", { class: "main", id: "look", onclick: () => look() }, t("learn.look"));
  const show = async () => {
    try {
      const seen = await call("show", { model: model.value, dry: true });
      fill(command, seen.command, () => commandBox(seen.command));
      if (seen.made && !frame.firstChild) frame.append(page());
      fill(of, [seen.made, seen.model, seen.is_old], () => [seen.made && seen.model ? t("learn.of", { model: seen.model }) : null,
        seen.is_old ? el("span", { class: "warn" }, ` ${t("learn.old")}`) : null]);
      next.hidden = !seen.made;
      button.disabled = false;
    } catch (error) {
      button.disabled = true;
      command.replaceChildren(el("p", { class: "dim" }, error.message),
        error.key === "refused.not_split" ? el("p", { class: "buttons" }, el("a", { class: "button", href: "#data" }, t("step.data"))) : "");
      delete command.dataset.key;
    }
  };
  const look = async () => {
    button.disabled = true;
    try {
      const { job } = await call("show", { model: model.value });
      const last = await ended(job, (seen) => fill(progress, [seen.state, Math.round(seen.seconds), seen.why], () => jobLine(seen)));
      if (last.state === "done") frame.replaceChildren(page());
      await show();
    } catch (error) {
      trouble(error);
    }
    button.disabled = false;
  };
  model.addEventListener("change", show);
  place.append(el("section", { class: "panel narrow" }, el("h2", {}, t("learn.title")), el("p", { class: "dim" }, t("learn.what")),
    field(t("model"), model), el("datalist", { id: "eyes-models" }, models.map((one) => el("option", { value: one.name }))),
    el("p", { class: "buttons" }, button), progress, command, next), of, frame);
  await show();
}

const page = () => el("iframe", { src: `/learned?${Date.now()}`, title: t("learn.title"), sandbox: "allow-scripts" });
