// Draws the view that is chosen, in the colours of the page; without Plotly the tables stand alone.
const COLOURS = { light: ["#0a6c74", "#c0492b", "#7a4fa3", "#8a6d00", "#2c5fb3", "#5a7d1f", "#b0357c", "#555"],
                  dark: ["#58c4c4", "#f0886a", "#bd9be0", "#e2c15a", "#86aef2", "#a8cf6b", "#ee8fc2", "#bbb"] };
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hexagon"];

function draw(select) {
  const key = select.dataset.plot, place = document.getElementById(`plot-${key}`);
  for (const details of document.querySelectorAll(".view")) {
    if (details.dataset.view.startsWith(`${key}-`)) details.hidden = details.dataset.view !== `${key}-${select.value}`;
  }
  if (!place || typeof Plotly === "undefined") return;
  const { data, layout } = JSON.parse(document.getElementById(`figures-${key}`).textContent)[select.value];
  const colour = (name) => { place.style.color = `var(${name})`; return getComputedStyle(place).color; };
  const narrow = place.clientWidth < 600, title = (axis) => ({ ...axis.title, font: { size: narrow ? 10 : 13 } });
  const axis = { gridcolor: colour("--rule"), zerolinecolor: colour("--rule"), automargin: true, separatethousands: true };
  // Not Math.max(...xs), which fails on very many.
  const [low, high] = data.flatMap((trace) => trace.x).reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
  const wide = high / low > 8;
  // On a logarithmic axis of less than a decade there would be hardly a label.
  const log = layout.xaxis.type !== "log" ? {} : wide ? { dtick: narrow ? 1 : "D2", minorloglabels: "complete", tickformat: "~s" } : { type: "linear" };
  for (const trace of data) trace.name = trace.name.replaceAll("&", "&amp;").replaceAll("<", "&lt;"); // Plotly reads markup
  const many = data.length > 40;
  // The ninth has the colour of the first, but another symbol, and no two of 64 have both.
  data.forEach((trace, i) => { trace.marker = { size: many && trace.mode.startsWith("lines") ? 5 : 9, symbol: SYMBOLS[(i + Math.floor(i / SYMBOLS.length)) % SYMBOLS.length] }; });
  Plotly.react(place, data, {
    ...layout,
    xaxis: { ...layout.xaxis, ...axis, ...log, title: title(layout.xaxis) }, yaxis: { ...layout.yaxis, ...axis, title: title(layout.yaxis) },
    shapes: (layout.shapes || []).map((s) => ({ ...s, line: { ...s.line, color: colour("--quiet") } })),
    colorway: COLOURS[isDark() ? "dark" : "light"], font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { t: 24, r: 16, b: many ? 64 : 48, l: 56 },
    // Of very many a legend would leave no room: their points say their names, and the table beneath has them all.
    // At the bottom of the card, however low that is: a share of the plot's height would lie upon the axis on phones.
    legend: { orientation: "h", yref: "container", y: 0.02, yanchor: "bottom" }, showlegend: !many,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--quiet"), activecolor: colour("--ink") }, hovermode: "closest",
  }, { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d"]] });
}

const choices = document.querySelectorAll("select[data-plot]");
for (const select of choices) select.addEventListener("input", () => draw(select));
document.addEventListener("themechange", () => choices.forEach(draw));
choices.forEach(draw);
