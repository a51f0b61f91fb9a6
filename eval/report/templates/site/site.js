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
  const giving = form.querySelector("[data-gives-way]");
  const apply = (event) => {
    const rows = [...table.tBodies[0].rows];
    // Each measure has conventions of its own: the one that was chosen for another does not hide all of the new.
    if (giving && event?.target !== giving && !rows.some((row) => passes(row, form))) giving.value = "";
    for (const row of rows) row.hidden = !passes(row, form);
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
for (const form of document.querySelectorAll("form:not([data-table])")) form.addEventListener("submit", (event) => event.preventDefault());
