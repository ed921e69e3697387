// Search results quote pages as they were before MathJax: show their formulas without the delimiters.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const text = Search.htmlToText;
  Search.htmlToText = (html, anchor) => text(html, anchor).replace(/\\[()[\]]/g, "");
});

// A long formula within a line is not broken; on a phone it scrolls (book.css).
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(() => {
  for (const e of document.querySelectorAll("mjx-container:not([display])"))
    e.classList.toggle("wide", e.getBoundingClientRect().width > 240);
}));
