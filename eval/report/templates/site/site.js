// Tables sort by their headers, forms filter the rows of the table that they name, one button changes the colours.
const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)"), paper = matchMedia("print");

function store(key, value) {
  try { return value === undefined ? localStorage.getItem(key) : localStorage.setItem(key, value); } catch { return null; }
}

const themeButton = document.getElementById("theme");
const isDark = () => !paper.matches && (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
function paintTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `${themeButton.textContent} colours`);
  document.dispatchEvent(new Event("themechange"));
}
if (["light", "dark"].includes(store("theme"))) root.dataset.theme = store("theme");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  store("theme", root.dataset.theme);
  paintTheme();
});
for (const query of [dark, paper]) query.addEventListener("change", paintTheme);
paintTheme();

const compareText = new Intl.Collator("en", { numeric: true }).compare;
function valueOf(row, column) {
  const cell = row.cells[column], raw = cell.dataset.sort ?? cell.textContent.trim();
  const number = Number(raw);
  return raw === "" || raw === "–" || raw === "?" || raw === "nan" ? null : Number.isNaN(number) ? raw : number;
}

function sortBy(table, column, ascending) {
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row, row.cells[column].dataset.within ?? ""]);
  rows.sort(([a, , one], [b, , other]) => {
    if (one !== other) return compareText(one, other); // numbers of several measures: each within its own
    if (a === null || b === null) return (a === null) - (b === null); // what is absent stands last, either way
    const order = typeof a === "number" && typeof b === "number" ? a - b : compareText(String(a), String(b));
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((header, i) => {
    if (i === column) header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    else header.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const numbers = [...table.tBodies[0].rows].some((r) => typeof valueOf(r, column) === "number");
      const now = header.getAttribute("aria-sort");
      sortBy(table, column, now ? now === "descending" : !numbers); // numbers begin with the largest
    });
  });
}

// Of many models there are tens of thousands of numbers, so they are data, and only those that are asked for are drawn.
function readNumbers(id) {
  const { words, rows } = JSON.parse(document.getElementById(id).textContent);
  return rows.map((row) => {
    const texts = words.map(([field, found], i) => [field, found[row[i]]]);
    const [shown, value, interval, low, count] = row.slice(words.length);
    return { dataset: Object.fromEntries(texts), shown, value, interval, low, count };
  });
}

function drawNumber({ dataset, shown, value, interval, low, count }) {
  const row = document.getElementById("number-row").content.firstElementChild.cloneNode(true);
  const texts = [dataset.run, dataset.subset, dataset.metric, shown, interval, count.toLocaleString("en"), dataset.convention];
  texts.forEach((text, i) => { (row.cells[i].firstChild ?? row.cells[i]).textContent = text; });
  if (dataset.scorer !== "model") row.cells[0].append(Object.assign(document.createElement("span"), { textContent: dataset.scorer }));
  Object.assign(row.cells[3].dataset, { within: dataset.metric, sort: value ?? "" });
  Object.assign(row.cells[4].dataset, { within: dataset.metric, sort: low ?? "" });
  row.cells[5].dataset.sort = count;
  row.cells[6].firstChild.href = `config.html#${dataset.anchor}`;
  return row;
}

function passes(row, form) {
  for (const choice of form.querySelectorAll("select[data-field]")) {
    const wanted = choice.value, has = row.dataset[choice.dataset.field] ?? "";
    const words = "words" in choice.dataset ? has.split("|") : [has];
    if (wanted && !words.includes(wanted)) return false;
  }
  for (const limit of form.querySelectorAll("input[data-max]")) {
    const has = row.dataset[limit.dataset.max];
    if (limit.value !== "" && (has === "" || Number(has) > Number(limit.value))) return false;
  }
  const search = form.querySelector("input[data-search]");
  return !search || row.textContent.toLowerCase().includes(search.value.trim().toLowerCase());
}

for (const form of document.querySelectorAll("form[data-table]")) {
  const table = document.getElementById(form.dataset.table), count = form.querySelector("output");
  const giving = form.querySelector("[data-gives-way]"), numbers = form.dataset.rows && readNumbers(form.dataset.rows);
  const apply = (event) => {
    const rows = numbers ?? [...table.tBodies[0].rows];
    // Each measure has conventions of its own: the one that was chosen for another does not hide all of the new.
    if (giving && event?.target !== giving && !rows.some((row) => passes(row, form))) giving.value = "";
    const shown = rows.filter((row) => passes(row, form));
    if (numbers) table.tBodies[0].replaceChildren(...shown.map(drawNumber));
    else for (const row of rows) row.hidden = !shown.includes(row);
    const sorted = table.querySelector("[aria-sort]");
    if (sorted) sortBy(table, sorted.cellIndex, sorted.getAttribute("aria-sort") === "ascending");
    count.textContent = `${shown.length} of ${rows.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
for (const form of document.querySelectorAll("form:not([data-table])")) form.addEventListener("submit", (event) => event.preventDefault());
