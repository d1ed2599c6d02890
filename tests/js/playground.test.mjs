// The model of the playground, without a browser. `tests/views/test_playground.py` hands over what PyTorch
// computed, in a file that PLAYGROUND_CASES names; without it only what needs no weights is tried.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { sharesOf } from "../../peft_viz/views/static/play/heat.js";
import { Llama } from "../../peft_viz/views/static/play/llama.js";
import { Memory } from "../../peft_viz/views/static/play/memory.js";
import { half, unpackTensors } from "../../peft_viz/views/static/play/packed.js";
import { PHRASES } from "../../peft_viz/views/static/play/phrases.js";
import { rotate } from "../../peft_viz/views/static/play/rope.js";
import { likeliest, place, run } from "../../peft_viz/views/static/play/run.js";
import {
  addressOf,
  BEGINNING,
  namesState,
  stateOf,
} from "../../peft_viz/views/static/play/state.js";
import { TASKS } from "../../peft_viz/views/static/play/tasks.js";
import { linear, rmsNorm, softmax } from "../../peft_viz/views/static/play/tensors.js";
import { Tokens } from "../../peft_viz/views/static/play/tokens.js";

const near = (a, b, by = 1e-6) => assert.ok(Math.abs(a - b) <= by, `${a} is not near ${b}`);

test("half precision: ordinary, small, infinite and no numbers", () => {
  const bits = [0x3c00, 0xc000, 0x3555, 0x0001, 0x8000, 0x7c00, 0xfc00, 0x03ff];
  const numbers = [1, -2, 0.333251953125, 2 ** -24, -0, Infinity, -Infinity, 1023 * 2 ** -24];
  bits.forEach((x, i) => assert.ok(Object.is(half(x), numbers[i]), `${x}`));
  assert.ok(Number.isNaN(half(0x7e00)));
});

test("tensors: a product, a norm, shares", () => {
  const x = Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10);
  const weight = Float32Array.of(1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0);
  assert.deepEqual([...linear(x, 2, weight, 3)], [6, 15, 6, 16, 40, 16]);
  const normed = rmsNorm(Float32Array.of(3, 4), 1, Float32Array.of(1, 2), 0);
  near(normed[0], 3 / Math.sqrt(12.5));
  near(normed[1], 8 / Math.sqrt(12.5));
  assert.deepEqual([...softmax(Float32Array.of(0, 0, -Infinity))], [0.5, 0.5, 0]);
  assert.deepEqual([...softmax(Float32Array.of(-Infinity, -Infinity))], [0, 0]);
});

test("rotary positions: a score depends on the distance alone", () => {
  const score = (a, b) => {
    const q = rotate(Float32Array.of(1, 2, 3, 4), [a], 4, 10000);
    const k = rotate(Float32Array.of(4, 3, 2, 1), [b], 4, 10000);
    return q.reduce((sum, x, i) => sum + x * k[i], 0);
  };
  near(score(7, 3), score(14, 10), 1e-4);
  assert.ok(Math.abs(score(7, 3) - score(7, 4)) > 0.1);
  assert.deepEqual([...rotate(Float32Array.of(1, 2), [0], 2, 10000)], [1, 2]);
});

const tokens = new Tokens(["<pad>", "<eos>", "<unk>", "<sort>", "=", "a", "b"]);

test("tokens: letters, names in brackets, what is not known", () => {
  assert.deepEqual(tokens.encode("<sort>ab=é😀<"), [3, 5, 6, 4, 2, 2, 2]);
  assert.equal(tokens.decode([0, 5, 6, 1]), "ab");
});

test("where everything stands: mask and positions", () => {
  const asked = { word: "ab", padding: 2, counted: false, flipped: ["v1", "p0"] };
  const told = (columns, what) => columns.map((c) => c[what]).join(" ");
  const right = place(tokens, asked, 2);
  assert.equal(told(right, "name"), "v0 v1 p0 p1 t0 t1 t2");
  assert.equal(told(right, "seen"), "1 0 1 0 1 1 1");
  assert.equal(told(right, "position"), "0 1 2 2 2 3 4");
  assert.equal(told(place(tokens, { ...asked, counted: true }, 2), "position"), "0 1 2 3 4 5 6");
});

test("an address keeps what was chosen, and nothing that cannot be", () => {
  assert.equal(addressOf(BEGINNING), "");
  const chosen = {
    ...BEGINNING,
    word: "a b&=#%é",
    on: false,
    pad: 3,
    out: ["v1", "t0"],
    off: [0, 2],
  };
  assert.deepEqual(stateOf(`#${addressOf(chosen)}`), chosen);
  const odd =
    "#pad=99&layer=x&method=__proto__&out=v1,zz&constructor=1&word=%E0%A4%A&lang=fr&on=2";
  assert.deepEqual(stateOf(odd), { ...BEGINNING, word: "%E0%A4%A" });
  assert.equal(stateOf("#word=abcdefghijklmnopqrstuvwxyz").word, "abcdefghijkl");
  assert.deepEqual(["#word=", "#pack", "", "word=x"].map(namesState), [true, false, false, true]);
});

test("phrases: both languages say everything, with the same places to fill", () => {
  for (const [name, pair] of Object.entries(PHRASES)) {
    assert.ok(pair.length === 2 && pair.every(Boolean), name);
    const places = pair.map((text) => (text.match(/\{\d\}/g) || []).sort().join());
    assert.equal(places[0], places[1], name);
  }
});

test("attention: one head's, the mean of all, and none; a masked column gets none", () => {
  const shares = [[Float32Array.of(1, 0), Float32Array.of(0.5, 0.5)]];
  const columns = [{ seen: 1 }, { seen: 0 }, { seen: 1 }];
  const answered = { columns, first: 2, rows: [{ shares }] };
  assert.deepEqual([...sharesOf(answered, 0, 1, 0)], [0.5, 0, 0.5]);
  assert.deepEqual([...sharesOf(answered, 0, -1, 0)], [0.75, 0, 0.25]);
  assert.deepEqual([...sharesOf(answered, 0, -1, 5)], []);
});

test("memory: a row is the same one if it stands, sees and is seen the same", () => {
  const memory = new Memory();
  const row = (what, position, before, seen = true) => {
    return memory.row(what, before, seen, { embedding: null, position });
  };
  const first = row("a", 0, []);
  assert.equal(row("a", 0, []), first);
  assert.deepEqual(first.sees, [first]);
  const others = [row("b", 0, []), row("a", 1, []), row("a", 0, [first]), row("a", 0, [], false)];
  assert.equal(new Set([first, ...others]).size, 5);
  assert.deepEqual(others[3].sees, []);
  for (let i = 0; i < 3000; i++) row("c", i, []);
  memory.shrink();
  assert.equal(memory.rows.size, 0);
});

// ---- against PyTorch

const path = process.env.PLAYGROUND_CASES;
const skip = path ? false : "PLAYGROUND_CASES names no file";
const given = path ? JSON.parse(readFileSync(path, "utf-8")) : null;
const model = given && new Llama(given.facts.config, await unpackTensors(given));
const real = given && new Tokens(given.facts.vocabulary);
const answer = (asked) =>
  run(model, real, given.facts, { padding: 0, counted: false, flipped: [], ...asked });

test("logits are PyTorch's, for each column that is seen", { skip }, () => {
  let most = 0;
  for (const { asked, seen, logits } of given.cases) {
    const found = answer(asked);
    const columns = found.columns.slice(found.first, found.asks + 1);
    assert.deepEqual(
      columns.map((c) => c.seen),
      seen,
    );
    logits.forEach((row, i) => {
      const made = found.rows[i].logits;
      if (row) row.forEach((x, j) => (most = Math.max(most, Math.abs(x - made[j]))));
    });
    assert.ok(most < 1e-3, `${JSON.stringify(asked)}: ${most}`);
  }
  console.log(`largest difference ${most}`);
});

test("answers are PyTorch's", { skip }, () => {
  const wrong = given.answers.filter(([asked, text]) => answer(asked).answer !== text);
  assert.deepEqual(wrong, []);
});

const told = ({ columns, rows }) => ({
  columns,
  rows: rows.map(({ logits, shares, sees }) => ({ logits, shares, sees: sees.length })),
});

test("what is known from before is the same, bit by bit, in any order", { skip }, () => {
  const memory = new Memory();
  const asked = given.cases.map((x) => x.asked);
  for (const once of [...asked, ...asked.toReversed()]) {
    const found = run(model, real, given.facts, once, memory);
    assert.deepEqual(told(found), told(answer(once)));
  }
  for (const once of asked) assert.equal(run(model, real, given.facts, once, memory).computed, 0);
});

test("masked padding, not counted: one token to compute, and no other changes", { skip }, () => {
  const memory = new Memory();
  const asked = { word: "pizza", task: "reverse", counted: false, flipped: [] };
  for (const method of ["none", "prompt", "prefix", "lora"]) {
    const ask = (padding) => run(model, real, given.facts, { ...asked, method, padding }, memory);
    const [before, padded] = [ask(0), ask(12)];
    assert.equal(before.computed, before.rows.length);
    assert.equal(padded.computed, 1);
    assert.equal(padded.rows.length, before.rows.length + 12);
    assert.equal(padded.answer, before.answer);
  }
});

test("attention adds up, and what is masked gets none", { skip }, () => {
  const asked = { word: "pizza", task: "reverse", method: "prefix", padding: 2, flipped: ["v1"] };
  const found = answer(asked);
  for (let layer = 0; layer < given.facts.config.num_hidden_layers; layer++) {
    found.rows.forEach((_, query) => {
      const row = sharesOf(found, layer, query % 4, query);
      assert.equal(row.length, found.first + query + 1);
      near(row.reduce((a, b) => a + b, 0), 1, 1e-5);
      row.forEach((share, k) => assert.equal(share > 0, !!found.columns[k].seen));
    });
  }
});

test("the likeliest tokens, and none for what is not read", { skip }, () => {
  const found = answer({ word: "pizza", task: "reverse", method: "prefix" });
  const [first] = likeliest(found, found.asks, 3);
  assert.equal(real.vocabulary[first.id], found.answer[0]);
  assert.deepEqual(likeliest(found, 0, 3), []); // a prefix
  assert.deepEqual(likeliest(found, found.columns.length - 1, 3), []); // the end
});

test("tasks are those of the package", { skip }, () => {
  for (const [task, text, right] of given.tasks) assert.equal(TASKS[task](text), right);
  for (const task of given.facts.tasks) assert.ok(TASKS[task], task);
});
