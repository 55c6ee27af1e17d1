// A turn more behind a row's, or the row's own turn less: buttons in the row, Alt+Enter and Alt+Delete in its cells.
import { call } from "./api.js";
import { el, find, say } from "./dom.js";
import { nameOf } from "./cells.js";
import { t } from "./texts.js";

export class Turns {
  constructor(grid) {
    this.grid = grid;
    this.at = null;
  }

  buttons(made, row) {
    const name = nameOf(row);
    const button = (act, sign, words, told) => el("button", { class: "turn-button", type: "button", tabindex: "-1", "data-turn": act, title: words, "aria-label": told, onclick: () => this[act](made) }, sign);
    find(".turn-buttons", made)?.remove(); // the Tab key goes from cell to cell; in a cell Alt+Enter and Alt+Delete do the same
    made.append(el("div", { class: "turn-buttons", role: "gridcell" }, button("add", "+", t("turn.add"), t("turn.add.to", { name })),
      row.turns > 1 ? button("remove", "−", t("turn.remove"), t("turn.remove.from", { name })) : null));
  }

  // Whether a key was one of ours.
  pressed(made, event) {
    if (!event.altKey || !["Enter", "Delete"].includes(event.key)) return false;
    event.preventDefault();
    if (event.key === "Enter") this.add(made);
    else if (made.shown.turns > 1) this.remove(made);
    else say(t("refused.only_turn"));
    return true;
  }

  add(made) { return this.change(() => call("turn", { row: made.shown.id, act: "add", ...this.grid.fitting }), "question", t("turn.added")); }

  async remove(made) {
    const { id } = made.shown;
    const [question, answer] = ["question", "answer"].map((column) => this.grid.edits.get(`${id} ${column}`)?.now ?? made.shown[column]); // as it stands in the cells
    const text = [question, answer].filter((one) => one.trim()).join(" – ") || t("turn.empty");
    await this.change(() => call("turn", { row: id, act: "remove", question, answer, ...this.grid.fitting }), "answer", t("turn.removed", { text }), (changed) => this.undo(changed));
  }

  undo(changed) {
    return this.change(() => call("put-back", { record: changed.record, state: changed.state, ...this.grid.fitting }), "answer", t("turn.back"));
  }

  // What was typed is saved first: the turn's number, and with it its id, is another afterwards.
  async change(ask, column, words, undo = null) {
    const { grid } = this;
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      if (!(await grid.flush())) return;
      const changed = await ask();
      this.at = changed.row;
      await grid.askAgain(); // a quarrel's row has another id now
      await grid.reload();
      grid.go(changed.index, column, changed.row);
      find(".turn-note", grid.notes)?.remove();
      grid.notes.append(el("p", { class: "note turn-note" }, words, " ", undo ? el("button", { class: "small", id: "turn-undo", onclick: () => undo(changed) }, t("turn.undo")) : null));
    } catch (error) {
      grid.trouble(error);
    } finally {
      this.at = null;
      this.isBusy = false;
    }
  }
}
