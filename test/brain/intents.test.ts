import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { INTENT_LIMITS, Intents } from "../../src/brain/intents.ts";
import { systemClock } from "../../src/clock.ts";
import { openHashing } from "../../src/embed/embed.ts";
import type { Embedder } from "../../src/embed/embedder.ts";
import { GatewayError } from "../../src/errors.ts";
import { Journal, type JournalEvent } from "../../src/journal/journal.ts";
import { PatientEmbedder } from "../../src/pipeline/embedding.ts";
import { FakeClock } from "../fake-clock.ts";

setDefaultTimeout(120_000);
const WORKER = new URL("../../src/embed/embed.worker.ts", import.meta.url);
const folder = mkdtempSync(join(tmpdir(), "gateway-intents-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function openJournal(path = join(folder, `${files++}.journal`)): Journal {
  return Journal.open({
    path,
    ephemeral: null,
    nowUs: () => Date.now() * 1000,
    randomU32: () => 7,
    bootId: "boot",
  });
}

/** A real embedder under another name. It records what it embeds, and fails on request. */
class Named implements Embedder {
  readonly kind = "local";
  readonly recomputed = false;
  readonly modelId = 1;
  readonly maxBatch = 4;
  readonly #real = openHashing(WORKER);
  embedded: string[] = [];
  failWith: GatewayError | null = null;
  /** It refuses texts that contain this. */
  refuses: string | null = null;

  constructor(readonly name: string) {}

  get dim(): number {
    return this.#real.dim;
  }

  async embed(texts: readonly string[]): Promise<Float32Array> {
    if (this.failWith !== null) throw this.failWith;
    const { refuses } = this;
    if (refuses !== null && texts.some((text) => text.includes(refuses))) throw refusal("embedder_invalid");
    this.embedded.push(...texts);
    return this.#real.embed(texts);
  }

  embedNearest(texts: readonly string[], wanted: readonly boolean[]) {
    return this.#real.embedNearest(texts, wanted);
  }

  setExamples(examples: Parameters<Embedder["setExamples"]>[0]) {
    return this.#real.setExamples(examples);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

function refusal(code: "embedder_invalid" | "embedder_unavailable"): GatewayError {
  return new GatewayError({ code, operation: "embed", object: "test", detail: code });
}

/** Time stands still, so a change never times out before it is in force, however slow the machine is. */
function open(journal: Journal): { intents: Intents; clock: FakeClock; logged: string[] } {
  const logged: string[] = [];
  const clock = new FakeClock();
  const intents = new Intents({ rows: journal.intents, log: (_, line) => logged.push(line), clock });
  return { intents, clock, logged };
}

async function isReady(intents: Intents): Promise<void> {
  const endMs = performance.now() + 60_000;
  while (intents.state.state !== "ready") {
    if (performance.now() > endMs) throw new Error("waited in vain for the examples to be learned");
    await Bun.sleep(2);
  }
}

const CANCEL = ["quero cancelar meu plano", "cancelar plano agora", "como cancelo o plano?"];
const CARD = ["meu cartão não chegou", "onde está meu cartão", "o cartão ainda não chegou"];

async function labelOf(embedder: Embedder, text: string): Promise<string | null> {
  const { nearest } = await embedder.embedNearest([text], [true]);
  return nearest[0]?.label ?? null;
}

const IN_FORCE = { inForce: true };

describe("labelled examples", () => {
  test("are in force when the change resolves, until they are deleted", async () => {
    using journal = openJournal();
    const { intents } = open(journal);
    const embedder = openHashing(WORKER);
    intents.attach(embedder);
    expect(await labelOf(embedder, "quero cancelar o plano")).toBeNull();
    expect(await intents.put("Cancel", CANCEL)).toEqual(IN_FORCE);
    expect(await intents.put("Card", CARD)).toEqual(IN_FORCE);
    expect(await labelOf(embedder, "quero cancelar o plano")).toBe("Cancel");
    expect(await labelOf(embedder, "meu cartão não chegou ainda")).toBe("Card");
    expect(await labelOf(embedder, "bom dia, tudo bem com vocês?")).toBeNull();
    expect(intents.list().map(({ label }) => label)).toEqual(["Cancel", "Card"]);
    expect(intents.state).toMatchObject({ state: "ready", labels: 2, examples: 6 });
    expect(await intents.delete("Card")).toEqual(IN_FORCE);
    expect(await labelOf(embedder, "meu cartão não chegou ainda")).not.toBe("Card");
    expect(await intents.delete("Card")).toBeNull();
    expect(await intents.delete("Cancel")).toEqual(IN_FORCE);
    expect(await labelOf(embedder, "quero cancelar meu plano")).toBeNull();
    expect(intents.state.calibration).toBeNull();
    intents.stop();
  });

  test("survive a restart with their vectors, and are embedded again for another model", async () => {
    const path = join(folder, "restart.journal");
    {
      using journal = openJournal(path);
      const { intents } = open(journal);
      const first = new Named("model-1");
      intents.attach(first);
      await intents.put("Cancel", CANCEL);
      await intents.put("Card", CARD);
      // Each text once, although the second label made the learner start again with all of them.
      expect(first.embedded.sort()).toEqual([...CANCEL, ...CARD].sort());
      intents.stop();
    }
    using journal = openJournal(path);
    const again = open(journal).intents;
    expect(again.list().flatMap(({ examples }) => examples)).toEqual([...CANCEL, ...CARD]);
    const same = new Named("model-1");
    again.attach(same);
    await isReady(again);
    expect(same.embedded).toEqual([]);
    expect(await labelOf(same, "cancelar o plano")).toBe("Cancel");
    again.stop();
    const other = new Named("model-2");
    const third = open(journal).intents;
    third.attach(other);
    await isReady(third);
    expect(other.embedded.length).toBe(6);
    third.stop();
  });

  test("wait for an embedder that is away, and those that were in force stay in force", async () => {
    using journal = openJournal();
    const { intents, clock, logged } = open(journal);
    const embedder = new Named("model");
    intents.attach(embedder);
    await intents.put("Cancel", CANCEL);
    embedder.failWith = refusal("embedder_unavailable");
    expect(await intents.put("Card", CARD)).toEqual({ inForce: false });
    expect(intents.state).toMatchObject({ state: "waiting", labels: 2 });
    expect(logged.length).toBe(1);
    expect(await labelOf(embedder, "cancelar o plano")).toBe("Cancel");
    embedder.failWith = null;
    await clock.advance(500);
    await isReady(intents);
    expect(await labelOf(embedder, "meu cartão não chegou ainda")).toBe("Card");
    intents.stop();
  });

  test("are left out and counted if the embedder refuses them or they hold nothing to embed", async () => {
    using journal = openJournal();
    const { intents } = open(journal);
    const embedder = new Named("model");
    embedder.refuses = "poison";
    intents.attach(embedder);
    expect(await intents.put("Cancel", [...CANCEL, "poison", "?!"])).toEqual(IN_FORCE);
    expect(intents.state.withoutVector).toBe(2);
    expect(await labelOf(embedder, "cancelar o plano")).toBe("Cancel");
    intents.stop();
  });

  test("are kept without an embedder, but are not in force", async () => {
    using journal = openJournal();
    const { intents } = open(journal);
    expect(await intents.put("Cancel", CANCEL)).toEqual({ inForce: false });
    expect(journal.intents.texts().length).toBe(3);
    intents.stop();
  });

  test("are bounded, and a text belongs to one label only", async () => {
    using journal = openJournal();
    const { intents } = open(journal);
    const many = (count: number, from = 0) =>
      Array.from({ length: count }, (_, at) => `example ${from + at}`);
    expect(await intents.put("a", [" x ", "x", ""])).toEqual({ inForce: false });
    expect(intents.get("a")?.examples).toEqual(["x"]);
    expect(await intents.put("b", ["  "])).toEqual({ refused: "the examples hold no text" });
    expect(await intents.put("b", ["y", "x"])).toEqual({
      refused: 'the example "x" already belongs to "a"',
    });
    const full = INTENT_LIMITS.examplesMax - 1;
    expect(await intents.put("all", many(full))).toEqual({ inForce: false });
    expect(await intents.put("more", many(1, full))).toEqual({
      refused: "all labels together would have 10001 examples; at most 10000 are allowed",
    });
    // A change that replaces examples of its own label has room.
    expect(await intents.put("a", ["z"])).toEqual({ inForce: false });
    await intents.delete("all");
    for (let label = 1; label < INTENT_LIMITS.labelsMax; label++)
      await intents.put(`l${label}`, [`t${label}`]);
    expect(await intents.put("one more", ["t"])).toEqual({
      refused: "there are already 1000 labels, which is the maximum",
    });
    intents.stop();
  });
});

test("the pipeline gets the nearest examples with the vectors of a batch, for messages without a given intent", async () => {
  using journal = openJournal();
  const { intents } = open(journal);
  const embedder = new Named("model");
  intents.attach(embedder);
  await intents.put("Cancel", CANCEL);
  await intents.put("Card", CARD);
  const textOf = (message: string | null) => message ?? "note: quero cancelar meu plano";
  const patient = new PatientEmbedder(embedder, { textOf, clock: systemClock, log: () => {} });
  const event = (message: string | null, fields: JournalEvent["fields"] = null) =>
    ({ message, fields, body: new Uint8Array(0) }) as JournalEvent;
  const events = [
    event("quero cancelar o plano"),
    event(""),
    event("quero cancelar o plano", { intent: "Given" }),
    event(null),
    event("meu cartão não chegou ainda"),
  ];
  const embedded = await patient.embed(events);
  expect(embedded?.present).toEqual([true, false, true, true, true]);
  expect(embedded?.nearest.map((one) => one?.label ?? null)).toEqual(["Cancel", null, null, null, "Card"]);
  for (const one of embedded?.nearest ?? []) {
    if (one === null) continue;
    expect(one.score).toBeGreaterThan(intents.state.calibration?.threshold ?? 1);
    expect(one.confidence).toBeGreaterThan(0.5);
  }
  intents.stop();
});
