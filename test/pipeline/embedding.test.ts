/** How long frames wait for an embedder, and which events get no vector. */
import { expect, test } from "bun:test";
import type { Embedder } from "../../src/embed/embedder.ts";
import { GatewayError } from "../../src/errors.ts";
import { PatientEmbedder, textToEmbed, vectorOf } from "../../src/pipeline/embedding.ts";
import { FakeClock } from "../fake-clock.ts";
import { eventOf, outcomeOf } from "./fixtures.ts";
import { DIM, embedderOff, hashing, vectorFor } from "./simulation/models.ts";

function errorOf(code: "embedder_unavailable" | "embedder_invalid", retryAfterMs = 0): GatewayError {
  return new GatewayError({ code, operation: "embed", object: "x", detail: code, retryAfterMs });
}

type Refusal = (
  texts: readonly string[],
  clock: FakeClock,
) => GatewayError | null | Promise<GatewayError | null>;

const bad: Refusal = (texts) =>
  texts.some((text) => text.includes("bad")) ? errorOf("embedder_invalid") : null;

/** An embedder that fails with `failure`, and refuses what `refuse` says: texts with "bad" in them. */
function around(refuse: Refusal = bad) {
  const clock = new FakeClock();
  const state = {
    ...{ failure: null as GatewayError | null, calls: [] as string[][], disposed: false },
    ...{ lines: [] as string[] },
  };
  const embedder: Embedder = {
    ...hashing,
    name: "tested",
    embedNearest: async (texts, wanted) => {
      state.calls.push([...texts]);
      if (state.failure !== null) throw state.failure;
      const refusal = await refuse(texts, clock);
      if (refusal !== null) throw refusal;
      return {
        rows: Float32Array.from(texts.flatMap((text) => [...vectorFor("tested", text)])),
        nearest: wanted.map((one) => (one ? { label: "Near", best: "Near", score: 1, confidence: 1 } : null)),
      };
    },
    [Symbol.asyncDispose]: async () => {
      state.disposed = true;
    },
  };
  const log = (_: string, line: string): void => void state.lines.push(line);
  const patient = new PatientEmbedder(embedder, { textOf: (message) => message ?? "", clock, log });
  return { clock, state, patient };
}

const messages = (...texts: (string | null)[]) =>
  texts.map((message, index) => eventOf(index + 1, { message }));

test("each event gets the vector of its own text; an empty or blank text gets none", async () => {
  const { state, patient } = around();
  const embedded = await patient.embed(messages("one", "", "(blank)", "two"));
  expect(state.calls).toEqual([["one", "(blank)", "two"]]);
  expect(embedded?.present).toEqual([true, false, false, true]);
  expect(vectorOf(embedded, 0)?.row).toEqual(vectorFor("tested", "one"));
  expect([vectorOf(embedded, 1), vectorOf(embedded, 2), vectorOf(null, 0)]).toEqual([null, null, null]);
  expect(vectorOf(embedded, 3)?.row).toEqual(vectorFor("tested", "two"));
  expect(embedded?.dim).toBe(DIM);
});

test("only messages without a given intent ask for the label of the nearest examples", async () => {
  const { patient } = around();
  const events = [
    eventOf(1),
    eventOf(2, { fields: { intent: "Given" } }),
    eventOf(3, { message: null }),
    eventOf(4, { fields: { sentiment: 1 } }),
  ];
  const other = new PatientEmbedder(hashing, {
    textOf: () => "text (example)",
    clock: new FakeClock(),
    log: () => {},
  });
  expect((await patient.embed(events))?.nearest.map((one) => one?.label ?? null)).toEqual([
    "Near",
    null,
    null,
    "Near",
  ]);
  expect((await other.embed(events))?.nearest.map((one) => one !== null)).toEqual([true, false, false, true]);
});

test("nothing is asked for events without a text, nor of an embedder that is off", async () => {
  const { state, patient } = around();
  expect(await patient.embed(messages("", ""))).toBeNull();
  const off = new PatientEmbedder(embedderOff, {
    textOf: () => "text",
    clock: new FakeClock(),
    log: () => {},
  });
  expect([await off.embed(messages("one")), off.state.state, state.calls.length]).toEqual([null, "off", 0]);
});

test("frames wait for an embedder that fails, and get their vectors when it works again", async () => {
  const { clock, state, patient } = around();
  state.failure = errorOf("embedder_unavailable");
  const outcome = outcomeOf(patient.embed(messages("one")));
  await clock.advance(20_000);
  expect([outcome.settled, patient.state.state]).toEqual([false, "degraded"]);
  state.failure = null;
  await clock.advance(5000);
  expect([vectorOf(outcome.value, 0)?.row, patient.state.state]).toEqual([vectorFor("tested", "one"), "ok"]);
});

test("after 30 s of failure frames go out without vectors, and one attempt is made every 5 s", async () => {
  const { clock, state, patient } = around();
  state.failure = errorOf("embedder_unavailable");
  const first = outcomeOf(patient.embed(messages("one")));
  await clock.until(() => first.settled);
  expect(first.value).toBeNull();
  expect(clock.monotonicMs()).toBeGreaterThanOrEqual(30_000);
  expect(clock.monotonicMs()).toBeLessThan(36_000);
  const before = state.calls.length;
  for (let n = 0; n < 10; n++) expect(await patient.embed(messages("two"))).toBeNull();
  expect(state.calls.length).toBe(before);
  await clock.advance(5000);
  state.failure = null;
  expect(vectorOf(await patient.embed(messages("three")), 0)).not.toBeNull();
});

test("a wish to be asked later is granted up to 5 s", async () => {
  const { clock, state, patient } = around();
  state.failure = errorOf("embedder_unavailable", 60_000);
  void patient.embed(messages("one"));
  await clock.advance(4999);
  expect(state.calls).toHaveLength(1);
  await clock.advance(1);
  expect(state.calls).toHaveLength(2);
});

test("in a drain frames do not wait for an embedder that fails", async () => {
  const { clock, state, patient } = around();
  state.failure = errorOf("embedder_unavailable");
  const outcome = outcomeOf(patient.embed(messages("one")));
  await clock.settle();
  patient.hurry();
  await clock.advance(500);
  expect([outcome.settled, outcome.value]).toEqual([true, null]);
});

test("a text that the embedder refuses costs only its own event the vector", async () => {
  const { patient } = around();
  const embedded = await patient.embed(messages("one", "bad", "two", "three", "four"));
  expect(embedded?.present).toEqual([true, false, true, true, true]);
  expect(vectorOf(embedded, 4)?.row).toEqual(vectorFor("tested", "four"));
  expect([patient.counters.embed_refused_texts_total, patient.state.state]).toEqual([1, "ok"]);
});

const FAULTS: readonly (readonly [string, (text: string) => GatewayError])[] = [
  ["a 400, NaN or a wrong dimension", () => errorOf("embedder_invalid")],
  ["a 500, a reset or another failure that may pass", () => errorOf("embedder_unavailable")],
];
for (const [fault, made] of FAULTS) {
  test(`one text that is answered with ${fault} loses its vector within a second, and no other does`, async () => {
    const { clock, state, patient } = around((texts) => (texts.includes("bad") ? made("bad") : null));
    const texts = Array.from({ length: 64 }, (_, index) => (index === 37 ? "bad" : `text ${index}`));
    const outcome = outcomeOf(patient.embed(messages(...texts)));
    await clock.advance(1000);
    expect(outcome.settled).toBe(true);
    expect(outcome.value?.present.flatMap((has, index) => (has ? [] : [index]))).toEqual([37]);
    expect(vectorOf(outcome.value, 38)?.row).toEqual(vectorFor("tested", "text 38"));
    expect([patient.counters.embed_refused_texts_total, patient.state.state]).toEqual([1, "ok"]);
    expect(state.calls.length).toBeLessThan(30);
    expect(state.lines.join()).toMatch(/event 38 gets no vector.* 3 characters/);
  });

  test(`a single text that is answered with ${fault} does not wait for 30 s`, async () => {
    const { clock, patient } = around((texts) => (texts.includes("bad") ? made("bad") : null));
    const outcome = outcomeOf(patient.embed(messages("bad")));
    await clock.advance(1000);
    expect([outcome.settled, outcome.value, patient.state.state]).toEqual([true, null, "ok"]);
  });
}

test("one text that the embedder never answers holds the others back for less than 30 s", async () => {
  const { clock, patient } = around(async (texts, on) => {
    if (!texts.includes("bad")) return null;
    await on.sleep(3000);
    return errorOf("embedder_unavailable");
  });
  const texts = Array.from({ length: 64 }, (_, index) => (index === 5 ? "bad" : `text ${index}`));
  const outcome = outcomeOf(patient.embed(messages(...texts)));
  await clock.advance(20_000);
  expect(outcome.value?.present.filter((has) => !has)).toHaveLength(1);
});

test("two texts that the embedder never answers hold the others back for less than 30 s", async () => {
  const { clock, patient } = around(async (texts, on) => {
    if (!texts.includes("bad")) return null;
    await on.sleep(3000);
    return errorOf("embedder_unavailable");
  });
  const texts = Array.from({ length: 64 }, (_, index) =>
    index === 5 || index === 50 ? "bad" : `text ${index}`,
  );
  const outcome = outcomeOf(patient.embed(messages(...texts)));
  await clock.advance(25_000);
  expect(outcome.value?.present.flatMap((has, index) => (has ? [] : [index]))).toEqual([5, 50]);
});

test("every text of a batch may be refused, if the embedder takes another one", async () => {
  const { clock, patient } = around();
  const outcome = outcomeOf(patient.embed(messages("bad", "bad as well")));
  await clock.advance(1000);
  expect([outcome.settled, outcome.value, patient.state.state]).toEqual([true, null, "ok"]);
  expect(patient.counters.embed_refused_texts_total).toBe(2);
});

test("a text that failed once in bad company keeps its vector", async () => {
  const failed = new Set<string>();
  const { clock, patient } = around((texts) => {
    const first = texts.find((text) => text.includes("once") && !failed.has(`${texts.length} ${text}`));
    if (first !== undefined) failed.add(`${texts.length} ${first}`);
    return first === undefined ? bad(texts, clock) : errorOf("embedder_unavailable");
  });
  const outcome = outcomeOf(patient.embed(messages("bad", "once", "two")));
  await clock.advance(5000);
  expect(outcome.value?.present).toEqual([false, true, true]);
});

test("an embedder that is down is asked by one request at a time, and nothing is split", async () => {
  const { clock, state, patient } = around();
  state.failure = errorOf("embedder_unavailable");
  const texts = Array.from({ length: 64 }, (_, index) => `text ${index}`);
  const outcomes = [outcomeOf(patient.embed(messages(...texts))), outcomeOf(patient.embed(messages("two")))];
  await clock.advance(29_000);
  expect(outcomes.map(({ settled }) => settled)).toEqual([false, false]);
  // Each batch once, and one probe for both of them at a time.
  expect(state.calls.length).toBeLessThan(16);
  expect(state.calls.filter(({ length }) => length > 1)).toHaveLength(1);
  state.failure = null;
  await clock.advance(5000);
  expect(outcomes.map(({ value }) => value?.present.every(Boolean))).toEqual([true, true]);
});

test("an embedder that a text brings down, and that comes back, loses that text alone", async () => {
  let downUntilMs = 0;
  const { clock, patient } = around((texts, on) => {
    if (on.monotonicMs() < downUntilMs) return errorOf("embedder_unavailable");
    if (!texts.includes("bad")) return null;
    downUntilMs = on.monotonicMs() + 700;
    return errorOf("embedder_unavailable");
  });
  const outcome = outcomeOf(patient.embed(messages("one", "two", "bad", "three", "four", "five", "six")));
  await clock.advance(20_000);
  expect(outcome.value?.present).toEqual([true, true, false, true, true, true, true]);
});

test("batches become as small as the embedder takes them, and larger again", async () => {
  const limit = { texts: 10 };
  const { clock, state, patient } = around((texts) =>
    texts.length > limit.texts ? errorOf("embedder_invalid") : null,
  );
  const batch = () => messages(...Array.from({ length: patient.maxBatch }, (_, index) => `text ${index}`));
  const before = patient.maxBatch;
  const outcome = outcomeOf(
    patient.embed(messages(...Array.from({ length: 64 }, (_, index) => `text ${index}`))),
  );
  await clock.advance(1000);
  expect(outcome.value?.present.every(Boolean)).toBe(true);
  expect([patient.maxBatch <= 10, patient.counters.embed_refused_texts_total]).toEqual([true, 0]);
  limit.texts = 1000;
  const calls = state.calls.length;
  for (let n = 0; n < 700; n++) await patient.embed(batch());
  expect([patient.maxBatch, state.calls.length]).toEqual([before, calls + 700]);
});

test("stop ends the waiting and closes the embedder", async () => {
  const { clock, state, patient } = around();
  state.failure = errorOf("embedder_unavailable");
  const outcome = outcomeOf(patient.embed(messages("one")));
  await clock.settle();
  await patient.stop();
  await clock.advance(5000);
  expect([outcome.value, outcome.settled, state.disposed]).toEqual([null, true, true]);
});

test("8,192 UTF-16 units of a text are embedded, without half a character at the end", () => {
  expect(textToEmbed("x".repeat(8192))).toHaveLength(8192);
  const cut = textToEmbed(`${"x".repeat(8191)}😀 and more`);
  expect([cut.length, cut.isWellFormed()]).toEqual([8192, true]);
});
