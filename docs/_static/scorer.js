// What a search finds first: words of the glossary and titles, then the API's names, then the text of chapters.
// A result is [page, title, anchor, description, score, file, kind].
var Scorer = {
  score: ([page, title, anchor, description, score, file, kind]) =>
    score + (page === "glossary" ? (anchor ? 60 : 30) : 0) + (kind === "title" ? 30 : 0) - (page.startsWith("_modules/") ? 50 : 0)
      - (page === "genindex" || page === "py-modindex" ? 50 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 20, partialTitle: 10, term: 5, partialTerm: 2,
};
