// Replaces the live part of the page every few seconds. Without this script the page is whole; it is only not live.
"use strict";
(function () {
  const EVERY_MS = 5000;
  const live = document.getElementById("live");
  const button = document.getElementById("live-button");
  const said = document.getElementById("live-said");
  if (!live || !button || !said) return;
  document.querySelectorAll(".with-script").forEach((one) => { one.hidden = false; });
  document.querySelectorAll(".without-script").forEach((one) => { one.hidden = true; });

  let on = sessionStorage.getItem("live") !== "off";
  let headline = headlineOf(live);

  function headlineOf(part) {
    const title = part.querySelector("#now-title, #progress-title ~ p");
    return title ? title.textContent.trim() : "";
  }

  function show() {
    button.textContent = on ? "Live: on" : "Live: off";
    button.setAttribute("aria-pressed", String(on));
  }

  // What somebody reads, types into or has opened must not change under them.
  function inUse() {
    const at = document.activeElement;
    const selected = window.getSelection();
    return (at && at !== document.body && live.contains(at)) || (selected && !selected.isCollapsed) ||
      live.querySelector("details[open]") !== null;
  }

  async function look() {
    if (!on || document.hidden || inUse()) return;
    try {
      const answer = await fetch(location.pathname, { credentials: "same-origin", cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (!answer.ok || !fresh) {
        on = false;
        show();
        said.textContent = answer.redirected ? "Signed out. Reload the page to sign in again." : "Not live any more.";
        said.classList.remove("unseen");
        return;
      }
      if (inUse()) return;
      live.replaceChildren(...fresh.childNodes);
      document.querySelectorAll("[data-live]").forEach((part) => {
        const now = page.getElementById(part.id);
        if (now) part.replaceChildren(...now.childNodes);
      });
      const told = headlineOf(live);
      // Said only when something else goes on: a number that moves is no news.
      if (told.replace(/\d+/g, "") !== headline.replace(/\d+/g, "")) said.textContent = told;
      headline = told;
    } catch (error) {
      button.textContent = "Live: no answer";
    }
  }

  button.addEventListener("click", () => {
    on = !on;
    sessionStorage.setItem("live", on ? "on" : "off");
    show();
    look();
  });
  show();
  setInterval(look, EVERY_MS);
})();
