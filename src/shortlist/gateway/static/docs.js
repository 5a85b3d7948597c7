/* A page over /openapi.json: every operation with its schemas, and a form to try it. Text is set as text, never as HTML. */
"use strict";
const main = document.getElementById("main");
const EXAMPLES = {
  "/v1/recommend": () => ({ user_id: "42", k: 10 }),
  "/v1/events": () => ({
    event_id: Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join(""),
    user_id: "42", item_id: "item-7", type: "click", timestamp_ms: Date.now(),
  }),
};

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function prose(text) { // `code` between backticks
  const element = make("p");
  element.append(...text.split("`").map((part, i) => (i % 2 ? make("code", part) : part)));
  return element;
}

function fold(title, content) {
  const details = make("details");
  details.append(make("summary", title), content);
  return details;
}

const pretty = (value) => make("pre", JSON.stringify(value, null, 2));

function resolve(value, schemas, seen = []) {
  if (Array.isArray(value)) return value.map((part) => resolve(part, schemas, seen));
  if (value === null || typeof value !== "object") return value;
  const name = value.$ref?.split("/").pop();
  if (name) return seen.includes(name) ? name : resolve(schemas[name], schemas, [...seen, name]);
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, resolve(part, schemas, seen)]));
}

async function attempt(verb, path, fields, body, out) {
  const url = path.replace(/\{(\w+)[^}]*\}/g, (_, name) => encodeURIComponent(fields[name].value));
  const key = document.getElementById("key").value;
  const headers = { ...(key && { authorization: `Bearer ${key}` }), ...(body && { "content-type": "application/json" }) };
  const started = performance.now();
  try {
    const answer = await fetch(url, { method: verb.toUpperCase(), headers, body: body?.value });
    const text = await answer.text(), took = (performance.now() - started).toFixed(1);
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* metrics are text */ }
    out.textContent = `${answer.status} ${answer.statusText}, ${took} ms\n${shown}`;
  } catch (error) {
    out.textContent = String(error);
  }
}

function operation(path, verb, described, schemas) {
  const section = make("section"), heading = make("h2");
  heading.append(make("span", `${verb.toUpperCase()} `, "verb"), make("code", path));
  section.append(heading, prose(described.description || described.summary));
  const fields = {}, form = make("form");
  for (const parameter of described.parameters || []) {
    const label = make("label", `${parameter.name} `);
    fields[parameter.name] = make("input");
    label.append(fields[parameter.name]);
    form.append(label);
  }
  let body = null;
  const schema = described.requestBody?.content["application/json"]?.schema;
  if (schema) {
    body = make("textarea");
    body.value = JSON.stringify(EXAMPLES[path]?.() ?? {}, null, 2);
    form.append(body);
    section.append(fold("body", pretty(resolve(schema, schemas))));
  }
  for (const [code, answer] of Object.entries(described.responses)) {
    const shape = answer.content?.["application/json"]?.schema;
    section.append(shape && Object.keys(shape).length ? fold(`${code}: ${answer.description}`, pretty(resolve(shape, schemas))) : make("div", `${code}: ${answer.description}`, "hint"));
  }
  const out = make("pre");
  out.hidden = true;
  form.append(make("button", "Try"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    out.hidden = false;
    out.textContent = "…";
    attempt(verb, path, fields, body, out);
  });
  section.append(form, out);
  return section;
}

async function start() {
  const document_ = await (await fetch("/openapi.json")).json();
  const schemas = document_.components.schemas;
  window.document.getElementById("title").textContent = `${document_.info.title} ${document_.info.version}`;
  const operations = Object.entries(document_.paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, described]) => operation(path, verb, described, schemas)));
  main.replaceChildren(prose(document_.info.description), ...operations);
}

document.getElementById("keys").addEventListener("submit", (event) => event.preventDefault());
start().catch((error) => main.replaceChildren(make("p", String(error))));
