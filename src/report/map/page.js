"use strict";
(() => {
  const grid = document.getElementById("cells");
  const tip = document.getElementById("tip");
  const cells = grid ? [...grid.children] : [];
  // Without this script the lines are the browser's own tooltips.
  const lines = cells.map((cell) => {
    const text = cell.title.split("\n");
    cell.setAttribute("aria-label", text.join(", "));
    cell.removeAttribute("title");
    return text;
  });
  let current = 0;

  const line = (text, colour) => {
    const row = document.createElement("span");
    if (colour !== undefined) {
      const swatch = document.createElement("i");
      swatch.style.background = colour;
      row.append(swatch);
    }
    row.append(text);
    return row;
  };
  const colours = { u: "var(--unwritten)", h: "var(--track)", f: "transparent" };

  const show = (index) => {
    const [range, bytes, ...parts] = lines[index];
    const kinds = cells[index].dataset.k.split(" ");
    const title = document.createElement("strong");
    title.textContent = range;
    tip.replaceChildren(title, line(bytes), ...parts.map((part, i) => line(part, colours[kinds[i]] ?? `var(--c${kinds[i]})`)));
    tip.hidden = false;
    const at = cells[index].getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const below = at.bottom + 10 + box.height < innerHeight;
    tip.style.top = `${Math.max(8, below ? at.bottom + 10 : at.top - 10 - box.height)}px`;
    tip.style.left = `${Math.max(8, Math.min(at.left + at.width / 2 - box.width / 2, innerWidth - 8 - box.width))}px`;
  };
  const hide = () => { tip.hidden = true; };
  const go = (index) => {
    const next = Math.max(0, Math.min(cells.length - 1, index));
    cells[current].tabIndex = -1;
    cells[next].tabIndex = 0;
    current = next;
    cells[next].focus();
  };
  const columns = () => {
    const second = cells.findIndex((cell) => cell.offsetTop > cells[0].offsetTop);
    return second < 0 ? cells.length : second;
  };

  if (cells.length > 0) {
    const under = (event) => cells.indexOf(document.elementFromPoint(event.clientX, event.clientY));
    const look = (event) => { const index = under(event); if (index >= 0) show(index); };
    grid.addEventListener("pointermove", look);
    grid.addEventListener("pointerdown", look);
    grid.addEventListener("pointerleave", hide);
    grid.addEventListener("focusin", (event) => { current = cells.indexOf(event.target); show(current); });
    grid.addEventListener("focusout", hide);
    grid.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -cells.length, End: cells.length };
      if (event.key === "Escape") hide();
      if (!(event.key in steps)) return;
      event.preventDefault();
      go(current + steps[event.key]);
    });
    addEventListener("scroll", hide, { passive: true });
  }

  // A layer that is pointed at stands out, wherever it is drawn.
  const marks = [...document.querySelectorAll("[data-c]")];
  const single = (colour) => {
    if (grid) {
      grid.classList.toggle("only", colour !== undefined);
      for (const cell of cells) cell.classList.toggle("on", cell.dataset.k.split(" ").includes(colour));
    }
    for (const mark of marks) mark.classList.toggle("on", mark.dataset.c === colour);
  };
  for (const mark of marks) {
    for (const begin of ["pointerenter", "focus"]) mark.addEventListener(begin, () => single(mark.dataset.c));
    for (const end of ["pointerleave", "blur"]) mark.addEventListener(end, () => single(undefined));
  }
})();
