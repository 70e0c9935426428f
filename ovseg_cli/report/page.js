"use strict";
const FILTERED = 25; // rows from which on a table can be filtered
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];

  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.textContent === "–" ? null : cell.textContent;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
  const sort = (column, direction) => {
    rows.sort((first, second) => {
      const a = key(first, column), b = key(second, column);
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * compare(a, b);
    });
    body.append(...rows);
    heads.forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numbers = rows.some((row) => typeof key(row, column) === "number");
      const down = head.getAttribute("aria-sort") === "descending";
      const up = head.getAttribute("aria-sort") === "ascending";
      sort(column, numbers ? (down ? 1 : -1) : (up ? -1 : 1));
    });
  });

  if (rows.length < FILTERED) continue;
  const filter = document.createElement("input");
  filter.type = "search";
  filter.placeholder = "filter by a word";
  filter.setAttribute("aria-label", "filter the rows by a word");
  filter.addEventListener("input", () => {
    const word = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(word);
  });
  table.parentElement.before(filter);
}
