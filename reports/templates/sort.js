// Tables sort by any heading: numbers by data-v where a cell has one, else its text. Missing values stay last.
"use strict";
for (const table of document.querySelectorAll("table.sort")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        const value = cell.dataset.v ?? cell.textContent.trim();
        return value === "" ? null : isNaN(value) ? value.toLowerCase() : Number(value);
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row, place) => ({ row, place, key: key(row) }));
      rows.sort((a, b) => {
        if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
        const numbers = typeof a.key === "number" && typeof b.key === "number";
        const order = numbers ? a.key - b.key : String(a.key).localeCompare(String(b.key), "en", { numeric: true });
        return (up ? order : -order) || a.place - b.place;
      });
      body.append(...rows.map((entry) => entry.row));
    });
  });
}
