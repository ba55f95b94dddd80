// Tables sort by any heading (numbers by data-v where a cell has one, else its text; missing values stay last). Tables of
// more than eight rows filter by text. Every table copies its shown rows as tab-separated text. Every row has a link.
"use strict";
for (const table of document.querySelectorAll("table.sort")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
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
  for (const row of body.rows) {
    const link = document.createElement("a");
    link.className = "row";
    link.href = `#${row.id}`;
    link.setAttribute("aria-label", "Link to this row");
    link.textContent = "#";
    row.cells[0].append(" ", link);
  }
  const tools = document.createElement("div");
  tools.className = "tools";
  if (body.rows.length > 8) {
    const filter = document.createElement("input");
    filter.type = "search";
    filter.placeholder = "filter rows";
    filter.setAttribute("aria-label", `Filter: ${table.caption.textContent}`);
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    tools.append(filter);
  }
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.setAttribute("aria-label", `Copy: ${table.caption.textContent}`);
  copy.addEventListener("click", async () => {
    const text = (cell) => [...cell.childNodes].filter((node) => !node.classList?.contains("row"))
      .map((node) => node.textContent).join("").trim();
    const shown = [table.tHead.rows[0], ...[...body.rows].filter((row) => !row.hidden)];
    await navigator.clipboard.writeText(shown.map((row) => [...row.cells].map(text).join("\t")).join("\n"));
    copy.textContent = "Copied";
  });
  tools.append(copy);
  table.closest(".scroll").before(tools);
}
const opened = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  target?.closest("details")?.setAttribute("open", "");
  target?.scrollIntoView();
};
addEventListener("hashchange", opened);
opened();
