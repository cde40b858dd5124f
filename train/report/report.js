// The report's own script: charts, one picked method in all of them, tables that sort.
const specs = JSON.parse(document.getElementById("specs").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const views = {}; // of the charts that show methods
let method = null;
// Where legends need several lines.
const narrow = () => document.querySelector(".chart").clientWidth < 420;

function theme(isDark) {
  const ink = isDark ? "#c9d1d9" : "#3c454e", line = isDark ? "#343b42" : "#dfe3e7";
  return {
    background: null, font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 500,
      labelFontSize: 12, titleFontSize: 12 },
    legend: {
      labelColor: ink, titleColor: ink, orient: "top", labelFontSize: 12, titleFontSize: 12,
      columns: narrow() ? 3 : undefined,
    },
  };
}

async function draw(isDark) {
  for (const [name, spec] of Object.entries(specs)) {
    const place = document.getElementById(name);
    // ast: expressions are interpreted, so that the page needs no eval.
    const { view } = await vegaEmbed(place, spec, { config: theme(isDark), renderer: "svg", actions: false, ast: true });
    if (!spec.params?.some((param) => param.name === "pick")) continue;
    views[name] = view;
    show(view);
    // A click on a legend or a mark picks in one chart; the others follow.
    view.addSignalListener("pick", (_, picked) => pick(picked.method ? picked.method.at(-1) : null));
  }
}

function show(view) {
  const fields = [{ type: "E", field: "method" }];
  view.data("pick_store", method ? [{ unit: "", fields, values: [method] }] : []).runAsync();
}

function pick(chosen) {
  if (chosen === method) return;
  method = chosen;
  Object.values(views).forEach(show);
  for (const row of document.querySelectorAll("tr[data-method]")) {
    row.classList.toggle("faded", method !== null && row.dataset.method !== method);
  }
  const button = document.querySelector(`input[name=method][value="${method ?? ""}"]`);
  if (button) button.checked = true;
}

function sortBy(table, column, header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  const number = (cell) => parseFloat(cell.replace(/,/g, ""));
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].sort((one, other) => {
    const [a, b] = [text(one), text(other)], [x, y] = [number(a), number(b)];
    if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1); // empty cells stay last
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(table, column, header));
  });
}
for (const button of document.querySelectorAll("input[name=method]")) {
  button.addEventListener("change", () => pick(button.value || null));
}
// Paper is white.
window.addEventListener("beforeprint", () => { if (dark.matches) draw(false); });
window.addEventListener("afterprint", () => { if (dark.matches) draw(true); });
dark.addEventListener("change", () => draw(dark.matches));
let wasNarrow = narrow();
window.addEventListener("resize", () => {
  if (narrow() === wasNarrow) return;
  wasNarrow = narrow();
  draw(dark.matches);
});
draw(dark.matches);
