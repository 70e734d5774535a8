// Small repairs for readers with a keyboard or a screen reader: code that scrolls can be reached, and headings of the menu have a level.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("div.highlight pre").forEach((code) => { code.tabIndex = 0; });
  document.querySelectorAll(".sidebar-tree .caption[role=heading]").forEach((caption) => caption.setAttribute("aria-level", "2"));
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  document.querySelectorAll(".citation[role=doc-biblioentry]").forEach((entry) => entry.removeAttribute("role"));
});
