const views = {};
for (const [name, spec] of Object.entries(specs)) {
  vegaEmbed("#" + name, spec, { actions: { export: true, source: false, compiled: false, editor: false } })
    .then((result) => { views[name] = result.view; });
}

for (const head of document.querySelectorAll("th[role=button]")) {
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.sort;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // what is not known stays below
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}

document.getElementById("filters").addEventListener("change", () => {
  const shown = (kind) => [...document.querySelectorAll(`[data-filter=${kind}]`)].filter((b) => b.checked).map((b) => b.value);
  const all = (kind) => !document.querySelector(`[data-filter=${kind}]`);
  const arms = shown("arm"), points = shown("point");
  for (const row of document.querySelectorAll("tr[data-arm]")) {
    row.hidden = !((all("arm") || arms.includes(row.dataset.arm)) && (all("point") || points.includes(row.dataset.point)));
  }
  for (const view of Object.values(views)) {
    if (!all("arm")) view.signal("shown_arms", arms);
    if (!all("point")) view.signal("shown_points", points);
    view.runAsync();
  }
});
