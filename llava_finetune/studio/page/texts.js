// The page's words: one file a language in texts/, English where a language lacks one.
let words = {};
let english = {};

export const languages = ["en", "de", "zh"];
export let language = "en";

const load = async (name) => (await fetch(`/texts/${name}.json`)).json();

export async function speak(name) {
  language = languages.includes(name) ? name : "en";
  english = await load("en");
  words = language === "en" ? english : await load(language);
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  document.querySelectorAll("[data-t]").forEach((place) => { place.textContent = t(place.dataset.t); });
}

// t("pictures", {count: 3}): a text with {count} filled in; with `.one` beside it, that one for 1.
export function t(key, values = {}) {
  const chosen = values.count === 1 ? `${key}.one` : key;
  const text = words[chosen] ?? words[key] ?? english[chosen] ?? english[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => shown(values[name] ?? whole));
}

export const nameOfKind = (kind) => tOr(`finding.${kind}`, kind);

// Text for values that may have no key of their own, such as a kind of finding.
export const tOr = (key, fallback) => words[key] ?? english[key] ?? fallback;

export const number = (value) => value.toLocaleString(language);

// Three digits that say something.
export const brief = (value) => value.toLocaleString(language, { maximumSignificantDigits: 3 });

// A number that the server wrote, with the point and the comma of the language.
export function localized(text) {
  const marks = Object.fromEntries(new Intl.NumberFormat(language).formatToParts(12345.6).map((part) => [part.type, part.value]));
  return text.replace(/(?<=\d)[.,](?=\d)/g, (mark) => (mark === "." ? marks.decimal : marks.group));
}

const shown = (value) => (typeof value === "number" ? number(value) : String(value));

export const percent = (share) => `${(100 * share).toLocaleString(language, { maximumFractionDigits: 1 })}\u00a0%`;

export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return t("seconds", { count: whole });
  if (whole < 5400) return t("minutes", { count: Math.round(whole / 60) });
  return t("hours", { count: Math.round(whole / 360) / 10 });
}
