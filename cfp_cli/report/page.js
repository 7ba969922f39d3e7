"use strict";
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
});

// Without script every layer is on the page; with it, one at a time.
(() => {
  const select = document.getElementById("layer");
  if (!select) return;
  const panels = [...document.querySelectorAll(".layer")];
  const buttons = { previous: document.getElementById("previous"), next: document.getElementById("next") };
  let shown = 0;

  const show = (index) => {
    shown = index;
    panels.forEach((panel, place) => { panel.hidden = place !== index; });
    buttons.previous.disabled = index === 0;
    buttons.next.disabled = index === panels.length - 1;
  };

  const tell = () => {
    document.getElementById("status").textContent = `Layer ${select.selectedOptions[0].textContent}`;
  };

  const step = (by) => {
    const index = Math.min(Math.max(shown + by, 0), panels.length - 1);
    select.value = [...select.options].find((option) => Number(option.dataset.panel) === index).value;
    show(index);
    tell();
  };

  select.addEventListener("change", () => { show(Number(select.selectedOptions[0].dataset.panel)); tell(); });
  buttons.previous.addEventListener("click", () => step(-1));
  buttons.next.addEventListener("click", () => step(1));
  document.querySelector(".picker").hidden = false;
  // A browser may keep the choice over a reload.
  show(Number(select.selectedOptions[0].dataset.panel));
})();
