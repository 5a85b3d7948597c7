/* The live page: a WebSocket brings slates and profiles, clicks leave through the tracker. Everything that came from
   elsewhere is set as text, never as HTML. */
"use strict";
const $ = (id) => document.getElementById(id);
const RETRY_FIRST = 500, RETRY_LAST = 15000;
let socket = null, failures = 0, retry = 0, order = [], lastClick = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function bar(share) { // inline styles are against the page's own policy, an SVG's attributes are not
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("class", "share");
  rect.setAttribute("width", `${Math.round(100 * Math.max(0, Math.min(1, share)))}%`);
  rect.setAttribute("height", "100%");
  svg.append(rect);
  return svg;
}

function say(text, bad) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", Boolean(bad));
}

function moved(item, slot) {
  if (!order.length) return make("span", "moved", "");
  const before = order.indexOf(item);
  if (before < 0) return make("span", "moved new", "new");
  const by = before - slot;
  return make("span", `moved ${by > 0 ? "up" : by < 0 ? "down" : ""}`, by > 0 ? `▲ ${by}` : by < 0 ? `▼ ${-by}` : "");
}

function showSlate(slate) {
  $("slate-about").textContent = `${slate.status}${slate.version ? `, version ${slate.version}` : ""}`;
  $("slate").replaceChildren(...slate.items.map((item, slot) => {
    const row = make("button");
    row.type = "button";
    row.dataset.item = item.id;
    row.append(make("span", "slot", slot + 1), make("span", "name", item.title || item.id),
      make("span", "score", item.score.toFixed(3)), moved(item.id, slot));
    row.title = item.id;
    const entry = make("li");
    entry.append(row);
    return entry;
  }));
  order = slate.items.map((item) => item.id);
}

function showProfile(profile) {
  $("profile-about").textContent = !profile ? "nothing known yet" : profile.version === 1 ? "1 event" : `${profile.version} events`;
  const pairs = Object.entries(profile ? profile.affinities : {}).slice(0, 12);
  const largest = Math.max(1e-9, ...pairs.map(([, weight]) => Math.abs(weight)));
  $("affinities").replaceChildren(...pairs.map(([name, weight]) => {
    const row = make("div", "bar");
    row.append(make("span", "", name), bar(Math.abs(weight) / largest), make("span", "score", weight.toFixed(2)));
    return row;
  }));
  $("history").replaceChildren(...(profile ? profile.history.slice(0, 12) : []).map((event) => {
    const value = event.value === null ? "" : ` ${Number(event.value).toFixed(2)}`;
    return make("li", "", `${new Date(event.timestamp_ms).toLocaleTimeString()}  ${event.type}${value}  ${event.item_id}`);
  }));
}

function showFunnel(trace) {
  const stages = trace ? trace.stages : [];
  const slowest = Math.max(1e-9, ...stages.map((stage) => stage.ms));
  $("funnel-about").textContent = trace ? `bundle ${trace.version}` : "";
  $("funnel").tBodies[0].replaceChildren(...stages.map((stage) => {
    const row = make("tr");
    row.append(make("td", "", stage.stage), make("td", "", stage.in), make("td", "", stage.out), make("td", "", stage.ms.toFixed(2)));
    const share = make("td");
    share.append(bar(stage.ms / slowest));
    row.append(share);
    return row;
  }));
}

function showTimings(message, trace) {
  const stages = (trace ? trace.stages : []).reduce((sum, stage) => sum + stage.ms, 0);
  const lines = [["stages", `${stages.toFixed(2)} ms`], ["asked and answered", `${message.ms.toFixed(2)} ms`]];
  if (lastClick) lines.push(["click to slate", `${Math.round(performance.now() - lastClick)} ms`]);
  $("timings").replaceChildren(...lines.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  lastClick = 0;
}

function show(message) {
  if (message.slate) {
    showSlate(message.slate);
    showFunnel(message.slate.trace);
    showTimings(message, message.slate.trace);
  }
  if ("profile" in message) showProfile(message.profile);
  document.body.dataset.messages = Number(document.body.dataset.messages || 0) + 1;
  if (message.problem) say(message.problem, true);
  else say(`Watching ${message.user_id}.${window.shortlist?.enabled === false ? " Your browser asks not to be tracked: clicks are not sent." : ""}`);
}

function watch(user, k, key) {
  clearTimeout(retry);
  if (socket) { socket.onclose = null; socket.close(); }
  const url = new URL(`/v1/live?user=${encodeURIComponent(user)}&k=${k}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  socket = new WebSocket(url, key ? ["shortlist", `key.${key}`] : ["shortlist"]);
  socket.onmessage = (event) => { failures = 0; show(JSON.parse(event.data)); };
  socket.onclose = (event) => {
    if (event.code === 4401) $("key-label").hidden = false;
    if (event.code >= 4400 && event.code < 4500 && event.code !== 4429) { say(event.reason, true); return; }
    const pause = Math.min(RETRY_LAST, RETRY_FIRST * 2 ** failures) * (0.5 + Math.random() / 2);
    failures += 1;
    say(`${event.reason || "Not connected."} Trying again …`, true);
    retry = setTimeout(() => watch(user, k, key), pause);
  };
}

function startTracker(user, key) { // loaded when the user is known, since the tracker reads its settings as it loads
  document.getElementById("tracker")?.remove();
  if (window.shortlist) {
    Object.assign(window.shortlist, { user, key });
    return;
  }
  const script = document.createElement("script");
  script.id = "tracker";
  Object.assign(script.dataset, { user, key, watch: "clicks" }); // views would move the slate, and bring new views
  script.src = "/tracker.js";
  document.head.append(script);
}

$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = $("user").value, k = $("k").value || 10, key = $("key").value;
  order = [];
  failures = 0;
  history.replaceState(null, "", `/?user=${encodeURIComponent(user)}&k=${k}`);
  say("Connecting …");
  startTracker(user, key);
  watch(user, k, key);
});
$("slate").addEventListener("click", () => { lastClick = performance.now(); });

const asked = new URLSearchParams(location.search);
if (asked.get("user")) {
  $("user").value = asked.get("user");
  if (asked.get("k")) $("k").value = asked.get("k");
  $("who").requestSubmit();
}
