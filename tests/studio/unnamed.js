// Controls in view that a screen reader could not name.
() => [...document.querySelectorAll('button, input, select, textarea, a[href], iframe, img, progress')]
  .filter((one) => one.checkVisibility() && !one.closest('[aria-hidden=true]'))
  .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.title || one.hasAttribute('alt')
    || one.innerText?.trim() || one.querySelector('[alt]:not([alt=""])')))
  .map((one) => one.outerHTML.slice(0, 120))
