/* Tells a Shortlist gateway what visitors do with items: clicks, views, dwell and scroll depth.

   <script src="https://gateway.example/tracker.js" data-key="sl-track-…" data-user="42" defer></script>
   <a data-item="item-7" href="…">…</a>        an item on the page: its clicks, views and dwell are told
   <script … data-page-item="item-7">          the page is about an item: time on it and depth of scrolling are told
   <script … data-watch="clicks">              clicks alone

   By hand: shortlist.track("like", "item-7"), shortlist.track("rating", "item-7", 4).
   With Do Not Track or Global Privacy Control nothing is watched, stored or sent. */
"use strict";
(() => {
  const SEND_EVERY = 2000, BATCH = 20, MOST_WAITING = 500, BEACON_BYTES = 60000;
  const FIRST_RETRY = 1000, LAST_RETRY = 60000;
  const VISIBLE = 0.5, SHORTEST_DWELL = 1, LONGEST_DWELL = 3600; // share of an item; seconds
  const script = document.currentScript, given = script.dataset;

  const optedOut = () =>
    [navigator.doNotTrack, window.doNotTrack].some((v) => v === "1" || v === "yes") ||
    navigator.globalPrivacyControl === true;
  if (optedOut()) {
    window.shortlist = { enabled: false, user: "", track() {}, flush() {} };
    return;
  }

  const identifier = () =>
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

  const stored = (name, make) => {
    try { // of this tab only; some browsers refuse
      const found = sessionStorage.getItem(name) || make();
      sessionStorage.setItem(name, found);
      return found;
    } catch {
      return make();
    }
  };

  const endpoint = given.endpoint || new URL("/v1/events", script.src).href;
  const session = stored("shortlist-session", identifier);
  const device = !matchMedia("(pointer: coarse)").matches ? "desktop" : Math.min(screen.width, screen.height) < 600 ? "phone" : "tablet";
  const context = () => ({ device, locale: navigator.language || "", hour: new Date().getHours() });

  const tracker = {
    enabled: true,
    key: given.key || "",
    user: given.user || `anonymous-${session}`,

    track(type, item, value) {
      const event = {
        event_id: identifier(), user_id: tracker.user, item_id: String(item), type,
        timestamp_ms: Date.now(), session_id: session, context: context(),
      };
      if (value !== undefined) event.value = value;
      waiting.push(event);
      if (waiting.length > MOST_WAITING) waiting.splice(0, waiting.length - MOST_WAITING);
      if (type === "click" || waiting.length >= BATCH) tracker.flush();
      else if (!timer) schedule(SEND_EVERY);
    },

    flush() {
      if (sending || !waiting.length) return; // what is under way looks for more when it is done
      const pause = retryAt - Date.now();
      if (pause > 0) schedule(pause);
      else send();
    },
  };

  const waiting = [];
  let sending = false, timer = 0, failures = 0, retryAt = 0;

  const schedule = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(() => { timer = 0; tracker.flush(); }, ms);
  };

  async function send() {
    clearTimeout(timer);
    timer = 0;
    const batch = waiting.slice(0, BATCH);
    sending = true;
    const pause = await post(batch);
    sending = false;
    if (pause === 0) {
      failures = 0;
      for (const event of batch) { // some may have left by beacon meanwhile
        const at = waiting.indexOf(event);
        if (at >= 0) waiting.splice(at, 1);
      }
    } else {
      failures += 1;
      retryAt = Date.now() + pause;
    }
    if (waiting.length) schedule(pause || (waiting.length >= BATCH ? 0 : SEND_EVERY));
  }

  /* 0 when the batch is done with (taken, or refused for good), else how many ms to wait before the next try. */
  async function post(batch) {
    let asked = 0;
    try {
      const headers = { "content-type": "application/json" };
      if (tracker.key) headers.authorization = `Bearer ${tracker.key}`;
      const answer = await fetch(endpoint, {
        method: "POST", headers, body: JSON.stringify({ events: batch }), credentials: "omit",
      });
      if (answer.status < 500 && answer.status !== 429 && answer.status !== 408) return 0;
      asked = 1000 * Number(answer.headers.get("retry-after")) || 0;
    } catch { /* no connection: as an answer of 503 */ }
    const backOff = Math.min(LAST_RETRY, FIRST_RETRY * 2 ** failures);
    return Math.max(asked, backOff * (0.5 + Math.random() / 2));
  }

  /* As the page goes: beacons outlive it, but carry no headers, so the key is in the body. Same event ids: a batch that
     was under way and arrives twice counts once. */
  function leave() {
    while (waiting.length) {
      let count = Math.min(waiting.length, BATCH), body = "";
      do {
        body = JSON.stringify({ events: waiting.slice(0, count), ...(tracker.key && { key: tracker.key }) });
      } while (body.length > BEACON_BYTES && (count = Math.floor(count / 2)) > 0);
      if (!navigator.sendBeacon(endpoint, new Blob([body], { type: "text/plain;charset=UTF-8" }))) return;
      waiting.splice(0, count);
    }
  }

  const depth = () => {
    const page = document.documentElement;
    return Math.min(1, Math.round((100 * (scrollY + innerHeight)) / Math.max(1, page.scrollHeight)) / 100);
  };

  const shown = new Map(); // element -> { item, since }: at least half of it can be seen
  const viewed = new Set(); // items: one view of each a page

  function appeared(element) {
    const item = element.dataset.item;
    if (!item || document.hidden) return;
    const before = shown.get(element);
    if (before && before.item === item) return;
    if (before) disappeared(element); // the element shows another item now
    shown.set(element, { item, since: performance.now() });
    if (!viewed.has(item)) {
      viewed.add(item);
      tracker.track("view", item, depth());
    }
  }

  function disappeared(element) {
    const { item, since } = shown.get(element) || {};
    shown.delete(element);
    if (item) dwelt(item, since);
  }

  function dwelt(item, since) {
    const seconds = Math.min(LONGEST_DWELL, (performance.now() - since) / 1000);
    if (seconds >= SHORTEST_DWELL) tracker.track("dwell", item, Math.round(10 * seconds) / 10);
  }

  const inSight = new Set();
  const eyes = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting, intersectionRatio } of entries) {
      if (isIntersecting && intersectionRatio >= VISIBLE) { inSight.add(target); appeared(target); }
      else { inSight.delete(target); disappeared(target); }
    }
  }, { threshold: VISIBLE });

  const items = (node) =>
    node.nodeType !== 1 ? [] : [...(node.matches("[data-item]") ? [node] : []), ...node.querySelectorAll("[data-item]")];
  const watch = new MutationObserver((changes) => {
    for (const change of changes) {
      if (change.type === "attributes") { if (inSight.has(change.target)) appeared(change.target); else eyes.observe(change.target); continue; }
      for (const node of change.removedNodes) for (const e of items(node)) { eyes.unobserve(e); inSight.delete(e); disappeared(e); }
      for (const node of change.addedNodes) for (const e of items(node)) eyes.observe(e);
    }
  });

  let deepest = 0, pageSince = performance.now(), pageViewed = false;
  function endOfPage() {
    if (!given.pageItem) return;
    if (!pageViewed) { tracker.track("view", given.pageItem, deepest); pageViewed = true; }
    dwelt(given.pageItem, pageSince);
    pageSince = performance.now();
  }

  function start() {
    document.addEventListener("click", (event) => {
      const element = event.target.closest?.("[data-item]");
      if (element?.dataset.item) tracker.track("click", element.dataset.item);
    }, { capture: true });
    if (given.watch !== "clicks") startWatching();
    document.addEventListener("visibilitychange", () => { if (document.hidden) leave(); });
    addEventListener("pagehide", leave);
  }

  function startWatching() { // its listeners come before those that leave
    for (const element of items(document.body)) eyes.observe(element);
    watch.observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-item"] });
    deepest = depth();
    addEventListener("scroll", () => { deepest = Math.max(deepest, depth()); }, { passive: true });
    const pause = () => {
      for (const element of [...shown.keys()]) disappeared(element);
      endOfPage();
    };
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { pause(); return; }
      pageSince = performance.now();
      for (const element of inSight) appeared(element);
    });
    addEventListener("pagehide", () => { if (!document.hidden) pause(); });
  }

  window.shortlist = tracker;
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
