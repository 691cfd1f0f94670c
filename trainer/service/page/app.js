// The page: who is recommended to, with which filters; asks the service, and shows what it says.

import { address, ask } from "./api.js";
import { called, element, readable, showPast, showRanked } from "./lists.js";
import { combobox } from "./search.js";

const REASONS = 3;
const MOST_FILTERS = 6;
const byId = (id) => document.getElementById(id);

const state = { mode: "user", user: "", chosen: [], filters: new Map() };
let running = null;

/** Say something in place of, or above, the list. */
function say(text, fault = false) {
  byId("message").classList.toggle("fault", fault);
  byId("message").textContent = text;
}

function heading(name, about) {
  byId("results-name").textContent = name;
  byId("results-about").textContent = about;
  document.title = `${name} – Shardtower`;
}

/** Return the conditions that the filters stand for. */
const conditions = () => [...state.filters.values()].flat();

/** Ask for what the controls say, and show it. Whatever was asked before is given up. */
async function refresh() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const person = state.mode === "user" ? { user: state.user } : { history: state.chosen.map((each) => each.item) };
  byId("clear").hidden = !state.filters.size;
  if (state.mode === "user" ? !state.user : !state.chosen.length) return showNothing();
  byId("results").setAttribute("aria-busy", "true");
  try {
    const body = {
      ...person,
      k: Number(byId("count").value),
      where: conditions(),
      keep_seen: byId("keep").checked,
      why: REASONS,
      details: true,
    };
    const [ranked, past] = await Promise.all([
      ask("recommend", { body, signal }),
      state.mode === "user" ? ask(`users/${encodeURIComponent(state.user)}/past`, { signal }) : null,
    ]);
    if (!signal.aborted) show(ranked, past);
  } catch (error) {
    if (error.name === "AbortError") return;
    heading("No recommendations", "");
    byId("ranked").replaceChildren();
    byId("past").hidden = true;
    say(error.message, true);
  } finally {
    if (!signal.aborted) byId("results").setAttribute("aria-busy", "false");
  }
}

function show(ranked, past) {
  const titles = state.chosen.map(called);
  const liked = titles.length > 2 ? `${titles[0]} and ${titles.length - 1} more` : titles.join(" and ");
  const whom = state.mode === "user" ? `For user ${state.user}` : `For someone who likes ${liked}`;
  const filtered = conditions().length ? " that pass the filters" : "";
  heading(whom, ranked.items.length ? `The best ${ranked.items.length} items${filtered}, with reasons` : "");
  say(ranked.items.length ? ranked.notes.join(" ") : "No items are left. Take a filter away.");
  showRanked(byId("ranked"), ranked.items, similar);
  byId("status").textContent = `${whom}: ${ranked.items.length} recommendations`;
  byId("past").hidden = !past;
  if (past) {
    byId("past-name").textContent = `What user ${state.user} has`;
    const order = past.ordered ? ", the latest first" : "";
    byId("past-about").textContent = `${past.items.length.toLocaleString("en")} items${order}`;
    showPast(byId("past-items"), byId("past-all"), past.ordered ? past.items.toReversed() : past.items);
  }
}

function showNothing() {
  byId("results").setAttribute("aria-busy", "false");
  byId("ranked").replaceChildren();
  byId("past").hidden = true;
  heading("Recommendations", "");
  say(state.mode === "user" ? "Type a user id, or take one at random." : "Type a few titles that they like.");
}

async function similar(item) {
  const path = `items/${encodeURIComponent(item.item)}/similar`;
  return (await ask(address(path, { k: 5, where: conditions(), details: true }))).items;
}

function pickUser(user) {
  state.user = user;
  byId("user").value = user;
  history.replaceState(null, "", `#user=${encodeURIComponent(user)}`);
  refresh();
}

async function surprise() {
  try {
    const { users } = await ask(address("users", { limit: 1, at_random: true }));
    if (users.length) pickUser(users[0]);
    else showNothing();
  } catch (error) {
    say(error.message, true);
  }
}

function setMode(mode) {
  state.mode = mode;
  document.querySelector(`input[name="mode"][value="${mode}"]`).checked = true;
  byId("for-user").hidden = mode !== "user";
  byId("for-new").hidden = mode !== "new";
  refresh();
}

/** Add a title that was chosen, or the best match of one that was typed. */
async function addTitle(option) {
  byId("title").value = "";
  let item = option.item;
  if (!item) {
    const { items } = await ask(address("items", { title: option.text, limit: 1 }));
    if (!items.length) return say(`No title like ${option.text}.`, true);
    [item] = items;
  }
  if (!state.chosen.some((each) => each.item === item.item)) state.chosen.push(item);
  showChosen();
  refresh();
}

function showChosen() {
  byId("chosen").replaceChildren(
    ...state.chosen.map((item) => {
      const chip = element("li");
      const remove = element("button", "", "×");
      remove.type = "button";
      remove.setAttribute("aria-label", `Remove ${called(item)}`);
      remove.addEventListener("click", () => {
        state.chosen = state.chosen.filter((each) => each !== item);
        showChosen();
        byId("title").focus();
        refresh();
      });
      chip.append(element("span", "", called(item)), remove);
      return chip;
    }),
  );
}

function setFilter(name, found) {
  if (found.length) state.filters.set(name, found);
  else state.filters.delete(name);
  refresh();
}

/** Make a field for an attribute: a choice of values, or two ends of a range. */
function filterField(attribute, place) {
  const box = element("div");
  const id = `filter-${place}`;
  if (attribute.kind === "number") {
    const group = element("fieldset");
    const range = element("div", "range");
    const ends = ["from", "to"].map((end) => {
      const input = element("input");
      input.type = "number";
      input.step = "any";
      input.placeholder = String(end === "from" ? attribute.least : attribute.most);
      input.setAttribute("aria-label", `${readable(attribute.name)} ${end}`);
      return input;
    });
    const change = () => {
      const signs = [">=", "<="];
      const given = ends.map((input, end) => (input.value ? [`${attribute.name}${signs[end]}${input.value}`] : []));
      setFilter(attribute.name, given.flat());
    };
    ends.forEach((input) => input.addEventListener("change", change));
    range.append(ends[0], "–", ends[1]);
    group.append(element("legend", "name", readable(attribute.name)), range);
    box.append(group);
  } else {
    const label = element("label", "name", readable(attribute.name));
    label.htmlFor = id;
    const select = element("select");
    select.id = id;
    select.append(new Option("Any", ""));
    for (const [value, count] of attribute.values) {
      // `|` would mean "or" in a condition.
      if (!value.includes("|")) select.append(new Option(`${value} (${count.toLocaleString("en")})`, value));
    }
    select.addEventListener("change", () => {
      setFilter(attribute.name, select.value ? [`${attribute.name}=${select.value}`] : []);
    });
    box.append(label, select);
  }
  return box;
}

async function showFilters() {
  const { attributes } = await ask("attributes");
  const useful = attributes.filter((each) => each.values.length > 1 || each.least < each.most);
  byId("filters").replaceChildren(...useful.slice(0, MOST_FILTERS).map(filterField));
}

async function showExport() {
  const { export: about, refused } = await ask("health");
  const step = about.step === null ? "" : ` · step ${about.step.toLocaleString("en")}`;
  const stale = refused ? " · a newer export was refused" : "";
  byId("about").textContent = `${about.name} · ${about.items.toLocaleString("en")} items${step}${stale}`;
  byId("about").title = `Export ${about.hash}`;
}

function connect() {
  combobox(byId("user"), byId("user-options"), {
    find: async (text, signal) =>
      (await ask(address("users", { start: text, limit: 8 }), { signal })).users.map((each) => ({ value: each, text: each })),
    choose: (option) => pickUser(option.value),
    empty: "No user id begins like this",
  });
  combobox(byId("title"), byId("title-options"), {
    find: async (text, signal) =>
      (await ask(address("items", { title: text, limit: 8 }), { signal })).items.map((item) => ({ item, text: called(item) })),
    choose: (option) => addTitle(option).catch((error) => say(error.message, true)),
    empty: "No title like this",
  });
  byId("title").addEventListener("keydown", (event) => {
    if (event.key === "Backspace" && !event.target.value && state.chosen.pop()) {
      showChosen();
      refresh();
    }
  });
  byId("another").addEventListener("click", surprise);
  byId("clear").addEventListener("click", async () => {
    state.filters.clear();
    byId("filters").querySelectorAll("select, input").forEach((each) => (each.value = ""));
    refresh();
  });
  byId("ask").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["count", "keep"]) byId(id).addEventListener("change", refresh);
  document.querySelectorAll('input[name="mode"]').forEach((each) => {
    each.addEventListener("change", () => setMode(each.value));
  });
}

async function begin() {
  connect();
  try {
    await showExport();
    await showFilters();
    const named = new URLSearchParams(location.hash.slice(1)).get("user");
    if (named) pickUser(named);
    else await surprise();
  } catch (error) {
    say(error.message, true);
  }
}

begin();
