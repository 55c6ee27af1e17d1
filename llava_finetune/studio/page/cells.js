// What stands in the cells of the grid: an answer's box, a row's name, its small pictures, and those pictures large.
import { el, pictureAt } from "./dom.js";
import { t } from "./texts.js";

export const LONGEST = 20000;

// An answer of several lines needs a box of several: one of a single line would take its line ends away.
export const answerBox = (text) => (/[\r\n]/.test(text)
  ? el("textarea", { "data-column": "answer", rows: 2, maxlength: LONGEST, placeholder: t("answer.none") })
  : el("input", { "data-column": "answer", type: "text", list: "common", autocomplete: "off", maxlength: LONGEST, placeholder: t("answer.none") }));

// What a row is about: its picture, or of several the first and how many there are more.
export function pictureName(row) {
  if (!row.pictures || row.pictures.length === 1) return row.image;
  return row.pictures.length ? t("pictures.more", { name: row.image, more: row.pictures.length - 1 }) : t("pictures.none");
}

// The same with its turn, for whoever does not see the mark of it.
export const nameOf = (row) => pictureName(row) + (row.turns > 1 ? `, ${t("turn", { turn: row.turn, turns: row.turns })}` : "");

export const small = (name) => el("img", { src: pictureAt("thumbnail", name), alt: "", loading: "lazy", onerror: (event) => { event.target.classList.add("missing"); event.target.removeAttribute("src"); } });

// Pictures as large as the window allows.
export function zoom(names) {
  const shown = el("dialog", { class: "zoomed", "aria-label": names.join(", "), onclick: () => shown.close(), onclose: () => shown.remove() },
    names.map((name) => [el("img", { src: pictureAt("picture", name), alt: name }), el("p", {}, name)]).flat(), el("button", { autofocus: true }, t("close")));
  document.body.append(shown);
  shown.showModal();
}
