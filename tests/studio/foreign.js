// Texts in view, and names that a screen reader says, which are neither from the file of texts (marked there) nor data.
(data) => {
  const unmarked = (text) => { let rest = text; for (let before = null; before !== rest;) { before = rest; rest = rest.replace(/⟦[^⟦⟧]*⟧/g, ""); } return rest; };
  const isData = (text) => text.split(/\s+/).every((word) => !/\p{L}/u.test(word) || data.some((one) => one === word || text.trim() === one) || /^[\w.:/-]+\.(png|csv|json)$/.test(word) || /^[\w.-]*\/[\w./-]*$/.test(word) || /^\(?--\w+\)?$/.test(word) || word === "GB");
  const found = [];
  const look = (text, where) => { const rest = unmarked(text); if (!isData(rest)) found.push(`${where}: ${text.trim().slice(0, 80)}`); };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const place = node.parentElement;
    if (node.textContent.trim() && place.checkVisibility() && !place.closest("script, noscript, pre, code, iframe, #language, [data-setting] th")) look(node.textContent, place.tagName);
  }
  for (const place of document.querySelectorAll("[placeholder], [aria-label], [title]")) {
    if (!place.checkVisibility() || place.closest("pre, code") || place.id === "workspace") continue;
    for (const name of ["placeholder", "aria-label", "title"]) if (place.getAttribute(name)) look(place.getAttribute(name), `${place.tagName} ${name}`);
  }
  return [...new Set(found)];
}
