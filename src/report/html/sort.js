// Sorts a table by the column whose head is clicked. Without this script the tables keep their original
// order.
for (const table of document.querySelectorAll("table.sort")) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("thead th[data-c]")];
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" || text === "—" ? null : Number.isNaN(number) ? text.toLowerCase() : number;
  };
  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      const column = Number(head.dataset.c);
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
      const rows = [...body.rows].map((row, index) => [value(row, column), index, row]);
      // Missing values stay last in both directions.
      rows.sort(([a, i], [b, j]) =>
        a === b ? i - j : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * down);
      body.append(...rows.map(([, , row]) => row));
    });
  }
}
