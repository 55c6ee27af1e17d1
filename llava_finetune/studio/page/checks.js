// Beside the grid: how many answers there are, what stands in the way, and the button that checks and splits.
import { call } from "./api.js";
import { el, fill, find, say } from "./dom.js";
import { commandBox, ended, jobLine } from "./parts.js";
import { nameOfKind, number, percent, t } from "./texts.js";

export class Findings {
  constructor(grid, trouble) {
    this.grid = grid;
    this.trouble = trouble;
    this.version = null;
    this.job = null;
    this.place = el("aside", { class: "side", "aria-label": t("side") });
    this.test = el("input", { type: "range", id: "test", min: 5, max: 50, step: 5, value: 20, oninput: () => this.sayTest(), "aria-label": t("test.share") });
    this.share = el("output", { for: "test" });
    this.mend = el("input", { type: "checkbox", id: "mend" });
    this.button = el("button", { class: "main", id: "prepare", onclick: () => this.prepare() }, t("prepare"));
    this.progress = el("div", { id: "prepared" });
    this.about = el("div", { class: "about" });
    this.list = el("ul", { class: "findings", id: "findings" });
    this.next = el("p", { class: "next" });
    this.command = el("div");
    this.place.append(this.about, this.list,
      el("div", { class: "panel" }, el("h2", {}, t("prepare.title")), el("p", {}, t("prepare.what")),
        el("label", { for: "test" }, t("test.share"), " ", this.share), this.test,
        el("label", { class: "check" }, this.mend, t("mend")),
        this.button, this.progress, this.command, this.next));
    this.mend.addEventListener("change", () => this.show());
    this.test.addEventListener("change", () => this.show());
    this.sayTest();
  }

  sayTest() { this.share.textContent = percent(this.test.value / 100); }

  get asked() { return { test: this.test.value / 100, mend: this.mend.checked }; }

  async show() {
    const { command } = await call("prepare", { ...this.asked, dry: true });
    fill(this.command, command, () => commandBox(command));
  }

  async refresh(version, again = false) {
    if (version === this.version && !again) return;
    this.version = version;
    const found = await call("findings");
    this.grid.mark(found);
    this.mend.checked ||= Boolean(found.mended);
    await this.show();
    fill(this.about, [found.total, found.answered, found.open, found.open_turns, found.parts, found.fresh], () => this.counts(found));
    fill(this.list, [found.kinds, found.ok, found.mended, found.shared, found.fresh], () => this.items(found));
    const isReady = found.fresh && found.parts.train;
    this.next.replaceChildren(...(isReady ? [el("a", { href: "#train", class: "button main" }, t("next.train"))] : []));
    this.button.classList.toggle("main", !isReady);
  }

  counts(found) {
    const parts = found.parts.train ? t("parts", { train: found.parts.train, test: found.parts.test ?? 0 }) : "";
    return [
      el("p", { class: "lead small" }, t("answers.count", { answered: found.answered, total: found.total })),
      el("progress", { max: found.total || 1, value: found.answered, "aria-label": t("answers.count", { answered: found.answered, total: found.total }) }),
      found.open ? el("p", { class: "dim" }, t("answers.open", { count: found.open })) : null,
      found.open_turns ? el("p", { class: "warn" }, t("turns.open", { count: found.open_turns })) : null,
      parts ? el("p", { class: found.fresh ? "" : "warn" }, parts, found.fresh ? "" : ` ${t("parts.stale")}`) : null,
    ];
  }

  items(found) {
    const items = found.kinds.map((one) => this.item(one));
    if (found.shared.length) items.unshift(el("li", { class: "error" }, el("b", {}, t("shared", { count: found.shared.length })), el("p", {}, found.shared.slice(0, 5).join(", "))));
    if (found.mended) {
      const { mended, dropped } = found.mended.counts;
      const named = (counts) => Object.entries(counts ?? {}).map(([kind, count]) => `${nameOfKind(kind)}: ${number(count)}`).join(", ");
      const [changed, left] = [named(mended), named(dropped)];
      items.push(el("li", { class: "done" }, el("b", {}, t("mended")), changed || left ? null : el("p", {}, t("mended.nothing")),
        changed ? el("p", {}, changed) : null, left ? el("p", {}, t("left.out"), " ", left) : null));
    }
    if (!items.length && found.ok && found.fresh) items.push(el("li", { class: "done" }, t("check.fine")));
    return items;
  }

  item(one) {
    const canMend = one.is_mendable && one.severity === "error" && !this.mend.checked;
    return el("li", { class: one.severity },
      el("button", { class: "plain", "data-kind": one.kind, onclick: () => this.grid.filter(`found:${one.kind}`) }, el("b", {}, nameOfKind(one.kind)), " ", el("span", { class: "number" }, number(one.count))),
      el("p", {}, t(`finding.${one.kind}.what`), one.is_left_out ? ` ${t("finding.left_out")}` : ""), one.detail ? el("details", {}, el("summary", {}, t("finding.detail")), el("small", { lang: "en" }, one.detail)) : null,
      canMend ? el("button", { class: "small", "data-mend": one.kind, onclick: () => { this.mend.checked = true; this.prepare(); } }, t("mend.button", { what: t(`finding.${one.kind}.fix`) })) : null);
  }

  async prepare() {
    this.button.disabled = true;
    try {
      if (!(await this.grid.flush())) throw Object.assign(new Error(t("prepare.unsaved")), { status: 400 });
      const { job } = await call("prepare", this.asked);
      const last = await ended(job, (seen) => fill(this.progress, [seen.state, Math.round(seen.seconds)], () => jobLine(seen)));
      say(t(`state.${last.state}`));
      if (last.state === "done" || last.state === "found") this.progress.replaceChildren();
      await this.refresh(this.version, true);
    } catch (error) {
      this.trouble(error);
    }
    this.button.disabled = false;
  }
}
