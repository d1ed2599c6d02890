// What of the page's script needs no browser: `node --test tests/js`, in milliseconds.
import assert from "node:assert/strict";
import { test } from "node:test";
import { align, count, unpack, writtenOut } from "../../peft_viz/views/static/numbers.js";
import { stretches } from "../../peft_viz/views/static/grid.js";
import {
  maskOfRow,
  mayAttend,
  onAxis,
  pairs,
  perKey,
  perQuery,
  pixelEdges,
  shares,
} from "../../peft_viz/views/static/masks.js";
import { colourLines, dedent } from "../../peft_viz/views/static/python.js";
import { unequal } from "../../peft_viz/views/static/compare.js";
import { readHash } from "../../peft_viz/views/static/links.js";
import { madeAt, sheet, tellingRow } from "../../peft_viz/views/static/sheet.js";
import { beginOf } from "../../peft_viz/views/static/cells.js";
import { axis, Recording } from "../../peft_viz/views/static/steps.js";
import { numberText, pythonText, seen, spans, wide } from "../../peft_viz/views/static/text.js";
import { fill, say, WORDS } from "../../peft_viz/views/static/words.js";
import { elsewhere, settingOf } from "../../peft_viz/views/static/ways.js";

const call = (more = {}) => ({
  kind: "peft",
  function: "M.f",
  parent: null,
  source: null,
  args: {},
  steps: [],
  returned: null,
  raised: null,
  attention: [],
  outputs: {},
  ...more,
});
const step = (line, more = {}) => ({ line, branch: null, changes: [], calls: [], ...more });
const recording = (calls, more = {}, layout = {}) => {
  const trace = { about: {}, tokens: {}, values: [], sources: [], calls, ...more };
  return new Recording({ trace, layout });
};
const told = (r) => r.moments.map((m) => `${m.call.id}${m.phase[0]}`).join(" ");

test("numbers: four digits that count, however small", () => {
  const shown = [1.1920929e-7, 0.00045886, 7.53118, 12, NaN].map(numberText);
  assert.deepEqual(shown, ["1.192e-7", "0.0004589", "7.531", "12", "NaN"]);
});

test("texts: white space is seen, joined letters stay joined, nothing turns direction", () => {
  assert.equal(seen(" the"), "␣the");
  assert.equal(seen("the"), "the");
  assert.equal(seen(""), "∅");
  for (const t of [
    "می\u200cرم",
    "क्\u200dष",
    "👩\u200d👧",
    "🏳\ufe0f\u200d🌈",
    "a\u00adb",
    "e\u0301",
  ]) {
    assert.equal(seen(t), t);
  }
  assert.equal(seen("a\u202eb\u0000"), "a·b·");
  for (const t of "\u00ad\u200b\u200d\u2063\u3164\ufe0f\u{e0001}\u{e0041}") {
    assert.equal(seen(t), "·"); // alone it would show nothing
  }
  assert.equal(seen("\ufffd"), "\ufffd"); // broken bytes: only where the token has them
  assert.equal(seen("👩\u200d👧".repeat(4), 3), "👩\u200d👧👩\u200d👧…"); // cut between letters
  assert.equal(seen("a".repeat(100_000), 7), "aaaaaa…");
  assert.equal(wide("a你"), 2.7);
  assert.equal(spans([0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
  assert.deepEqual([null, true, "x", 3].map(pythonText), ["None", "True", "'x'", "3"]);
});

test("words: both languages say everything, with the same places to fill", () => {
  for (const [name, pair] of Object.entries(WORDS)) {
    assert.ok(pair.length === 2 && pair.every(Boolean), name);
    // "{0:token|tokens}" is the place of a word; with a # in it, of the number, too
    const numbers = (t) => (t.match(/\{\d(\}|(?=:[^}]*#))/g) || []).map((x) => x[1]);
    const places = pair.map((t) => [...new Set(numbers(t))].sort().join());
    assert.equal(places[0], places[1], name);
  }
  assert.equal(fill("{1} of {0}", [3, 2]), "2 of 3");
  const grow = "by {0:a one|# ones}, {1} {1:row|rows}";
  assert.equal(fill(grow, [1, 2]), "by a one, 2 rows");
  assert.equal(fill(grow, ["4", 1]), "by 4 ones, 1 row");
});

test("words: with one of everything no word stands in the plural", () => {
  const plural = /\b1 ([a-z–-]+ )?(?!(in|was|is|this|puts|leaves|counts)\b)[a-z]+s\b/;
  for (const [name, [en]] of Object.entries(WORDS)) {
    if (!/\{\d/.test(en)) continue;
    const told = fill(en, Array(6).fill(1));
    assert.ok(!plural.test(told), `${name}: ${told}`);
    assert.ok(!/[#{}|]/.test(told), `${name}: ${told}`);
  }
  assert.equal(say("step_of", 1, 2, 9), "第 2 / 9 步");
});

test("numbers: what a table adds to an earlier one", () => {
  const table = (shape, data) => ({ kind: "tensor", shape, data });
  const given = [
    table([2, 2], { runs: [5, 4] }),
    table([2, 3], { grown: [0, 6, 7] }),
    table([2, 5], { grown: [1, 1, 2, 3, 4] }),
    table([2, 5], { grown: [9, 1, 2] }),
  ];
  const [, second, third, wrong] = writtenOut(given);
  assert.deepEqual(second.data, [5, 5, 6, 5, 5, 7]);
  assert.deepEqual(third.data, [5, 5, 6, 1, 2, 5, 5, 7, 3, 4]);
  assert.ok(wrong.data === null && wrong.truncated);
  assert.deepEqual(writtenOut(given)[2].data, third.data);
});

test("numbers: runs, and files that promise more than there is room for", () => {
  assert.deepEqual(unpack({ runs: [1, 2, 0, 3] }), [1, 1, 0, 0, 0]);
  assert.deepEqual(unpack([4, 5]), [4, 5]);
  assert.equal(unpack(null), null);
  assert.equal(count({ runs: [5, 1e12] }), 1e12);
  assert.equal(unpack({ runs: [5, 1e12] }), null);
  assert.equal(maskOfRow({ shape: [1, 1, 1e7, 1e7], data: { runs: [1, 1e14] } }, 0), null);
});

test("a table that grew in front or behind is laid over the old one", () => {
  const at = (shape) => ({ shape });
  const front = align(at([1, 5]), [1, 1, 0, 7, 8], at([1, 3]), [0, 7, 8]);
  assert.deepEqual([front.padBefore, front.padAfter], [2, 0]);
  assert.deepEqual(
    [0, 1, 2, 3, 4].map((c) => front.fresh(0, c)),
    [true, true, false, false, false],
  );
  const behind = align(at([1, 3]), [7, 8, 9], at([1, 2]), [7, 8]);
  assert.deepEqual([behind.padBefore, behind.fresh(0, 1), behind.fresh(0, 2)], [0, false, true]);
});

/** 1 and 0 for each pair, the queries one after the other. */
const bits = (mask) => {
  const at = Array.from({ length: mask.queries * mask.keys }, (_, i) => i);
  return at.map((i) => +mayAttend(mask, Math.floor(i / mask.keys), i % mask.keys));
};
const causal = (n, behind = 0) => {
  const runs = Array.from({ length: n }, (_, q) => [1, behind + q + 1, 0, n - 1 - q]).flat();
  return maskOfRow({ shape: [1, 1, n, n + behind], data: { runs } }, 0);
};

test("a pixel that shows several pairs is as strong as the share that may attend", () => {
  for (const mask of [causal(9), causal(7, 4), maskOfRow({ shape: [1, 1, 3, 5], data: [0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1] }, 0)]) {
    for (const pixels of [1, 2, 3, 4]) {
      const across = pixelEdges(pixels, mask.keys);
      const down = pixelEdges(2, mask.queries);
      const one = bits(mask);
      for (const py of [0, 1]) {
        const found = shares(mask, down[py], down[py + 1], across);
        found.forEach((share, px) => {
          const inside = one.filter((_, i) => {
            const [q, k] = [Math.floor(i / mask.keys), i % mask.keys];
            return q >= down[py] && q < down[py + 1] && k >= across[px] && k < across[px + 1];
          });
          const expected = inside.reduce((a, b) => a + b, 0) / inside.length;
          assert.ok(Math.abs(share - expected) < 1e-12, `${pixels} ${py} ${px}`);
        });
      }
    }
  }
  const long = causal(32_768, 8); // a billion pairs, kept as 32,768 stretches
  assert.equal(pairs(long), (32_768 * 32_769) / 2 + 8 * 32_768);
  assert.ok(mayAttend(long, 100, 108) && !mayAttend(long, 100, 109));
});

test("a mask is read from its runs: any head, the row asked for, the key axis", () => {
  // two rows, two heads, two queries, three keys
  const flat = [1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0];
  const runs = { runs: flat.flatMap((x) => [x, 1]) };
  for (const data of [flat, runs]) {
    const v = { shape: [2, 2, 2, 3], data };
    assert.deepEqual(bits(maskOfRow(v, 0)), [1, 0, 1, 1, 1, 0]);
    assert.deepEqual(bits(maskOfRow(v, 1)), [0, 0, 0, 1, 1, 1]);
  }
  // one run over both heads and into the next row
  const long = { shape: [2, 2, 1, 3], data: { runs: [0, 4, 1, 4, 0, 4] } };
  assert.deepEqual(bits(maskOfRow(long, 0)), [0, 1, 1]);
  assert.deepEqual(bits(maskOfRow(long, 1)), [1, 1, 0]);
  const mask = maskOfRow({ shape: [1, 1, 2, 3], data: [1, 1, 0, 0, 1, 1] }, 0);
  assert.equal(pairs(mask), 4);
  assert.deepEqual([perQuery(mask), perKey(mask)], [[2, 2], [1, 2, 1]]);
  assert.deepEqual(bits(onAxis(mask, 2)), [1, 1, 0, 1]); // empty slots of a static cache
  assert.deepEqual([onAxis(mask, 5).start, onAxis(mask, 5).keys], [2, 3]); // a sliding window
  assert.deepEqual(bits(maskOfRow({ shape: [1, 1, 1, 0], data: [] }, 0)), []);
  assert.deepEqual(stretches([..."aab"]), [
    [0, 2, "a"],
    [2, 3, "b"],
  ]);
});

test("Python is coloured, and no piece of it is lost", () => {
  const text =
    '    def f(x):  # why\n        return """a\n  b""" + \'c\' if x is None else 1.5\n';
  const lines = colourLines(text);
  assert.equal(lines.map((l) => l.map(([, p]) => p).join("")).join("\n"), text);
  const has = (cls, piece) => lines.flat().some(([c, p]) => c === cls && p === piece);
  assert.ok(has("k", "def") && has("f", "f") && has("c", "# why") && has("n", "None"));
  assert.ok(has("s", '"""a') && has("s", '  b"""') && has("s", "'c'") && has("n", "1.5"));
  const alike = (line) => line.some(([c], i) => i && c === line[i - 1][0]);
  assert.ok(!lines.some(alike)); // what looks alike is one piece
  assert.equal(dedent("    a\n\n      b"), "a\n\n  b");
});

test("moments: a line that calls is two, and what it called lies between", () => {
  const calls = [
    call({ steps: [step(1), step(2, { calls: [1] }), step(3)] }),
    call({ parent: 0 }),
  ];
  assert.equal(told(recording(calls)), "0e 0l 0i 1w 0l 0l");
});

test("moments: calls that claim one another end", () => {
  const n = 40;
  const twice = Array.from({ length: n }, (_, i) =>
    call({
      parent: i ? i - 1 : null,
      steps: [step(1, { calls: i < n - 1 ? [i + 1, i + 1] : [] })],
    }),
  );
  assert.equal(recording(twice).moments.length, 3 * n - 1);
  assert.equal(told(recording([call({ steps: [step(1, { calls: [0] })] })])), "0e 0l");
  const deep = Array.from({ length: 3000 }, (_, i) => call({ parent: i ? i - 1 : null }));
  assert.throws(() => recording(deep), /deep/);
});

test("changes of a tensor and decisions are found, forward and back", () => {
  const values = [
    { kind: "tensor", shape: [1], role: "ids", data: [1] },
    { kind: "scalar", value: 3 },
  ];
  const change = (value) => ({ name: "x", value, before: null, how: "new", aliases: [] });
  const steps = [step(1, { changes: [change(1)] }), step(2, { branch: true })];
  steps.push(step(3, { changes: [change(0)] }), step(4));
  const r = recording([call({ steps })], { values });
  assert.equal(
    r.seek(0, 1, (m) => r.changesTensor(m)),
    3,
  );
  assert.equal(
    r.seek(0, 1, (m) => r.decides(m)),
    2,
  );
  assert.equal(
    r.seek(4, -1, (m) => r.decides(m)),
    2,
  );
  assert.equal(
    r.seek(3, 1, (m) => r.decides(m)),
    null,
  );
});

test("what stands at each column: padding, virtual tokens, what generate wrote last", () => {
  const rows = [{ roles: "vvpttg", ids: [null, null, 0, 4, 5, 6] }];
  const layout = {
    sequences: [{ call: 0, query_start: 5, rows }],
    caches: [{ call: 0, stage: "decode" }],
  };
  const r = recording([call({ kind: "base" })], {}, layout);
  const at = (n) => r.columns({ kind: "tensor", shape: [1, n] }, "x", r.calls[0])?.[0];
  assert.equal(at(6).roles, "vvpttg");
  assert.equal(at(4).roles, "pttg");
  assert.deepEqual(at(4).ids, [0, 4, 5, 6]);
  assert.equal(at(5).roles, "pttgg"); // what generate returns: one token more than the last call got
  assert.equal(at(1).roles, "g");
  assert.equal(at(9), undefined);
  const beside = r.columns({ kind: "tensor", shape: [1, 3] }, "x", null, "011", [7, 8, 9]);
  assert.deepEqual(beside, [{ roles: "ptt", ids: [7, 8, 9] }]); // no base call: from what is beside it
  assert.equal(axis({ rows, query_start: 5 }, 5, false), null);
});

test("virtual tokens behind padding stand in other columns in each row; a finished row gets padding", () => {
  const rows = [
    { roles: "vvtttg", ids: [null, null, 4, 5, 6, 2] },
    { roles: "pvvttg", ids: [0, null, null, 5, 6, 7] },
  ];
  const layout = {
    sequences: [{ call: 0, query_start: 5, rows }],
    caches: [{ call: 0, stage: "decode" }],
  };
  const about = { eos_token_ids: [2] };
  const r = recording([call({ kind: "base" })], { about }, layout);
  const at = (n) =>
    r.columns({ kind: "tensor", shape: [2, n] }, "x", r.calls[0]).map((c) => c.roles);
  assert.deepEqual(at(4), ["tttg", "pttg"]);
  assert.deepEqual(at(5), ["tttgp", "pttgg"]);
});

test("a decoding step is put together from the one before", () => {
  const whole = { roles: "ptt", ids: [0, 4, 5], attended: "011", labels: null, positions: null };
  const added = {
    roles: { keep: 3, add: "g" },
    ids: { keep: 3, add: [6] },
    attended: { keep: 3, add: "1" },
    labels: null,
    positions: [9],
  };
  const sequences = [
    { call: 0, query_start: 0, rows: [whole] },
    { call: 1, query_start: 3, rows: [added], from: 0 },
  ];
  const r = recording([call({ kind: "base" }), call({ kind: "base" })], {}, { sequences });
  assert.deepEqual(r.sequence(1).rows[0], {
    roles: "pttg",
    ids: [0, 4, 5, 6],
    attended: "0111",
    labels: null,
    positions: [9],
  });
  assert.equal(r.sequence(7), null);
});

test("one row of the batch on one grid: what was passed, what was made of it, and when", () => {
  const tensor = (role, shape, data) => ({ kind: "tensor", role, shape, data });
  const values = [
    tensor("ids", [1, 3], [0, 4, 5]),
    tensor("attention_mask", [1, 3], [0, 1, 1]),
    tensor("attention_mask", [1, 5], [1, 1, 0, 1, 1]),
    tensor("embeddings", [1, 5, 8], null),
  ];
  const change = (name, value) => ({ name, value, before: null, how: "rebound", aliases: [] });
  const steps = [
    step(1, { changes: [change("mask", 2)] }),
    step(2, { changes: [change("embeds", 3)] }),
    step(3, { calls: [1] }),
  ];
  const args = { inputs_embeds: 3, attention_mask: 2 };
  const calls = [
    call({ steps, args: { input_ids: 0, attention_mask: 1 } }),
    call({ kind: "base", parent: 0, args }),
  ];
  const row = { roles: "vvptt", ids: [null, null, 0, 4, 5], attended: "11011" };
  const layout = { sequences: [{ call: 1, query_start: 0, rows: [row] }] };
  const r = recording(calls, { values }, layout);
  const [mask, embeds, base] = [1, 2, r.calls[1].first];
  const got = sheet(r, r.calls[1], 0);
  assert.deepEqual(
    got.passed.map((l) => [l.role, l.values]),
    [
      ["ids", [null, null, 0, 4, 5]],
      ["attention_mask", [null, null, 0, 1, 1]],
      ["numbers", [null, null, 0, 4, 5]],
    ],
  );
  const lines = Object.fromEntries(got.reached.map((l) => [l.role, l]));
  assert.deepEqual(lines.ids.born, [embeds, embeds, 0, 0, 0]);
  assert.deepEqual(lines.attention_mask.values, [1, 1, 0, 1, 1]);
  assert.deepEqual(lines.attention_mask.born, [mask, mask, 0, 0, 0]);
  assert.equal(madeAt(r, 99, 0, base), base); // seen nowhere: with the call itself
  assert.equal(tellingRow(r), 0);
  assert.equal(sheet(r, r.calls[1], 7), null);
});

test("what stands in a dictionary that a line made is as old as the dictionary", () => {
  const ids = { kind: "tensor", role: "positions", shape: [1, 2], data: [4, 5] };
  const kwargs = { kind: "mapping", type: "dict", length: 1, items: { position_ids: 0 } };
  const change = { name: "kwargs", value: 1, before: null, how: "rebound", aliases: [] };
  const steps = [step(1), step(2, { changes: [change] }), step(3, { calls: [1] })];
  const calls = [call({ steps }), call({ kind: "base", parent: 0, args: { position_ids: 0 } })];
  const r = recording(calls, { values: [ids, kwargs] }, { sequences: [] });
  assert.equal(madeAt(r, 0, 0, r.calls[1].first), 2); // 0 is the call itself, 1 the first line
});

test("types and weights for the loss stand apart from what the base model got", () => {
  const tensor = (role, shape, data) => ({ kind: "tensor", role, shape, data });
  const values = [
    tensor("ids", [1, 2], [4, 5]),
    tensor("labels", [1, 3], [3, -100, 5]),
    tensor("type_mask", [1, 3], [4, 8, 8]),
    tensor("loss_weights", [1, 2], [0.5, 1]),
    tensor("embeddings", [1, 3, 8], null),
  ];
  const change = (name, value) => ({ name, value, before: null, how: "rebound", aliases: [] });
  const steps = [
    step(1, { changes: [change("cpt_type_mask", 2)] }),
    step(2, { calls: [1] }),
    step(3, { changes: [change("weights", 3)] }),
  ];
  const calls = [
    call({ steps, args: { input_ids: 0 } }),
    call({ kind: "base", parent: 0, args: { inputs_embeds: 4, labels: 1 } }),
  ];
  const row = { roles: "vtt", ids: [null, 4, 5], labels: [3, -100, 5] };
  const r = recording(
    calls,
    { values },
    { sequences: [{ call: 1, query_start: 0, rows: [row] }] },
  );
  const lines = sheet(r, r.calls[1], 0).reached;
  assert.deepEqual(
    lines.filter((l) => l.aside).map((l) => [l.role, l.values]),
    [
      ["type_mask", [4, 8, 8]],
      ["loss_weights", [null, null, 1]], // of each label that counts; the first has none before it
    ],
  );
  const weights = lines.find((l) => l.role === "loss_weights");
  assert.ok(weights.born.every((k) => k > r.calls[1].last)); // not yet there when the model is done
  assert.ok(!lines.some((l) => l.role === "numbers")); // embeddings reached it, no ids
});

test("a decision that went the other way is found in the recording, else in the table", () => {
  const decided = (branch) => call({ source: 0, steps: [step(7, { branch })] });
  const calls = [decided(true), decided(false)];
  const r = recording(calls, {}, {});
  assert.equal(elsewhere(r, r.calls[0], 7, true), r.calls[1].at[0]);
  assert.equal(elsewhere(r, r.calls[0], 8, true), null);
  const one = recording([decided(true)], {}, {});
  assert.equal(elsewhere(one, one.calls[0], 7, true), null);
  assert.equal(settingOf(one, 0, 7, false), null);
  one.payload.ways = { at: { 0: { 7: { false: 3 } } }, settings: { 3: { en: "LoRA" } } };
  assert.equal(settingOf(one, 0, 7, false).en, "LoRA");
  assert.equal(settingOf(one, 0, 7, true), null);
});

test("a story's moments are steps of the recording; those that point nowhere are left out", () => {
  const calls = [
    call({ steps: [step(1), step(2, { calls: [1] })] }),
    call({ kind: "base", parent: 0 }),
  ];
  const told = (kind, id, at) => ({ kind, call: id, step: at, text: { en: kind, zh: kind } });
  const story = [told("given", 0, null), told("grew", 0, 0), told("logits", 1, null)];
  story.push(told("returned", 0, null), told("grew", 9, 0));
  const trace = { about: {}, tokens: {}, values: [], sources: [], calls };
  const r = new Recording({ trace, layout: {}, story });
  assert.deepEqual(
    r.story.map((s) => s.k),
    [0, 0, 1, 3, 4],
  );
  assert.equal(r.sceneAt(2), 2);
  assert.ok(!r.inHelper(r.moments[1]) && r.isInside(r.calls[1], r.calls[0]));
});

test("an address names a moment or a step, a view, a language, a theme", () => {
  assert.deepEqual(readHash("#moment=3&lang=zh&theme=dark"), {
    moment: 3,
    lang: 1,
    theme: "dark",
  });
  assert.deepEqual(readHash("#step=84&view=attention&row=1"), {
    step: 83,
    view: "attention",
    row: 1,
  });
  assert.deepEqual(readHash("#step=-1&theme=red&view=<b>&lang=fr"), {});
});

test("two sheets are compared token by token, virtual token by virtual token", () => {
  const line = (role, values) => ({ role, values, born: [] });
  const of = (roles, ids, mask) => ({
    roles,
    ids,
    start: 0,
    passed: [],
    reached: [line("ids", [...roles]), line("attention_mask", mask)],
  });
  const a = of("vtt", [null, 4, 5], [1, 1, 1]);
  const b = of("vvtt", [null, null, 4, 6], [1, 1, 0, 1]);
  const [inA, inB] = unequal(a, b);
  assert.deepEqual([...inA].sort(), ["attention_mask 1", "ids 2"]);
  assert.deepEqual([...inB].sort(), ["attention_mask 1", "attention_mask 2", "ids 1", "ids 3"]);
  assert.deepEqual(unequal(a, a), [new Set(), new Set()]);
});

test("a long table is drawn from its start, or from where it changed", () => {
  const at = (column) => (row, c) => row === 1 && c >= column;
  assert.equal(beginOf(2, 4096, null), 0);
  assert.equal(beginOf(2, 4096, at(3)), 0);
  assert.equal(beginOf(2, 4096, at(2000)), 1996);
  assert.equal(beginOf(2, 4096, at(4095)), 4056); // the last 40
  assert.equal(beginOf(2, 100, at(99)), 0); // all of it is drawn
  assert.equal(beginOf(2, 4096, () => false), 0);
});
