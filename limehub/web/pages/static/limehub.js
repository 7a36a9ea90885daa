// What every page does with JavaScript on; all of it works without, too.
"use strict";

document.addEventListener("click", (event) => {
  const again = event.target.closest("[data-again]");
  if (again) {
    event.preventDefault();
    location.reload();
  }
});

// The checkbox that selects all, and buttons that say how many are meant: all, or the selection.
for (const form of document.querySelectorAll("form[data-select]")) {
  const all = form.querySelector("[data-all]");
  const boxes = [...form.querySelectorAll("input[name=ids]")];
  const buttons = [...form.querySelectorAll("button[name=action]")];
  const others = [...form.querySelectorAll("[data-all-of-them]")];
  const words = buttons.map((button) => button.textContent.replace("…", ""));
  const count = () => {
    const picked = boxes.filter((box) => box.checked).length;
    buttons.forEach((button, at) => {
      button.textContent = picked ? `${words[at]} (${picked})…` : `${words[at]}…`;
      button.hidden = picked === 0;
    });
    others.forEach((other) => { other.hidden = picked > 0; });
    if (all) {
      all.checked = picked === boxes.length;
      all.indeterminate = picked > 0 && picked < boxes.length;
    }
  };
  if (all) {
    all.hidden = false;
    all.addEventListener("change", () => {
      boxes.forEach((box) => { box.checked = all.checked; });
      count();
    });
  }
  form.addEventListener("change", count);
  addEventListener("pageshow", count);
  count();
}
