// A table that is sorted by its heads and updated in place: rows and cells that stay the same are not touched.

import { h, setText } from "./dom.js";

export class Table {
  // columns: {key, title, value(row), text(row) | node(row), number?, hint?}
  constructor({ label, empty, rowClass, onClick }) {
    this.empty = empty;
    this.rowClass = rowClass ?? (() => "");
    this.onClick = onClick;
    this.rows = new Map();
    this.columns = [];
    this.sort = null;
    this.data = [];
    this.head = h("tr");
    this.body = h("tbody");
    this.none = h("p", { class: "soft none", hidden: true }, empty);
    this.table = h("table", { "aria-label": label }, h("thead", {}, this.head), this.body);
    this.element = h("div", {}, h("div", { class: "scroll" }, this.table), this.none);
  }

  setColumns(columns) {
    const same = columns.length === this.columns.length && columns.every((c, i) => c.key === this.columns[i].key && c.title === this.columns[i].title);
    this.columns = columns;
    if (same) return;
    this.rows.clear();
    this.body.replaceChildren();
    this.head.replaceChildren(...columns.map((column) => this.#heading(column)));
    this.#showSort();
  }

  #heading(column) {
    if (!column.value) return h("th", { scope: "col", title: column.hint }, column.title);
    const sorted = () => {
      const same = this.sort?.key === column.key;
      this.sort = { key: column.key, down: same ? !this.sort.down : Boolean(column.down) };
      this.#showSort();
      this.update(this.data);
    };
    const button = h("button", { type: "button", onclick: sorted, title: column.hint ?? "sort" }, column.title);
    return h("th", { scope: "col", class: column.number ? "number" : "", "data-key": column.key }, button);
  }

  #showSort() {
    for (const cell of this.head.children) {
      const mine = this.sort && cell.dataset.key === this.sort.key;
      if (mine) cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  #sorted(data) {
    const column = this.sort && this.columns.find((one) => one.key === this.sort.key);
    if (!column) return data;
    const sign = this.sort.down ? -1 : 1;
    return [...data].sort((a, b) => sign * compare(column.value(a), column.value(b), sign));
  }

  update(data) {
    this.data = data;
    const rows = this.#sorted(data);
    const wanted = new Set(rows.map((row) => row.key));
    for (const [key, row] of this.rows) if (!wanted.has(key)) row.element.remove(); // kept for when the filter lets it in again
    let next = this.body.firstChild;
    for (const row of rows) {
      const element = this.#row(row);
      if (element === next) next = next.nextSibling;
      else this.body.insertBefore(element, next);
    }
    this.none.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
  }

  #row(row) {
    let known = this.rows.get(row.key);
    if (!known) {
      const cells = this.columns.map((column) => h("td", { class: column.number ? "number" : "" }));
      const element = h("tr", { "data-key": row.key }, cells);
      known = { element, cells, signs: [] };
      if (this.onClick) {
        element.addEventListener("click", (event) => event.target.closest("a, button, input, label") || this.onClick(row.key));
      }
      this.rows.set(row.key, known);
    }
    const name = this.rowClass(row);
    if (known.element.className !== name) known.element.className = name;
    this.columns.forEach((column, index) => {
      if (!column.node) return setText(known.cells[index], column.text(row));
      const sign = column.sign ? column.sign(row) : JSON.stringify(column.value ? column.value(row) : row.key);
      if (known.signs[index] !== sign) known.cells[index].replaceChildren(column.node(row));
      known.signs[index] = sign;
    });
    return known.element;
  }
}

// Absent values come last in both directions.
function compare(a, b, sign) {
  const none = (value) => value === null || value === undefined;
  if (none(a) || none(b)) return none(a) && none(b) ? 0 : sign * (none(a) ? 1 : -1);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}
