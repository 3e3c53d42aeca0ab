/** Events, rows and journals for the tests of the pipeline's parts. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Understanding } from "../../src/brain/understanding.ts";
import type { Clock } from "../../src/clock.ts";
import { Journal, type JournalEvent } from "../../src/journal/journal.ts";
import { Kinetics } from "../../src/physics.ts";
import { type FrameMakerOptions, makeFrame } from "../../src/pipeline/frames.ts";
import type { Draft, Item } from "../../src/pipeline/work.ts";
import { hashing } from "./simulation/models.ts";

export const UNKNOWN: Understanding = {
  ...{ type: null, typeFrom: null, intent: null, intentFrom: null },
  ...{ confidence: 0, sentiment: null, sentimentFrom: null },
};

export function eventOf(seq: number, o: Partial<JournalEvent> = {}): JournalEvent {
  return {
    ...{ seq, receivedUs: 0, id: `id-${seq}`, type: null, message: `message ${seq}`, conversationId: null },
    ...{ timestampUs: null, fields: null, body: new TextEncoder().encode(`{"n":${seq}}`) },
    ...o,
  };
}

/** An event without a vector. */
export function itemOf(seq: number, question: Item["known"]["question"] = null): Item {
  return { event: eventOf(seq), vector: null, known: { understanding: UNKNOWN, question } };
}

export function makerOf(clock: Clock): FrameMakerOptions {
  return {
    kinetics: new Kinetics({}),
    spin: () => [1, 0, 0, 0],
    journalId: 7,
    checksums: false,
    clock,
    schemas: { observe: () => ({ fillRate: 0 }) },
  };
}

/** Drafts of the frames of events `first` to `last`, with vectors of the hashing embedder unless `bare`. */
export async function draftsOf(
  clock: Clock,
  first: number,
  last: number,
  o: { bare?: boolean } = {},
): Promise<Draft[]> {
  const maker = makerOf(clock);
  const drafts: Draft[] = [];
  for (let seq = first; seq <= last; seq++) {
    const item = itemOf(seq);
    const row = await hashing.embed([item.event.message ?? ""]);
    const known = o.bare === true ? item : { ...item, vector: { embedder: hashing, row } };
    drafts.push(makeFrame(known, clock.nowUs(), maker));
  }
  return drafts;
}

/** A journal on the disk that holds events 1 to `events`, as those of {@link eventOf}. */
export async function openJournal(clock: Clock, events: number): Promise<Journal & Disposable> {
  const folder = mkdtempSync(join(tmpdir(), "pipeline-test-"));
  const journal = Journal.open({
    path: join(folder, "journal"),
    ephemeral: null,
    nowUs: () => clock.nowUs(),
    randomU32: () => 7,
    bootId: "boot",
  });
  const close = journal[Symbol.dispose].bind(journal);
  journal[Symbol.dispose] = () => {
    close();
    rmSync(folder, { recursive: true, force: true });
  };
  const parsed = Array.from({ length: events }, (_, index) => {
    const { body, message } = eventOf(index + 1);
    const rest = {
      id: null,
      key: null,
      dedupByBody: false,
      type: null,
      conversationId: null,
      timestampUs: null,
    };
    return { ...rest, body, message, fields: null, ignoredFields: 0 };
  });
  await journal.append(parsed, { source: "", receivedUs: clock.nowUs() });
  return journal;
}

/** The value of a promise, or what it rejected with, once the clock has moved far enough; null: neither yet. */
export function outcomeOf<T>(promise: Promise<T>): { value: T | null; error: unknown; settled: boolean } {
  const outcome: { value: T | null; error: unknown; settled: boolean } = {
    value: null,
    error: null,
    settled: false,
  };
  promise.then(
    (value) => Object.assign(outcome, { value, settled: true }),
    (error: unknown) => Object.assign(outcome, { error, settled: true }),
  );
  return outcome;
}
