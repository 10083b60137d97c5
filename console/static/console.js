/* Carries the session where no user can be proven, and a cookie would therefore not do: the secret stays in this tab's
   storage, which belongs to this origin with its port, and goes along as a header. Pages that arrive are inserted
   without running anything of them. In all other cases no page loads this file. */
(() => {
  "use strict";
  const KEY = "rumi.session";
  const opened = document.querySelector("[data-rumi-session]");
  if (opened) {
    sessionStorage.setItem(KEY, opened.dataset.rumiSession);
    location.replace("/_rumi/");
    return;
  }
  const secret = sessionStorage.getItem(KEY);
  if (!secret) return;

  const LIVE_MS = 2000;
  let again = 0;

  async function show(url, options, remember, still) {
    clearTimeout(again);
    const answer = await fetch(url, {
      ...options, headers: { ...options.headers, "X-Rumi-Session": secret }, cache: "no-store", credentials: "omit",
    });
    if (answer.status === 401) sessionStorage.removeItem(KEY);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = next.title;
    document.documentElement.lang = next.documentElement.lang;
    document.body.replaceWith(document.adoptNode(next.body));
    const at = new URL(answer.url);
    if (remember) history.pushState(null, "", at.pathname + at.search);
    if (document.querySelector("[data-live]")) {
      again = setTimeout(() => show(location.pathname + location.search, {}, false, true), LIVE_MS);
    }
    if (still) return;
    document.getElementById("content")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || link.origin !== location.origin || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (link.pathname === location.pathname && link.hash) return;
    event.preventDefault();
    show(link.pathname + link.search, {}, true);
  });
  document.addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    const fields = new URLSearchParams(new FormData(form));
    if (form.method === "get") show(`${form.action}?${fields}`, {}, true);
    else show(form.action, { method: "POST", body: fields }, true);
  });
  addEventListener("popstate", () => show(location.pathname + location.search, {}, false));
  show(location.pathname + location.search, {}, false);
})();
