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

// Quick questions at a chapter's end: the first answer that is opened counts. Without a script answers still unfold.
document.addEventListener("DOMContentLoaded", () => {
  const boxes = [...document.querySelectorAll(".quiz")];
  if (!boxes.length) return;
  const score = document.createElement("p");
  score.className = "quiz-score";
  score.setAttribute("role", "status");
  boxes.at(-1).after(score);
  const tell = () => {
    const done = boxes.filter(b => b.dataset.first), right = done.filter(b => b.dataset.first === "yes");
    score.textContent = done.length ? `${right.length} of ${done.length} right at the first try` +
      (done.length < boxes.length ? `, ${boxes.length - done.length} to go` : "") : "";
  };
  for (const box of boxes)
    for (const answer of box.querySelectorAll("details"))
      answer.addEventListener("toggle", () => {
        if (!answer.open || box.dataset.first) return;
        box.dataset.first = answer.classList.contains("quiz-yes") ? "yes" : "no";
        tell();
      });
});
