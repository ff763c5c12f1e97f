"use strict";
// Extras of the tables: every page is whole without them.

// What a cell is sorted by: its number where it has one, else its text; nothing where it is empty.
function sortKey(row, place) {
  const cell = row.cells[place];
  if (!cell || cell.dataset.value === "") return null;
  if (cell.dataset.value === undefined) return cell.textContent.trim().toLowerCase();
  return Number(cell.dataset.value);
}

function compared(first, second, sign) {
  if (first === null || second === null) return (first === null) - (second === null);
  if (typeof first === "number" && typeof second === "number") return sign * (first - second);
  return sign * String(first).localeCompare(String(second), "en", { numeric: true });
}

// Sorts the rows of each track by a column; rows without a value stay last, and equal ones as they came.
function sortBy(table, heading, direction) {
  const place = heading.cellIndex, sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter(row => !row.classList.contains("heading"));
    const keys = new Map(rows.map(row => [row, sortKey(row, place)]));
    rows.sort((one, other) => compared(keys.get(one), keys.get(other), sign)
      || one.dataset.place - other.dataset.place);
    body.append(...rows);
  }
  for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
}

function makeSortable(table) {
  [...table.querySelectorAll("tbody tr")].forEach((row, place) => { row.dataset.place = place; });
  for (const heading of table.tHead.rows[0].cells) {
    const first = heading.dataset.sort;
    if (!first) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    const second = first === "ascending" ? "descending" : "ascending";
    button.addEventListener("click", () =>
      sortBy(table, heading, heading.getAttribute("aria-sort") === first ? second : first));
  }
}

// Shows the rows of a table that are chosen; how many those are, and of how many.
function showRows(table, chosen) {
  const words = chosen.text.trim().toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  for (const body of table.tBodies) {
    let own = 0;
    for (const row of body.rows) {
      if (row.classList.contains("heading")) continue;
      const said = `${row.textContent} ${row.dataset.text ?? ""}`.toLowerCase();
      row.hidden = !((!chosen.track || body.dataset.track === chosen.track)
        && (!chosen.method || row.dataset.method === chosen.method)
        && words.every(word => said.includes(word)));
      own += !row.hidden;
      all += 1;
    }
    body.hidden = own === 0;
    shown += own;
  }
  return [shown, all];
}

function applyFilter(form, tables) {
  const chosen = Object.fromEntries(new FormData(form));
  const [[shown, all]] = tables.map(table => showRows(table, chosen));
  form.querySelector("output").textContent = shown === all ? `All ${all} shown` : `${shown} of ${all} shown`;
}

// What is chosen stands in the address, so that a view can be sent to somebody.
function remember(form) {
  const chosen = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
}

function recall(form) {
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    const field = form.elements.namedItem(name);
    if (!field || !value) continue;
    if (field.options && ![...field.options].some(option => option.value === value)) continue;
    field.value = value;
  }
}

function makeFilter(form) {
  const tables = form.dataset.tables.split(" ").map(id => document.getElementById(id));
  const change = () => { applyFilter(form, tables); remember(form); };
  recall(form);
  form.hidden = false;
  form.addEventListener("input", change);
  form.addEventListener("submit", event => event.preventDefault());
  // the fields are emptied after the event
  form.addEventListener("reset", () => setTimeout(change));
  applyFilter(form, tables);
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("form.filters").forEach(makeFilter);
