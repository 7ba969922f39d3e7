"use strict";
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
});

// Without JavaScript the page shows all layers; with it, one at a time.
(() => {
  const select = document.getElementById("layer");
  if (!select) return;
  const panels = [...document.querySelectorAll(".layer")];
  const buttons = { previous: document.getElementById("previous"), next: document.getElementById("next") };
  let shown = 0;

  const show = (index) => {
    shown = index;
    panels.forEach((panel, position) => { panel.hidden = position !== index; });
    buttons.previous.disabled = index === 0;
    buttons.next.disabled = index === panels.length - 1;
  };

  const announce = () => {
    document.getElementById("status").textContent = `Layer ${select.selectedOptions[0].textContent}`;
  };

  const move = (by) => {
    const index = Math.min(Math.max(shown + by, 0), panels.length - 1);
    select.value = [...select.options].find((option) => Number(option.dataset.panel) === index).value;
    show(index);
    announce();
  };

  select.addEventListener("change", () => { show(Number(select.selectedOptions[0].dataset.panel)); announce(); });
  buttons.previous.addEventListener("click", () => move(-1));
  buttons.next.addEventListener("click", () => move(1));
  document.querySelector(".picker").hidden = false;
  // A browser may keep the selected option when the page is reloaded.
  show(Number(select.selectedOptions[0].dataset.panel));
})();
