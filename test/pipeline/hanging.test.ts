/** Texts on which an endpoint hangs, endpoints that are slow, and how to tell one from the other. */
import { expect, test } from "bun:test";
import { RemoteEmbedder } from "../../src/embed/remote.ts";
import type { Endpoint, EndpointReply, Limit } from "../../src/llm/endpoint-contract.ts";
import { PatientEmbedder } from "../../src/pipeline/embedding.ts";
import { FakeClock } from "../fake-clock.ts";
import { eventOf, outcomeOf } from "./fixtures.ts";

const DIM = 4;

/** How an endpoint serves a request: resolves when it is answered, or never. */
type Serves = (input: readonly string[], clock: FakeClock, signal: AbortSignal) => Promise<void>;

const FAST_MS = 20;

const hasHanging = (input: readonly string[]): boolean => input.some((text) => text.includes("hang"));
const never = (): Promise<void> => new Promise(() => {});

/** Answers each request after 20 ms, but never one with "hang" in a text. */
const hangs: Serves = (input, clock) => (hasHanging(input) ? never() : clock.sleep(FAST_MS));

/** Like {@link hangs}, but answers requests that arrived at the same time in the same turn of the event loop. */
function hangsInStep(): Serves {
  let step = { startedMs: Number.NaN, served: Promise.resolve() };
  return (input, clock) => {
    if (hasHanging(input)) return never();
    const startedMs = clock.monotonicMs();
    if (step.startedMs !== startedMs) step = { startedMs, served: clock.sleep(FAST_MS) };
    return step.served;
  };
}

/** Serves one request at a time, in order of receipt. Gives up one that the client has left. */
function oneAtATime(msOf: (input: readonly string[]) => number): Serves {
  let before = Promise.resolve();
  return (input, clock, signal) => {
    const left = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
    const served = before.then(() =>
      signal.aborted ? undefined : Promise.race([left, clock.sleep(msOf(input))]),
    );
    before = served;
    return served;
  };
}

/** Serves all requests at once: the more there are, the slower is each. */
function allAtOnce(msOf: (input: readonly string[]) => number): Serves {
  let running = 0;
  return async (input, clock, signal) => {
    running += 1;
    const stepMs = 20;
    for (let workMs = msOf(input); workMs > 0 && !signal.aborted; workMs -= stepMs / running) {
      await clock.sleep(stepMs);
    }
    running -= 1;
  };
}

function endpointWith(serving: { now: Serves }, clock: FakeClock): Endpoint {
  const vector = { embedding: [1, 2, 3, 4] };
  const ended = (limit: Limit): Promise<EndpointReply<never>> =>
    new Promise((resolve) => {
      const failure = { status: null, retryAfterMs: null, cause: null };
      const detail = `no reply within ${limit.ms} ms`;
      const end = () => resolve({ ok: false, failure: { kind: "timeout", detail, ...failure } });
      limit.signal.addEventListener("abort", end);
    });
  return {
    address: "http://endpoint/v1",
    scrub: (text) => text,
    limit: (ms) => {
      const late = new AbortController();
      const timer = clock.after(ms, () => late.abort());
      return { ms, signal: late.signal, [Symbol.dispose]: () => timer[Symbol.dispose]() };
    },
    listModels: () => Promise.reject(new Error("not asked for")),
    embed: async ({ input }, limit) => {
      const served = serving.now(input, clock, limit.signal);
      const data = input.map((_, index) => ({ index, ...vector }));
      return Promise.race([ended(limit), served.then(() => ({ ok: true as const, value: { data } }))]);
    },
  };
}

/** An embedder whose endpoint has served a batch of `usualTexts` short texts in `usualMs`. */
async function opened(usualMs = FAST_MS, usualTexts = 64) {
  const clock = new FakeClock();
  const serving: { now: Serves } = { now: (_, on) => on.sleep(usualMs) };
  const embedder = new RemoteEmbedder({
    ...{ endpoint: endpointWith(serving, clock), name: "bge-m3", dim: DIM, clock },
    worker: () => {
      throw new Error("no example is set");
    },
  });
  const lines: string[] = [];
  const log = (_: string, line: string): void => void lines.push(line);
  const patient = new PatientEmbedder(embedder, { textOf: (message) => message ?? "", clock, log });
  let batches = 0;
  /** Returns how long it took, and which of the texts got no vector. */
  const embed = async (texts: readonly string[]) => {
    batches += 1;
    const events = texts.map((text, index) => eventOf(index + 1, { message: `${text} (${batches})` }));
    const startedMs = clock.monotonicMs();
    let tookMs = Number.NaN;
    const outcome = outcomeOf(
      patient.embed(events).then((embedded) => {
        tookMs = clock.monotonicMs() - startedMs;
        return embedded;
      }),
    );
    await clock.until(() => outcome.settled);
    const present = outcome.value?.present ?? texts.map(() => false);
    return { tookMs, bare: present.flatMap((has, index) => (has ? [] : [index])) };
  };
  await embed(texts(usualTexts));
  return { clock, serving, patient, lines, embed };
}

/** Returns `count` short texts, of which the endpoint hangs on those with an index in `hanging`. */
function texts(count: number, hanging: readonly number[] = []): string[] {
  return Array.from({ length: count }, (_, index) =>
    hanging.includes(index) ? `hang ${index}` : `text ${index}`,
  );
}

const everyThird = (count: number): number[] => Array.from({ length: count }, (_, index) => 3 * index + 1);
const HANGING = {
  "one text": [37],
  "two texts": [5, 50],
  "nine texts": everyThird(9),
  "sixteen texts": everyThird(16),
};
for (const [which, hanging] of Object.entries(HANGING)) {
  test(`if the endpoint hangs on ${which} of 64, the others wait for less than 9 s and keep their vectors`, async () => {
    const { serving, patient, lines, embed } = await opened();
    serving.now = hangs;
    const { tookMs, bare } = await embed(texts(64, hanging));
    expect(bare).toEqual(hanging);
    expect(tookMs).toBeLessThan(9000);
    expect([patient.counters.embed_refused_texts_total, patient.state.state]).toEqual([hanging.length, "ok"]);
    expect(lines.join()).toMatch(/gets no vector.*no reply within 5000 ms/);
  });
}

test("if an endpoint answers many requests in one turn, hanging texts hold the others back for less than 9 s", async () => {
  const { serving, embed } = await opened();
  serving.now = hangsInStep();
  const { tookMs, bare } = await embed(texts(64, [30, 50]));
  expect([bare, tookMs < 9000]).toEqual([[30, 50], true]);
});

test("hanging texts in two batches at once hold the frames back for less than 9 s", async () => {
  const { serving, embed } = await opened();
  serving.now = hangs;
  const both = await Promise.all([embed(texts(64, [5, 50])), embed(texts(64, [7]))]);
  expect(both.map(({ bare }) => bare)).toEqual([[5, 50], [7]]);
  for (const { tookMs } of both) expect(tookMs).toBeLessThan(9000);
});

test("two hanging texts that make up a whole batch hold the frames back for less than 9 s", async () => {
  const { serving, embed } = await opened();
  serving.now = hangs;
  const { tookMs, bare } = await embed(texts(2, [0, 1]));
  expect([bare, tookMs < 9000]).toEqual([[0, 1], true]);
});

test("two long texts that hang among 20 others hold these back for less than 10 s, if only one short message came before", async () => {
  const { serving, embed } = await opened(60, 1);
  serving.now = hangs;
  const long = "a long text on which it will hang ".repeat(220);
  const { tookMs, bare } = await embed([...texts(10), long, ...texts(10), long]);
  expect([bare, tookMs < 10_000]).toEqual([[10, 21], true]);
});

test("64 texts that all hang are given up within 90 s", async () => {
  const { serving, embed } = await opened();
  serving.now = hangs;
  const all = [...Array(64).keys()];
  const { tookMs, bare } = await embed(texts(64, all));
  expect(bare).toEqual(all);
  expect(tookMs).toBeLessThan(90_000);
});

test("an endpoint that serves one request at a time, and hangs until the client leaves, loses the hanging texts alone", async () => {
  const { serving, embed } = await opened();
  serving.now = oneAtATime((input) => (hasHanging(input) ? 1e9 : input.length * 5));
  const { tookMs, bare } = await embed(texts(64, [5, 50]));
  expect([bare, tookMs < 45_000]).toEqual([[5, 50], true]);
});

const LONG = "a long text ".repeat(600);
const mixed = Array.from({ length: 64 }, (_, index) =>
  index % 2 === 0 ? `text ${index}` : `${LONG} ${index}`,
);
const charsOf = (input: readonly string[]): number => input.reduce((sum, text) => sum + text.length, 0);
const SLOW: readonly (readonly [string, Serves, readonly string[]])[] = [
  ["serves one request at a time, 0.2 s a text", oneAtATime((input) => 200 * input.length), texts(64)],
  ["serves one request at a time, 1 s a text", oneAtATime((input) => 1000 * input.length), texts(64)],
  ["serves one request at a time, 2 s a text", oneAtATime((input) => 2000 * input.length), texts(64)],
  ["serves all requests at once, 0.2 s a text", allAtOnce((input) => 200 * input.length), texts(64)],
  ["serves all requests at once, 1 s a text", allAtOnce((input) => 1000 * input.length), texts(64)],
  ["serves all requests at once, 2 s a text", allAtOnce((input) => 2000 * input.length), texts(64)],
  ["takes 8 s for each request", (_, clock) => clock.sleep(8000), texts(64)],
  [
    "takes 2 s for each request and more for each text",
    (input, clock) => clock.sleep(2000 + 100 * input.length),
    texts(64),
  ],
  ["serves one at a time, 1 s a long text", oneAtATime((input) => charsOf(input) / 7), mixed],
  ["serves all at once, 1 s a long text", allAtOnce((input) => charsOf(input) / 7), mixed],
];
for (const [slowness, serves, batch] of SLOW) {
  test(`an endpoint that was fast and now ${slowness} loses no vector`, async () => {
    const { serving, patient, embed } = await opened();
    serving.now = serves;
    expect((await embed(batch)).bare).toEqual([]);
    expect(patient.counters.embed_refused_texts_total).toBe(0);
  });
}

test("an endpoint that loads its model again for 20 s loses no vector", async () => {
  const { clock, serving, patient, embed } = await opened();
  const loadedMs = clock.monotonicMs() + 20_000;
  serving.now = (_, on) => on.sleep(Math.max(0, loadedMs - on.monotonicMs()) + FAST_MS);
  const { bare } = await embed(texts(64));
  expect([bare, patient.counters.embed_refused_texts_total]).toEqual([[], 0]);
});

test("an endpoint that is away is waited for, not asked for each text", async () => {
  const { serving, patient, embed } = await opened();
  let requests = 0;
  serving.now = () => {
    requests += 1;
    return never();
  };
  const { tookMs, bare } = await embed(texts(64));
  expect([bare.length, requests < 5, tookMs >= 30_000, tookMs < 40_000]).toEqual([64, true, true, true]);
  expect([patient.state.state, patient.counters.embed_refused_texts_total]).toEqual(["degraded", 0]);
});

test("an embedder that a text brings down for 20 s at a time loses that text alone", async () => {
  const { serving, embed } = await opened();
  let upMs = 0;
  serving.now = async (input, clock, signal) => {
    if (clock.monotonicMs() < upMs) await clock.sleep(upMs - clock.monotonicMs());
    if (signal.aborted || !hasHanging(input)) return;
    upMs = clock.monotonicMs() + 20_000;
    await never();
  };
  expect((await embed(texts(64, [3]))).bare).toEqual([3]);
});
