// The overview: a table of the base calls, the decisions of each function with the way that was
// taken and the other one, and a search over functions, variables and lines.
import { h } from "./dom.js";
import { findingsBox } from "./findings.js";
import { takenAfter } from "./measured.js";
import { stageOf } from "./model.js";
import { textOf } from "./story.js";
import { numberText, pythonText, range, seen, short } from "./text.js";
import { wayBox } from "./ways.js";

/**
 * @typedef {import("./element.js").PeftVizTrace} View
 * @typedef {import("./steps.js").Call} Call
 */

const FOUND = 60; // results of a search, at most

/** @param {View} view */
export function overviewPanel(view) {
  const { $ } = view;
  $.found = h("div", { class: "found", role: "status" });
  const label = view.say("search_for");
  $.search = h("input", {
    type: "search",
    class: "search",
    placeholder: label,
    "aria-label": label,
    oninput: () => showFound(view),
    onkeydown: (e) => {
      if (e.key === "Enter") $.found.querySelector("button")?.click();
      if (e.key === "Escape" && !$.search.value) view.openTab("story");
    },
  });
  const region = { tabindex: "0", role: "region", "aria-label": view.say("tab_overview") };
  return h(
    "div",
    { class: "body overview", ...region },
    h("div", { class: "searchbox" }, $.search, $.found),
    view.rec.payload.findings?.length
      ? [view.h(3, view.say("looks_wrong")), findingsBox(view)]
      : null,
    view.h(3, view.say("base_calls")),
    baseTable(view),
    view.h(3, view.say("decisions")),
    h("p", { class: "note" }, view.say("decisions_note")),
    decisionTree(view),
  );
}

/** @param {View} view */
export function showOverview(view) {
  const base = view.rec.base(view.step);
  for (const row of view.$.panel.querySelectorAll("[data-base]")) {
    const mine = base && +row.dataset.base === base.id;
    if (mine) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}

/** @param {View} view @param {number} k */
const goLines = (view, k) => {
  view.go(k);
  view.openTab("lines");
};

// ------------------------------------------------------------ the base calls
const sizeText = (v) => {
  if (!v) return "";
  if (v.kind === "cache") return String(v.length);
  return v.kind === "tensor" ? `[${v.shape.join(", ")}]` : "";
};

/** @param {View} view */
function baseTable(view) {
  const { rec } = view;
  const given = ["attention_mask", "labels", "position_ids"];
  const head = ["call", "stage", "cache", "inputs", ...given, "logits", "loss", "taken"];
  const rows = rec.bases.map((base, i) => {
    const arg = (name) => rec.value(base.args[name]);
    const inputs = ["inputs_embeds", "input_ids"].find((n) => arg(n)?.shape);
    const cache = rec.caches.get(base.id);
    const loss =
      rec.value(base.outputs.loss)?.kind === "tensor" && rec.numbers(base.outputs.loss);
    const count = rec.sequence(base.id)?.rows.length || 0;
    const taken = range(Math.min(count, 8)).map((r) => takenAfter(rec, base, r));
    const shown = taken.some((x) => x != null)
      ? taken.map((id) => (id == null ? "–" : seen(rec.text(id) ?? String(id), 8))).join(" · ")
      : "";
    const go = { type: "button", class: "link", onclick: () => goLines(view, base.first) };
    const cells = [
      stageOf(view, base),
      cache && (cache.before || cache.after != null)
        ? `${cache.before} → ${cache.after ?? "?"}`
        : "",
      inputs ? `${inputs} ${sizeText(arg(inputs))}` : "",
      ...given.map((n) => sizeText(arg(n))),
      sizeText(rec.value(base.outputs.logits)),
      loss ? numberText(loss[0]) : "",
      shown,
    ];
    const number = h("th", { scope: "row" }, h("button", go, `${i + 1}`));
    const title = view.say("go");
    const act = { "data-base": base.id, title, onclick: () => goLines(view, base.first) };
    return h(
      "tr",
      act,
      number,
      cells.map((c) => h("td", {}, c)),
    );
  });
  const names = head.map((n) => h("th", { scope: "col" }, view.say(`col_${n}`)));
  const table = h(
    "table",
    { class: "list" },
    h("thead", {}, h("tr", {}, names)),
    h("tbody", {}, rows),
  );
  const region = { class: "scroll", role: "region", "aria-label": view.say("base_calls") };
  return rows.length ? h("div", region, table) : h("p", { class: "note" }, view.say("no_base"));
}

// ------------------------------------------------------------ the decisions
/** A call of each function that decides something, with its conditions. @param {View} view */
function decisionTree(view) {
  const { rec } = view;
  const seenFunctions = new Map();
  for (const call of rec.calls) {
    const source = rec.sources[call.source];
    if (call.first == null || !source?.branches?.length || !call.steps.length) continue;
    const mine = seenFunctions.get(call.function) || [];
    mine.push(call);
    seenFunctions.set(call.function, mine);
  }
  const made = [...seenFunctions].map(([name, calls], i) => functionTree(view, name, calls, !i));
  return made.length
    ? h("div", { class: "trees" }, made)
    : h("p", { class: "note" }, view.say("none"));
}

/** @param {View} view @param {string} name @param {Call[]} calls @param {boolean} open */
function functionTree(view, name, calls, open) {
  const body = h("div", { class: "tree" });
  const fill = (call) => body.replaceChildren(...conditions(view, call));
  const pick = h("select", {
    "aria-label": view.say("which_call"),
    onchange: (e) => fill(calls[+e.target.value]),
  });
  calls.slice(0, 200).forEach((call, i) => {
    pick.append(h("option", { value: i }, view.say("call_n", i + 1, calls.length)));
  });
  const box = h(
    "details",
    { class: "decisions", open },
    h("summary", { class: "mono" }, name),
    calls.length > 1 ? pick : null,
    body,
  );
  const draw = () => body.firstChild || fill(calls[0]);
  box.addEventListener("toggle", draw);
  if (open) draw();
  return box;
}

/** The conditions of one call, each as deep as it stands in another. */
function conditions(view, call) {
  const source = view.rec.sources[call.source];
  const lines = source.text.split("\n");
  const text = (n) => (lines[n - source.first_line] || "").trim();
  const outcome = new Map();
  call.steps.forEach((step, i) => {
    if (step.branch != null) outcome.set(step.line, [step.branch, call.at[i]]);
  });
  const holds = (o, line) => o.line < line && line <= (o.orelse || o.body)[1];
  /** An elif stands as deep as its if; all else is one deeper than what it stands in. */
  const depthOf = (b) => {
    const around = source.branches.filter((o) => o !== b && holds(o, b.line)).pop();
    if (!around) return 0;
    return depthOf(around) + (around.orelse?.[0] === b.line ? 0 : 1);
  };
  return source.branches.map((b) => {
    const depth = depthOf(b);
    const [yes, k] = outcome.get(b.line) || [null, null];
    const badge =
      yes == null
        ? h("span", { class: "badge off" }, view.say("not_reached"))
        : h("span", { class: `badge ${yes ? "yes" : "no"}` }, yes ? "✓ True" : "✗ False");
    const other = yes == null ? null : otherWay(view, b, yes, text);
    const code = h("span", { class: "mono" }, `${b.line}  ${text(b.line)}`);
    const head =
      k == null
        ? h("div", { class: "cond" }, code, badge)
        : h(
            "button",
            { type: "button", class: "cond", onclick: () => goLines(view, k) },
            code,
            badge,
          );
    const css = { "--depth": Math.min(depth, 8) };
    const way = yes == null ? null : wayBox(view, call, b.line, yes);
    const cls = `decision${yes == null ? " unreached" : ""}`;
    return h("div", { class: cls, css }, head, other, way);
  });
}

/** What a condition would have led to, had it come out the other way. */
function otherWay(view, b, yes, text) {
  const inline = b.body[0] <= b.end;
  const span = yes ? b.orelse && [b.orelse[0], b.orelse[1]] : b.body;
  const word = pythonText(!yes);
  if (inline) return null;
  const where = (s) => view.say(s[0] === s[1] ? "line" : "lines_n", s[0], s[1]);
  if (!span) return h("div", { class: "other" }, view.say("other_skip", word, where(b.body)));
  let first = span[0];
  while (first < span[1] && /^(else:|#|$)/.test(text(first))) first++;
  return h(
    "div",
    { class: "other" },
    view.say("other_way", word, where(span)),
    " ",
    h("span", { class: "mono" }, text(first)),
  );
}

// ------------------------------------------------------------ search
/**
 * All that can be found: [what it is, its text, the moment or the step it leads to].
 * @param {View} view
 */
function searchIndex(view) {
  const { rec } = view;
  if (view.$.index) return view.$.index;
  const out = [];
  const had = new Set();
  const add = (kind, text, k) => {
    const key = `${kind} ${text}`;
    if (had.has(key)) return;
    had.add(key);
    out.push([kind, text, k]);
  };
  rec.story.forEach((scene, i) => out.push(["moment", textOf(view, scene), i]));
  for (const call of rec.calls) {
    if (call.first == null) continue;
    add("function", call.function, call.first);
    for (const name of Object.keys(call.args)) {
      add("variable", `${name} · ${short(call.function)}`, call.first);
    }
    const source = rec.sources[call.source];
    const lines = source?.text.split("\n") || [];
    call.steps.forEach((step, i) => {
      for (const c of step.changes) {
        add("variable", `${c.name} · ${short(call.function)}`, call.at[i]);
      }
      const text = (lines[step.line - source?.first_line] || "").trim();
      if (text) add("line", `${step.line}  ${text}`, call.at[i]);
    });
  }
  const order = ["function", "moment", "variable", "line"];
  out.sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
  return (view.$.index = out);
}

/** @param {View} view */
function showFound(view) {
  const { $ } = view;
  const wanted = $.search.value.trim().toLowerCase();
  if (!wanted) return $.found.replaceChildren();
  const all = searchIndex(view).filter(([, text]) => text.toLowerCase().includes(wanted));
  const made = all.slice(0, FOUND).map(([kind, text, k]) => {
    const told = kind === "moment";
    const to = () => {
      if (!told) return goLines(view, k);
      view.openTab("story"); // at the last moment of the step: several may share it
      view.goScene(k);
    };
    return h(
      "button",
      { type: "button", class: "hit", onclick: to },
      h("span", { class: "soft" }, view.say(`found_${kind}`)),
      h("span", { class: told ? null : "mono" }, text),
      told ? null : h("small", {}, view.say("step_n", k + 1)),
    );
  });
  const count = h("p", { class: "note" }, view.say("found_n", all.length));
  $.found.replaceChildren(count, ...made);
}
