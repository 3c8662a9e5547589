// Sorts tables, opens what a link leads to, and draws each chart when it comes into view.

const { specs, charts, symbols } = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map(); // place -> view
const told = document.body.appendChild(document.createElement("div"));
told.id = "told";
told.setAttribute("role", "tooltip");
told.hidden = true;

// Colours and letters are the style sheet's.
function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const [ink, quiet, hairline] = [colour("ink"), colour("quiet"), colour("hairline")];
  const heat = [colour("heat-0"), colour("heat-1"), colour("heat-2")];
  return {
    background: "transparent",
    font: style.fontFamily,
    view: { stroke: null },
    axis: {
      labelColor: quiet, titleColor: quiet, gridColor: hairline, tickColor: hairline, domainColor: hairline,
      labelFontSize: 11, titleFontSize: 11, titleFontWeight: "normal", titlePadding: 8, labelPadding: 5,
    },
    rule: { color: quiet },
    range: {
      category: Array.from({ length: 8 }, (_, number) => colour(`line-${number}`)),
      symbol: symbols,
      heatmap: heat,
      ramp: heat,
    },
  };
}

function cells({ names, totals, cells }) {
  const row = (label, predicted, count) => ({
    label: names[label],
    predicted: names[predicted],
    share: totals[label] ? count / totals[label] : 0,
    told: `${names[label]}\n${count} of ${totals[label]} images taken for ${names[predicted]}`,
  });
  // The diagonal first, and all of it: the classes stand in the order in which they come.
  const rows = names.map((_, place) => row(place, place, 0));
  for (let at = 0; at < cells.length; at += 3) {
    const [label, predicted, count] = cells.slice(at, at + 3);
    if (label === predicted) rows[label] = row(label, predicted, count);
    else rows.push(row(label, predicted, count));
  }
  return { cells: rows };
}

// Shows the text of what the pointer is on, or is nearest to: then Vega's datum is the marker, which has its own.
function tell(_, event, item, value) {
  told.hidden = value == null;
  if (told.hidden) return;
  told.textContent = item.datum.told ?? item.datum.datum.told;
  const { width, height } = told.getBoundingClientRect();
  told.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - width - 8))}px`;
  told.style.top = `${event.clientY + height + 24 > innerHeight ? event.clientY - height - 12 : event.clientY + 16}px`;
}

async function draw(place) {
  const chart = charts[place.dataset.chart];
  const spec = structuredClone(specs[chart.spec]);
  spec.datasets = chart.data.names ? cells(chart.data) : chart.data;
  const { view } = await window.vegaEmbed(place, spec, {
    mode: "vega-lite",
    actions: false,
    ast: true, // expressions are interpreted: the page allows no eval
    config: theme(),
    defaultStyle: false,
    renderer: "svg",
    tooltip: tell,
  });
  drawn.set(place, view);
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target);
    }
  },
  { rootMargin: "300px" },
);
document.querySelectorAll("[data-chart]").forEach((place) => seen.observe(place));

dark.addEventListener("change", () => {
  for (const [place, view] of drawn) {
    view.finalize();
    draw(place);
  }
});

function sort(table, column, descending) {
  const value = (row) => row.cells[column].dataset.value ?? "";
  const words = (row) => row.cells[column].textContent;
  const sign = descending ? -1 : 1;
  const compare = (a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first !== "" && second !== "") return sign * (Number(first) - Number(second));
    if (first !== second) return first === "" ? 1 : -1; // what has no figure comes last
    return sign * words(a).localeCompare(words(b));
  };
  for (const body of table.tBodies) body.append(...[...body.rows].sort(compare));
}

for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const figures = head.classList.contains("figure");
      const before = head.getAttribute("aria-sort");
      const descending = before === "none" ? figures : before === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}

function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
  target.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", reveal);
reveal();
