/** Parts of the pipeline that stand for themselves; what it does as a whole is shown by test/e2e. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Brain, MESSAGE_QUESTION } from "../../src/brain/brain.ts";
import { systemClock } from "../../src/clock.ts";
import { chooseEmbedder, openHashing } from "../../src/embed/embed.ts";
import type { Embedder } from "../../src/embed/embedder.ts";
import { Journal } from "../../src/journal/journal.ts";
import { openLlm } from "../../src/llm/llm.ts";
import { Kinetics } from "../../src/physics.ts";
import { Pipeline } from "../../src/pipeline/pipeline.ts";
import type { Watch } from "../../src/pipeline/snapshot.ts";
import { LlmStub } from "../e2e/llm-stub.ts";
import { FakeClock } from "../fake-clock.ts";
import { Dice } from "./simulation/dice.ts";
import { hashing, LlmDouble } from "./simulation/models.ts";

describe("watch", () => {
  const root = mkdtempSync(join(tmpdir(), "pipeline-test-"));
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  test("a watch hears of events, of their frames, and of updates after the frame", async () => {
    await using stub = await LlmStub.start();
    const nowUs = (): number => Date.now() * 1000;
    const log = (): void => {};
    using journal = Journal.open({
      ...{ path: join(root, "a.journal"), ephemeral: null, nowUs, randomU32: () => 7, bootId: "boot" },
    });
    const llm = openLlm({
      ...{ baseUrl: stub.baseUrl, apiKey: null, model: null, budgetCalls: null, log },
      ...{ trial: MESSAGE_QUESTION, kept: { read: () => null, write: () => {} } },
    });
    const told: unknown[] = [];
    const later = Promise.withResolvers<void>();
    const watch: Watch = {
      committed: (events) => told.push(["committed", ...events.map(({ seq }) => seq)]),
      decided: (firstFrameId, drafts) =>
        told.push(["decided", firstFrameId, ...drafts.map(({ decided }) => decided.intent)]),
      updated: (seq, { type, intent, sentiment }) => {
        told.push(["updated", seq, type, intent, sentiment]);
        later.resolve();
      },
    };
    const workerUrl = new URL("../../src/embed/embed.worker.ts", import.meta.url);
    await using hashing = openHashing(workerUrl);
    const pipeline = new Pipeline({
      ...{
        version: "0",
        journal,
        kinetics: new Kinetics({}),
        spin: () => [0, 0, 0, 1],
        checksums: false,
        hashing,
      },
      schemas: {
        observe: () => ({ fillRate: 0 }),
        preview: () => ({ fillRate: 0 }),
        counters: {},
        gauges: {},
        drift: [],
      },
      textOf: (message) => message ?? "",
      // Neither is needed for a word: frames and answers stand in the journal first.
      openStore: () => new Promise(() => {}),
      openRing: () => new Promise(() => {}),
      openEmbedder: async () => {
        const { embedder } = await chooseEmbedder({
          ...{ choice: "off", recorded: null, modelsDir: root, embeddingModel: "none", endpoint: null },
          ...{ workerUrl, log },
        });
        return embedder;
      },
      brain: new Brain({
        ...{ llm, deadlineMs: 5000, fingerprint: null, excerpt: (body) => new TextDecoder().decode(body) },
        shapes: { all: () => [], write: () => {} },
        replies: { recall: () => null, remember: () => {}, keepOnly: () => {} },
      }),
      ...{ frameWaitMs: 0, reembed: false, otherMetrics: () => ({ counters: {}, gauges: {} }) },
      ...{
        maxBacklogEvents: 1000,
        freeDiskBytes: () => ({ freeBytes: 2, neededBytes: 1 }),
        clock: systemClock,
        log,
      },
      fatal: (error) => later.reject(error),
      watch,
    });
    llm.start();
    pipeline.start();
    const message = "Quero um seguro pro meu carro";
    await journal.append(
      [
        {
          body: new TextEncoder().encode(JSON.stringify({ message })),
          ...{ id: null, key: null, dedupByBody: false, type: null, message, conversationId: null },
          ...{ timestampUs: null, fields: null, ignoredFields: 0 },
        },
      ],
      { source: "", receivedUs: nowUs() },
    );
    await later.promise;
    await llm[Symbol.asyncDispose]();
    await pipeline.close();
    expect(told).toEqual([
      ["committed", 1],
      ["decided", 1, null],
      ["updated", 1, "CarInsuranceRequest", "CarInsuranceRequest", 0.25],
    ]);
  });
});

test("an embedder that opens after the end is closed, and frames nothing", async () => {
  const folder = mkdtempSync(join(tmpdir(), "pipeline-test-"));
  const clock = new FakeClock();
  using journal = Journal.open({
    ...{ path: join(folder, "a.journal"), ephemeral: null, nowUs: () => clock.nowUs(), randomU32: () => 7 },
    bootId: "boot",
  });
  let closes = 0;
  const opened = Promise.withResolvers<Embedder>();
  const pipeline = new Pipeline({
    ...{ version: "0", journal, kinetics: new Kinetics({}), spin: () => [0, 0, 0, 1], checksums: false },
    schemas: {
      observe: () => ({ fillRate: 0 }),
      preview: () => ({ fillRate: 0 }),
      counters: {},
      gauges: {},
      drift: [],
    },
    ...{ textOf: (message) => message ?? "", hashing },
    openStore: () => new Promise(() => {}),
    openRing: () => new Promise(() => {}),
    openEmbedder: () => opened.promise,
    brain: new Brain({
      llm: new LlmDouble({ clock, dice: new Dice(1) }, () => "off"),
      ...{ deadlineMs: 5000, fingerprint: null, excerpt: () => "" },
      shapes: { all: () => [], write: () => {} },
      replies: { recall: () => null, remember: () => {}, keepOnly: () => {} },
    }),
    ...{ frameWaitMs: 0, reembed: true, otherMetrics: () => ({ counters: {}, gauges: {} }) },
    ...{
      maxBacklogEvents: 10,
      freeDiskBytes: () => ({ freeBytes: 2, neededBytes: 1 }),
      clock,
      log: () => {},
    },
    fatal: (error) => opened.reject(error),
  });
  pipeline.start();
  let ended = false;
  const closing = pipeline.close().then(() => {
    ended = true;
  });
  await clock.until(() => ended, 60_000);
  await closing;
  const close = async (): Promise<void> => {
    closes++;
  };
  opened.resolve({ ...hashing, [Symbol.asyncDispose]: close });
  await clock.settle();
  expect([closes, clock.pending]).toEqual([1, 0]);
  rmSync(folder, { recursive: true });
}, 60_000);
