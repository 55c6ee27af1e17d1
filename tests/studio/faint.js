// Texts in view whose contrast with what is behind them is below 4.5 to 1 (WCAG AA).
() => {
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 });
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  const rgb = (colours) => { pen.clearRect(0, 0, 1, 1); colours.forEach((one) => { pen.fillStyle = one; pen.fillRect(0, 0, 1, 1); });
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (parts) => parts.map((one) => one / 255).map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => { const out = []; for (let at = one; at; at = at.parentElement) out.unshift(getComputedStyle(at).backgroundColor); return ['white', ...out]; };
  const found = [];
  for (const one of document.querySelectorAll('main *, header *')) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.checkVisibility() || one.closest(':disabled, svg, .hidden')) continue;
    const [front, back] = [light(rgb([...behind(one), getComputedStyle(one).color])), light(rgb(behind(one)))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${one.tagName}.${one.className} ${one.textContent.trim().slice(0, 30)}`);
  }
  return found;
}
