"use strict";
// Brings the page up to date: fetches it again and exchanges the parts that have changed.
// A page in the background asks for nothing.
const alive = document.getElementById("alive");
const said = alive.textContent;
const every = 1000 * Number(document.body.dataset.refreshS);
let timer = 0;
let asking = false;

function exchange(part, fresh) {
  const focused = document.activeElement && part.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...part.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollTop]);
  // What the reader has unfolded stays unfolded.
  for (const open of part.querySelectorAll("details[open]")) {
    const same = fresh.querySelector("#" + CSS.escape(open.id));
    if (same) same.open = true;
  }
  part.replaceChildren(...fresh.childNodes);
  part.querySelectorAll(".scroll").forEach((box, i) => box.scrollTo(...(scrolled[i] || [0, 0])));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

function selects(part) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(part, true);
}

async function look() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    // Inert: the browser runs nothing of a document that was parsed this way.
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other && other.innerHTML !== part.dataset.was && !selects(part)) {
        part.dataset.was = other.innerHTML;
        exchange(part, other);
      }
    }
    if (alive.classList.contains("lost")) {
      alive.classList.remove("lost");
      alive.textContent = said;
    }
  } catch (error) {
    if (!alive.classList.contains("lost")) {
      alive.classList.add("lost");
      alive.textContent = `No answer from the scheduler since ${new Date().toLocaleTimeString()}.`;
    }
  } finally {
    asking = false;
  }
}

function begin() {
  clearInterval(timer);
  timer = document.hidden ? 0 : setInterval(look, every);
}

document.addEventListener("visibilitychange", () => {
  begin();
  look();
});
begin();
