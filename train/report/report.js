// The report's own script: charts, one picked method in all of them, tables that sort.
const specs = JSON.parse(document.getElementById("specs").textContent);
const themes = JSON.parse(document.getElementById("themes").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const views = {}; // of the charts that show methods
let method = null;

// What has no colour of its own, text too, has the ink of the theme.
function theme(isDark) {
  const { ink, soft, line } = themes[isDark ? "dark" : "light"];
  return {
    padding: { left: 4, right: 14, top: 4, bottom: 4 }, // the last number of an axis may stand half beyond it
    background: null, font: "system-ui, sans-serif", view: { stroke: null },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 500,
      labelFontSize: 12, titleFontSize: 12 },
    legend: { labelColor: ink, titleColor: ink, orient: "top", labelFontSize: 12, titleFontSize: 12 },
    bar: { color: soft }, line: { color: ink }, rule: { color: soft }, text: { color: ink },
  };
}

// The channels of a chart and of its layers that have a legend of names.
function named(part) {
  const own = Object.values(part.encoding ?? {}).filter((channel) => channel.legend && channel.scale?.domain);
  return [...own, ...(part.layer ?? []).flatMap(named)].filter((channel) => typeof channel.scale.domain[0] === "string");
}

// A legend in as many columns as the width has room for: Vega would cut the others.
function arrange(channels, width) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "12px system-ui, sans-serif";
  for (const { legend, scale } of channels) {
    const symbol = legend.symbolType === "stroke" ? 40 : 30;
    const widest = Math.max(...scale.domain.map((text) => pen.measureText(text).width));
    legend.columns = Math.max(1, Math.floor(width / (widest + symbol)));
  }
}

async function draw(isDark) {
  for (const [name, spec] of Object.entries(specs)) {
    const place = document.getElementById(name), channels = named(spec);
    // ast: expressions are interpreted, so that the page needs no eval.
    const options = { config: theme(isDark), renderer: "svg", actions: false, ast: true };
    let embedded = await vegaEmbed(place, spec, options);
    if (channels.length) {
      // How wide the chart is within its axes is known when it is drawn.
      arrange(channels, embedded.view.width());
      embedded.finalize();
      embedded = await vegaEmbed(place, spec, options);
    }
    const { view } = embedded;
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
    row.classList.toggle("picked", row.dataset.method === method);
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
let drawnAt = window.innerWidth, waiting;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (window.innerWidth === drawnAt) return;
    drawnAt = window.innerWidth;
    draw(dark.matches);
  }, 200);
});
draw(dark.matches);
