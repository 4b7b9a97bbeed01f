"use strict";
(() => {
  const root = document.documentElement, status = document.getElementById("renewal");
  let paused = false;
  const button = document.createElement("button");
  const tell = () => { button.textContent = paused ? "go on updating" : "stop updating"; };
  button.type = "button";
  button.addEventListener("click", () => { paused = !paused; tell(); });
  tell();
  status.after(button);

  async function renew() {
    if (paused || document.hidden || String(getSelection())) return;
    let text;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-cache" });
      text = await answer.text();
    } catch {
      status.textContent = "no answer from the scaler: what stands here is old";
      root.classList.add("lost");
      return;
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const main = document.querySelector("main"), next = fresh.querySelector("main");
    if (next === null || fresh.documentElement.dataset.version !== root.dataset.version) { location.reload(); return; }
    for (const each of main.querySelectorAll("details[open][id]")) {
      const same = next.querySelector("#" + CSS.escape(each.id));
      if (same !== null) same.open = true;
    }
    const held = document.activeElement, place = scrollY;
    const again = held !== null && main.contains(held) ? trail(held, main) : null;
    root.classList.remove("lost");
    main.replaceWith(next);
    scrollTo(scrollX, place);
    status.textContent = fresh.getElementById("renewal").textContent;
    document.title = fresh.title;
    if (again !== null) next.querySelector(again)?.focus({ preventScroll: true });
  }

  function trail(held, main) {
    if (held.matches("a[href]")) return `a[href="${CSS.escape(held.getAttribute("href"))}"]`;
    const fold = held.closest("details[id]");
    return fold !== null && main.contains(fold) ? `#${CSS.escape(fold.id)} > summary` : null;
  }

  setInterval(renew, Number(root.dataset.refresh) * 1000);
})();
