/** The journal on real files: what is acknowledged is kept, once, in order, whatever happens. */

import { Database } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { GatewayError } from "../../src/errors.ts";
import type { ParsedEvent } from "../../src/event/event.ts";
import { PHYSICS_BYTES } from "../../src/frame.ts";
import {
  type AppendResult,
  type DecidedFrame,
  EventsGone,
  eventId,
  Journal,
  type JournalEvent,
  type JournalOptions,
} from "../../src/journal/journal.ts";

const HOUR_US = 3600 * 1e6;
const DAY_US = 24 * HOUR_US;
const NOW_US = 1_790_000_000_123_456;
const FROM = { source: "ingest", receivedUs: NOW_US };

const root = mkdtempSync(join(tmpdir(), "journal-test-"));
const disk = join(root, "small-disk");
mkdirSync(disk);
const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk]).exitCode === 0;
afterAll(() => {
  if (mounted) Bun.spawnSync(["umount", "-l", disk]);
  rmSync(root, { recursive: true, force: true });
});

let folders = 0;
function newPath(): string {
  const folder = join(root, String(folders++));
  mkdirSync(folder);
  return join(folder, "events.duckdb.journal");
}

function openAt(path: string, options: Partial<JournalOptions> = {}): Journal {
  return Journal.open({
    path,
    ephemeral: null,
    nowUs: () => NOW_US,
    randomU32: () => 0xfedc_ba98,
    bootId: "boot",
    ...options,
  });
}

function event(fields: Partial<ParsedEvent> = {}): ParsedEvent {
  return {
    body: new TextEncoder().encode('{"message":"olá"}'),
    id: null,
    key: null,
    type: null,
    message: null,
    conversationId: null,
    timestampUs: null,
    fields: null,
    ignoredFields: 0,
    ...fields,
  };
}

function keyed(...keys: string[]): ParsedEvent[] {
  return keys.map((key) => event({ key }));
}

function frame(seq: number, fields: Partial<DecidedFrame> = {}): DecidedFrame {
  const physics = new Uint8Array(PHYSICS_BYTES).fill(seq);
  return {
    seq,
    decidedUs: NOW_US + seq,
    physics,
    vector: null,
    eventType: null,
    intent: null,
    provenance: "{}",
    ...fields,
  };
}

function frames(...seqs: number[]): DecidedFrame[] {
  return seqs.map((seq) => frame(seq));
}

async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => expect.unreachable("it should have been refused"),
    (error: unknown) => error,
  );
}

function refusal(open: () => unknown): GatewayError {
  try {
    open();
  } catch (error) {
    if (error instanceof GatewayError) return error;
    throw error;
  }
  return expect.unreachable("it should have been refused");
}

/** A read-only look from outside, as the store has it. */
function looking<T>(path: string, look: (database: Database) => T): T {
  const database = new Database(path, { readonly: true });
  try {
    return look(database);
  } finally {
    database.close();
  }
}

function rowsOf(path: string, sql: string): unknown[][] {
  return looking(path, (database) => database.prepare(sql).values());
}

/**
 * As where a checkpoint had copied page 1, with the new number of pages at byte 28, and not yet the
 * others.
 */
function claimMorePages(path: string): void {
  const bytes = readFileSync(path);
  bytes.writeUInt32BE(bytes.readUInt32BE(28) + 10, 28);
  writeFileSync(path, bytes);
}

const seqsOf = (results: readonly { seq: number }[]): number[] => results.map(({ seq }) => seq);

describe("appending", () => {
  test("an event comes back as it was given", async () => {
    using journal = openAt(newPath());
    const given = event({
      body: new Uint8Array([123, 0xc3, 0xa9, 125]),
      id: "their-id",
      type: "T\u0000ype",
      message: "olá \u{1f600} \u0000 end",
      conversationId: "c-1",
      timestampUs: 1_700_000_000_000_001,
      fields: { actor: 2, sentiment: -0.5, intent: "buy" },
    });
    expect(await journal.append([given], FROM)).toEqual([{ seq: 1, id: "their-id", duplicate: false }]);
    const { key: _, ignoredFields: __, ...kept } = given;
    expect(journal.eventsAt([1, 2])).toEqual([{ seq: 1, receivedUs: NOW_US, ...kept, id: "their-id" }, null]);
    expect(journal.headSeq()).toBe(1);
  });

  test("an id that nobody gave is a UUIDv7 of receipt, journal and seq alone", async () => {
    using journal = openAt(newPath());
    const results = await journal.append([event(), event()], FROM);
    expect(results.map(({ id }) => id)).toEqual([
      eventId(NOW_US, journal.journalId, 1),
      eventId(NOW_US, journal.journalId, 2),
    ]);
    const [first = "", second = ""] = results.map(({ id }) => id);
    for (const id of [first, second])
      expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(Number.parseInt(first.replaceAll("-", "").slice(0, 12), 16)).toBe(Math.floor(NOW_US / 1000));
    expect(second > first).toBe(true);
    expect(eventId(NOW_US, 0xffff_ffff, 2 ** 52 + 5)).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  });

  test("calls of one turn share one commit, are told in order of seq and before their promises resolve", async () => {
    using journal = openAt(newPath());
    const told: string[] = [];
    journal.onCommitted = ({ events }) => {
      expect(journal.headSeq()).toBe(3);
      told.push(`committed ${seqsOf(events)}`);
    };
    const calls = [[event()], [event(), event()]].map((events) =>
      journal.append(events, FROM).then((results) => told.push(`answered ${seqsOf(results)}`)),
    );
    expect(journal.headSeq()).toBe(0);
    await Promise.all(calls);
    expect(told).toEqual(["committed 1,2,3", "answered 1", "answered 2,3"]);
  });

  test("a group is bounded: what is beyond goes to the next one", async () => {
    using journal = openAt(newPath());
    const groups: number[] = [];
    journal.onCommitted = ({ events }) => groups.push(events.length);
    const batch = new Array<ParsedEvent>(1500).fill(event());
    const results = await Promise.all([1, 2, 3, 4].map(() => journal.append(batch, FROM)));
    expect(groups).toEqual([3000, 3000]);
    expect(seqsOf(results.flat())).toEqual(Array.from({ length: 6000 }, (_, index) => index + 1));
  });

  test("a listener that throws takes nobody's acknowledgement away", async () => {
    const path = newPath();
    const script = `
      import { Journal } from ${JSON.stringify(join(import.meta.dir, "../../src/journal/journal.ts"))};
      const journal = Journal.open({ path: ${JSON.stringify(path)}, ephemeral: null, nowUs: () => 1, randomU32: () => 1, bootId: "b" });
      process.on("uncaughtException", (error) => console.log("uncaught", error.message));
      journal.onCommitted = () => { throw new Error("a bug elsewhere"); };
      const body = new TextEncoder().encode("{}");
      const event = { body, id: null, key: null, type: null, message: null, conversationId: null, timestampUs: null, fields: null };
      console.log("acknowledged", (await journal.append([event], { source: "s", receivedUs: 1 }))[0].seq);
      journal[Symbol.dispose]();`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
    const output = await new Response(child.stdout).text();
    expect(output.trim().split("\n").sort()).toEqual(["acknowledged 1", "uncaught a bug elsewhere"]);
  });

  test("a row that is refused fails its own call, not the group", async () => {
    using journal = openAt(newPath());
    const good = journal.append(keyed("a"), FROM);
    const bad = failureOf(
      journal.append([event(), event({ key: "b", fields: { actor: 1n as never } })], FROM),
    );
    const other = failureOf(journal.append([event({ key: "b" })], { ...FROM, source: null as never }));
    const last = journal.append([event(), event({ key: "b" })], FROM);
    expect(seqsOf(await good)).toEqual([1]);
    expect(String(await bad)).toContain("BigInt");
    expect(String(await other)).toContain("NOT NULL");
    expect((await last).map(({ seq, duplicate }) => [seq, duplicate])).toEqual([
      [2, false],
      [3, false],
    ]);
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([1, 2, 3]);
  });

  test("what waits is committed when the journal is closed, and later calls are refused", async () => {
    const path = newPath();
    const journal = openAt(path);
    const waiting = [journal.append([event()], FROM), journal.append([event()], FROM)];
    journal[Symbol.dispose]();
    journal[Symbol.dispose]();
    expect((await Promise.all(waiting)).flat().map(({ seq }) => seq)).toEqual([1, 2]);
    expect(await failureOf(journal.append([event()], FROM))).toMatchObject({ code: "journal_failed" });
    expect(readdirSync(join(path, ".."))).toEqual(["events.duckdb.journal"]);
    using again = openAt(path);
    expect(again.headSeq()).toBe(2);
  });
});

describe("keys", () => {
  test("of two with one key in one group the second is a duplicate of the first", async () => {
    using journal = openAt(newPath());
    const stored: number[] = [];
    journal.onCommitted = ({ events }) => stored.push(...seqsOf(events));
    const [one, two] = await Promise.all([
      journal.append([event({ key: "k" }), event(), event({ key: "k" })], FROM),
      journal.append([event({ key: "k", id: "own" }), event({ key: "l" })], FROM),
    ]);
    const first = eventId(NOW_US, journal.journalId, 1);
    expect(one).toMatchObject([{ seq: 1, id: first }, { seq: 2 }, { seq: 1, id: first, duplicate: true }]);
    expect(two).toMatchObject([
      { seq: 1, id: "own", duplicate: true },
      { seq: 3, duplicate: false },
    ]);
    expect(stored).toEqual([1, 2, 3]);
    expect(rowsOf(journal.path, "SELECT seq FROM events")).toHaveLength(3);
  });

  test("a key belongs to its source", async () => {
    using journal = openAt(newPath());
    await journal.append(keyed("k"), FROM);
    expect(await journal.append(keyed("k"), { ...FROM, source: "other" })).toMatchObject([
      { seq: 2, duplicate: false },
    ]);
  });

  test("a repeat is told the first one's id, also of a sender's, also after a restart and after pruning", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event({ key: "given", id: "sender-1" }), event({ key: "made" })], FROM);
      await journal.decide(frames(1, 2));
      const repeat = await journal.append(keyed("given", "made"), { ...FROM, receivedUs: NOW_US + HOUR_US });
      expect(repeat).toMatchObject([
        { seq: 1, id: "sender-1", duplicate: true },
        { seq: 2, duplicate: true },
      ]);
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 0 })).toBe(2);
    }
    using journal = openAt(path);
    const [repeat] = await journal.append(keyed("made"), { ...FROM, receivedUs: NOW_US + DAY_US });
    expect(repeat).toEqual({ seq: 2, id: eventId(NOW_US, journal.journalId, 2), duplicate: true });
    const own = await journal.append([event({ key: "given", id: "sender-1" })], FROM);
    expect(own).toEqual([{ seq: 1, id: "sender-1", duplicate: true }]);
  });

  test("a key counts for 8 days from its first event, then makes a new one", async () => {
    using journal = openAt(newPath());
    const at = async (days: number): Promise<AppendResult[]> =>
      journal.append(keyed("k"), { ...FROM, receivedUs: NOW_US + days * DAY_US });
    expect(await at(0)).toMatchObject([{ seq: 1, duplicate: false }]);
    expect(await at(8)).toMatchObject([{ seq: 1, duplicate: true }]);
    expect(await at(8.01)).toMatchObject([{ seq: 2, duplicate: false }]);
    expect(await at(16)).toMatchObject([{ seq: 2, duplicate: true }]);
  });

  test("keys are found in memory, on their way to the table and in it, over restarts at any point", async () => {
    const path = newPath();
    const total = 100 * 60;
    const keysInMemoryMax = 1800;
    const keys = Array.from({ length: total }, (_, index) => `k${index}`);
    let journal = openAt(path, { keysInMemoryMax });
    let roundsMoving = 0;
    for (let from = 0; from < total; from += 60) {
      const fresh = await journal.append(keyed(...keys.slice(from, from + 60)), FROM);
      expect(seqsOf(fresh)).toEqual(Array.from({ length: 60 }, (_, index) => from + index + 1));
      const [[logged = 0, moved = 0] = []] = rowsOf(
        path,
        "SELECT (SELECT sum(length(entries)) / 32 FROM dedup_log), (SELECT count(*) FROM dedup)",
      ) as number[][];
      // What was moved stays in the log until all of it was.
      const moving = logged + moved > from + 60;
      if (moving) roundsMoving += 1;
      if ((moving && roundsMoving <= 4) || from % 660 === 0) {
        journal[Symbol.dispose]();
        journal = openAt(path, { keysInMemoryMax });
      }
      const old = keys.filter((_, index) => index < from + 60 && index % 17 === 0);
      const again = await journal.append(keyed(...old), FROM);
      expect(again.every(({ duplicate, seq }, index) => duplicate && seq === index * 17 + 1)).toBe(true);
    }
    expect(roundsMoving).toBeGreaterThan(4);
    expect(rowsOf(path, "SELECT count(*) FROM dedup")[0]?.[0]).toBeGreaterThan(3000);
    expect(rowsOf(path, "SELECT sum(length(entries)) / 32 FROM dedup_log")[0]?.[0]).toBeLessThan(
      2 * keysInMemoryMax,
    );
    journal[Symbol.dispose]();
  });

  test("of a key that was used again after its window, the newer use counts, wherever both are", async () => {
    using journal = openAt(newPath(), { keysInMemoryMax: 2 });
    const at = (days: number, ...keys: string[]): Promise<AppendResult[]> =>
      journal.append(keyed(...keys), { ...FROM, receivedUs: NOW_US + days * DAY_US });
    await at(0, "k", "a");
    await at(0, "b", "c");
    const [second] = await at(9, "k", "d");
    expect(second).toMatchObject({ seq: 5, duplicate: false });
    await at(9, "e", "f");
    await at(9, "g", "h");
    expect(rowsOf(journal.path, "SELECT seq FROM dedup WHERE seq IN (1, 5) ORDER BY seq")).toEqual([
      [1],
      [5],
    ]);
    expect(await at(10, "k")).toMatchObject([{ seq: 5, duplicate: true }]);
  });

  test("keys past their window are forgotten in small steps, younger ones are not", async () => {
    const path = newPath();
    let nowUs = NOW_US;
    using journal = openAt(path, { keysInMemoryMax: 200, nowUs: () => nowUs });
    const fill = async (day: number): Promise<void> => {
      for (let part = 0; part < 10; part++) {
        const keys = Array.from({ length: 100 }, (_, index) => `${day}/${part}/${index}`);
        await journal.append(keyed(...keys), { ...FROM, receivedUs: NOW_US + day * DAY_US });
      }
    };
    for (const day of [0, 5, 10]) await fill(day);
    const stored = (): number => rowsOf(path, "SELECT count(*) FROM dedup")[0]?.[0] as number;
    const before = stored();
    expect(journal.pruneKeys(300)).toBe(0);
    nowUs = NOW_US + 12 * DAY_US;
    let removed = 0;
    for (;;) {
      const step = journal.pruneKeys(300);
      if (step === 0) break;
      expect(step).toBeLessThanOrEqual(300);
      removed += step;
    }
    expect(removed).toBeGreaterThan(500);
    expect(stored()).toBe(before - removed);
    const young = await journal.append(keyed("5/0/0", "5/9/99", "10/3/3"), {
      ...FROM,
      receivedUs: NOW_US + 10 * DAY_US,
    });
    expect(young.map(({ duplicate }) => duplicate)).toEqual([true, true, true]);
  });
});

describe("frames", () => {
  test("a frame comes back as it was decided", async () => {
    using journal = openAt(newPath());
    await journal.append([event(), event()], FROM);
    const wide = new Float32Array([9, 0.25, -1, Number.MIN_VALUE, 7]);
    const decided = frame(1, {
      vector: wide.subarray(1, 4),
      eventType: "T",
      intent: "buy",
      provenance: '{"a":1}',
    });
    expect(await journal.decide([decided, frame(2)])).toBe(1);
    expect(journal.framesFrom(1, 10)).toEqual([
      { frameId: 1, ...decided, vector: wide.slice(1, 4) },
      { frameId: 2, ...frame(2) },
    ]);
    expect(journal.frameOf(2)?.frameId).toBe(2);
    expect(journal.frameOf(3)).toBeNull();
    expect(journal.nextFrameId()).toBe(3);
  });

  test("ids are dense in the order of calls, and a refused call leaves no gap", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append(new Array(6).fill(event()), FROM);
      const calls = await Promise.allSettled([
        journal.decide(frames(3, 1)),
        journal.decide(frames(2, 99)),
        journal.decide(frames(3)),
        journal.decide([frame(4), frame(5, { provenance: null as never })]),
        journal.decide(frames(6)),
      ]);
      expect(
        calls.map((call) => (call.status === "fulfilled" ? call.value : String(call.reason.message))),
      ).toEqual([
        1,
        expect.stringContaining("the first is 99"),
        expect.stringContaining("has its frame already"),
        expect.stringContaining("NOT NULL"),
        3,
      ]);
      expect((calls[1] as PromiseRejectedResult).reason).toBeInstanceOf(EventsGone);
      expect((calls[1] as PromiseRejectedResult).reason.seqs).toEqual([99]);
    }
    using journal = openAt(path);
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([2, 4, 5]);
    expect(await journal.decide(frames(2, 4, 5))).toBe(4);
    expect(journal.framesFrom(1, 10).map(({ frameId, seq }) => [frameId, seq])).toEqual([
      [1, 3],
      [2, 1],
      [3, 6],
      [4, 2],
      [5, 4],
      [6, 5],
    ]);
  });

  test("an event twice in one call is refused", async () => {
    using journal = openAt(newPath());
    await journal.append([event()], FROM);
    expect(String(await failureOf(journal.decide(frames(1, 1))))).toContain("already");
    expect(journal.nextFrameId()).toBe(1);
  });

  test("unframed events are found above a number, in order, also where frames came out of order", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append(new Array(1000).fill(event()), FROM);
      await journal.decide(
        frames(...Array.from({ length: 998 }, (_, index) => index + 1).filter((seq) => seq !== 3)),
      );
      expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([3, 999, 1000]);
      expect(seqsOf(journal.unframedAfter(0, 2))).toEqual([3, 999]);
      expect(seqsOf(journal.unframedAfter(3, 10))).toEqual([999, 1000]);
      // The frames above 3 leave while event 3 still waits.
      expect(journal.prune({ seq: 500, frameId: 400, answerId: 0 })).toBe(400);
    }
    using journal = openAt(path);
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([3, 999, 1000]);
    await journal.decide(frames(3));
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([999, 1000]);
    await journal.decide(frames(1000, 999));
    expect(journal.unframedAfter(0, 10)).toEqual([]);
    expect(rowsOf(path, "SELECT value FROM meta WHERE key = 'journal.framed_to'")).toEqual([["1000"]]);
  });

  test("conversations are told by frame, with the event's own time where it has one", async () => {
    using journal = openAt(newPath());
    await journal.append(
      [
        event({ conversationId: "a" }),
        event(),
        event({ conversationId: "b", timestampUs: 5 }),
        event({ conversationId: "a" }),
      ],
      FROM,
    );
    await journal.decide(frames(3, 1, 2, 4));
    const all = [
      { frameId: 1, conversationId: "b", timestampUs: 5, decidedUs: NOW_US + 3 },
      { frameId: 2, conversationId: "a", timestampUs: NOW_US, decidedUs: NOW_US + 1 },
      { frameId: 4, conversationId: "a", timestampUs: NOW_US, decidedUs: NOW_US + 4 },
    ];
    expect(journal.recentConversations(10)).toEqual(all);
    expect(journal.recentConversations(2)).toEqual(all.slice(1));
    expect(journal.recentConversations(2, 0)).toEqual(all.slice(0, 2));
    expect(journal.recentConversations(2, 2)).toEqual(all.slice(2));
  });
});

describe("pruning", () => {
  test("an event leaves with its frame, oldest frame first, up to the first that does not qualify", async () => {
    using journal = openAt(newPath());
    await journal.append(new Array(6).fill(event()), FROM);
    await journal.decide(frames(2, 1, 5, 3));
    expect(journal.prune({ seq: 4, frameId: 4, answerId: 0 })).toBe(2);
    expect(journal.pruned()).toEqual({ seq: 2, frameId: 2, answerId: 0 });
    expect(journal.framesFrom(0, 9).map(({ seq }) => seq)).toEqual([5, 3]);
    expect(journal.eventsAt([1, 2, 3, 4, 5, 6]).map((found) => found !== null)).toEqual([
      false,
      false,
      true,
      true,
      true,
      true,
    ]);
    expect(journal.backlog().events).toBe(4);
    expect(journal.prune({ seq: 9, frameId: 3, answerId: 0 }, 1000)).toBe(1);
    expect(journal.prune({ seq: 9, frameId: 9, answerId: 0 }, 1)).toBe(1);
    expect(journal.prune({ seq: 9, frameId: 9, answerId: 0 })).toBe(0);
    expect(seqsOf(journal.unframedAfter(0, 9))).toEqual([4, 6]);
    expect(journal.pruned()).toEqual({ seq: 5, frameId: 4, answerId: 0 });
  });

  test("an event whose newest answer is not held yet stays, and one that goes takes its answers along", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event(), event()], FROM);
      await journal.decide(frames(1, 2));
    }
    const database = new Database(path);
    const insert = database.prepare(
      "INSERT INTO answers(seq, decided_us, physics, provenance) VALUES (?, 1, x'00', '{}')",
    );
    for (const seq of [1, 2, 1]) insert.run(seq);
    database.close(true);
    using journal = openAt(path);
    expect(journal.prune({ seq: 2, frameId: 2, answerId: 2 })).toBe(0);
    expect(journal.prune({ seq: 2, frameId: 2, answerId: 3 }, 1)).toBe(1);
    expect(rowsOf(path, "SELECT answer_id, seq FROM answers")).toEqual([[2, 2]]);
    expect(journal.pruned()).toEqual({ seq: 1, frameId: 1, answerId: 3 });
  });

  test("numbers are never used again, also where the journal was pruned empty and restarted", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event(), event()], FROM);
      await journal.decide(frames(2, 1));
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 0 })).toBe(2);
      expect(journal.backlog().events).toBe(0);
    }
    using journal = openAt(path);
    expect([journal.headSeq(), journal.nextFrameId(), journal.backlog().events]).toEqual([2, 3, 0]);
    expect(journal.pruned()).toEqual({ seq: 2, frameId: 2, answerId: 0 });
    expect(seqsOf(await journal.append([event()], FROM))).toEqual([3]);
    expect(await journal.decide(frames(3))).toBe(3);
  });

  test("pruning between an append and its commit disturbs neither", async () => {
    using journal = openAt(newPath());
    await journal.append([event(), event()], FROM);
    await journal.decide(frames(1, 2));
    const waiting = journal.append([event()], FROM);
    expect(journal.prune({ seq: 2, frameId: 2, answerId: 0 })).toBe(2);
    journal.setMeta("embedder", "x");
    expect(seqsOf(await waiting)).toEqual([3]);
  });
});

describe("settings", () => {
  test("id, boot, settings, labels and opening attempts outlive the process", () => {
    const path = newPath();
    {
      using journal = openAt(path, { randomU32: () => 0 });
      expect([journal.journalId, journal.sameBoot]).toEqual([1, false]);
      journal.setMeta("embedder", "hashing");
      journal.setMeta("embedder", "bge");
      journal.raiseOpenAttempts();
      journal.raiseOpenAttempts();
      journal.addLabels([
        { kind: "type", id: 2, label: "B", dim: 0 },
        { kind: "model", id: 0xffff_ffff, label: "m", dim: 1024 },
      ]);
      journal.addLabels([{ kind: "type", id: 2, label: "another", dim: 0 }]);
    }
    using journal = openAt(path, { randomU32: () => 9 });
    expect([journal.journalId, journal.sameBoot, journal.meta("embedder"), journal.meta("none")]).toEqual([
      1,
      true,
      "bge",
      null,
    ]);
    expect(journal.openAttempts()).toBe(2);
    journal.clearOpenAttempts();
    expect(journal.openAttempts()).toBe(0);
    expect(journal.labels()).toEqual([
      { kind: "model", id: 0xffff_ffff, label: "m", dim: 1024 },
      { kind: "type", id: 2, label: "B", dim: 0 },
    ]);
    journal[Symbol.dispose]();
    using later = openAt(path, { bootId: "next boot" });
    expect(later.sameBoot).toBe(false);
  });
});

describe("the file", () => {
  test("is private, and so is its WAL", async () => {
    const path = newPath();
    const before = process.umask(0);
    try {
      using journal = openAt(path);
      await journal.append([event()], FROM);
      for (const suffix of ["", "-wal", "-shm"]) expect(statSync(path + suffix).mode & 0o777).toBe(0o600);
    } finally {
      process.umask(before);
    }
  });

  const strangers: Record<string, (path: string) => void> = {
    garbage: (path) => writeFileSync(path, randomBytes(5000)),
    "a short text": (path) => writeFileSync(path, "dear diary"),
    "an empty file": (path) => writeFileSync(path, ""),
    "another program's SQLite file": (path) => {
      const database = new Database(path);
      database.run("PRAGMA journal_mode = WAL");
      database.run("CREATE TABLE events(seq INTEGER PRIMARY KEY, body BLOB)");
      database.close(true);
    },
    "another program's SQLite file with a WAL": (path) => {
      const from = `${path}.other`;
      const database = new Database(from);
      database.run("PRAGMA journal_mode = WAL");
      database.run("CREATE TABLE t(a)");
      for (const suffix of ["", "-wal"]) copyFileSync(from + suffix, path + suffix);
      database.close(true);
    },
    "another program's SQLite file, killed in a checkpoint,": (path) => {
      const from = `${path}.other`;
      const database = new Database(from);
      database.run("PRAGMA journal_mode = WAL");
      database.run("CREATE TABLE t(a)");
      for (const suffix of ["", "-wal"]) copyFileSync(from + suffix, path + suffix);
      database.close(true);
      claimMorePages(path);
    },
    "a journal of a later version": (path) => {
      openAt(path)[Symbol.dispose]();
      const database = new Database(path);
      database.run("PRAGMA user_version = 2");
      database.close(true);
    },
    "a temporary journal": (path) => openAt(path, { ephemeral: { limitBytes: 1e8 } })[Symbol.dispose](),
  };
  for (const [name, make] of Object.entries(strangers)) {
    test(`${name} is refused by name and left as it was`, () => {
      const path = newPath();
      make(path);
      const files = (): string[] =>
        readdirSync(join(path, "..")).map(
          (file) =>
            `${file} ${createHash("sha256")
              .update(readFileSync(join(path, "..", file)))
              .digest("hex")}`,
        );
      const before = files();
      for (const ephemeral of [null, { limitBytes: 1e8 }]) {
        const error = refusal(() => openAt(path, { ephemeral }));
        expect(error.code).toBe("foreign_journal");
        expect(error.message).toContain(path);
      }
      expect(files()).toEqual(before);
    });
  }

  test("the WAL of a journal that is gone is not played into a new one", async () => {
    const path = newPath();
    const elsewhere = newPath();
    using journal = openAt(elsewhere);
    await journal.append([event()], FROM);
    copyFileSync(`${elsewhere}-wal`, `${path}-wal`);
    expect(refusal(() => openAt(path)).code).toBe("journal_missing");
    expect(existsSync(path)).toBe(false);
  });

  test("a file that a kill left shorter than its header says is opened with its WAL", async () => {
    const path = newPath();
    const image = newPath();
    using journal = openAt(path);
    await journal.append(new Array(500).fill(event({ message: "x".repeat(200) })), FROM);
    for (const suffix of ["", "-wal"]) copyFileSync(path + suffix, image + suffix);
    claimMorePages(image);
    using left = openAt(image);
    expect([left.headSeq(), left.journalId]).toEqual([500, journal.journalId]);
    expect(left.eventsAt([500])[0]?.message).toBe("x".repeat(200));
  });

  test("a creation that was cut short leaves nothing that is in the way", () => {
    const path = newPath();
    writeFileSync(`${path}.new`, randomBytes(4096));
    writeFileSync(`${path}.new-journal`, randomBytes(512));
    openAt(path)[Symbol.dispose]();
    expect(readdirSync(join(path, ".."))).toEqual(["events.duckdb.journal"]);
  });

  test("a folder that is not there is a failure with its name", () => {
    const error = refusal(() => openAt(join(root, "no", "such", "journal")));
    expect([error.code, error.object]).toEqual(["journal_failed", join(root, "no", "such", "journal")]);
  });

  test("a reader beside it sees what is committed, in one snapshot, and holds nothing up", async () => {
    using journal = openAt(newPath());
    await journal.append([event()], FROM);
    const reader = new Database(journal.path, { readonly: true });
    reader.run("BEGIN");
    const count = (): unknown => reader.prepare("SELECT count(*) FROM events").values()[0]?.[0];
    expect(count()).toBe(1);
    await journal.append([event()], FROM);
    expect(count()).toBe(1);
    reader.run("COMMIT");
    expect(count()).toBe(2);
    reader.close();
  });
});

describe("a temporary journal", () => {
  const LIMIT = 8_000_000;
  const bytesOf = (path: string): number =>
    ["", "-wal"].reduce(
      (sum, suffix) => sum + (statSync(path + suffix, { throwIfNoEntry: false })?.size ?? 0),
      0,
    );
  const openTemporary = (path = newPath()): Journal => openAt(path, { ephemeral: { limitBytes: LIMIT } });

  test("never refuses and never grows beyond its bound; the newest are there, the oldest are counted as dropped", async () => {
    using journal = openTemporary();
    const batch = (from: number): ParsedEvent[] =>
      Array.from({ length: 500 }, (_, index) => event({ key: `k${from + index}`, message: "x".repeat(60) }));
    const total = 150_000;
    let largest = 0;
    for (let from = 0; from < total; from += 500) {
      await journal.append(batch(from), FROM);
      if (from % 2500 === 0) largest = Math.max(largest, bytesOf(journal.path));
    }
    expect(largest).toBeLessThanOrEqual(LIMIT);
    expect(largest).toBeGreaterThan(LIMIT / 3);
    const { events } = journal.backlog();
    expect(journal.headSeq()).toBe(total);
    expect(events).toBeGreaterThan(8000);
    expect(journal.dropped()).toBe(total - events);
    expect(journal.unframedAfter(0, 1)[0]?.seq).toBe(total - events + 1);
    expect(journal.eventsAt([total])[0]?.seq).toBe(total);
    const columns = "min(seq), max(seq), count(*)";
    expect(rowsOf(journal.path, `SELECT ${columns} FROM events`)).toEqual([
      [total - events + 1, total, events],
    ]);
    // The newest keys are known, the oldest are forgotten.
    expect(await journal.append(batch(total - 500), FROM)).toMatchObject(
      new Array(500).fill({ duplicate: true }),
    );
    expect(await journal.append(batch(0), FROM)).toMatchObject(new Array(500).fill({ duplicate: false }));
  }, 20_000);

  test("events larger than their share of the bound are kept within it, too", async () => {
    using journal = openTemporary();
    const body = new Uint8Array(400_000).fill(120);
    for (let index = 0; index < 60; index++) {
      await journal.append([event({ body })], FROM);
      expect(bytesOf(journal.path)).toBeLessThanOrEqual(LIMIT);
    }
    expect(journal.eventsAt([60])[0]?.body.byteLength).toBe(400_000);
  });

  test("text that takes more bytes than characters does not deceive the bound", async () => {
    using journal = openTemporary();
    const given = event({ message: "\u5b57".repeat(20_000) });
    for (let index = 0; index < 300; index++) {
      await journal.append([given], FROM);
      expect(bytesOf(journal.path)).toBeLessThanOrEqual(LIMIT);
    }
    expect(journal.eventsAt([300])[0]?.message).toBe(given.message);
  });

  test("frames are read and pruned by their ids where an older event was decided after a newer one", async () => {
    using journal = openTemporary();
    const body = new Uint8Array(10_000).fill(120);
    for (let index = 0; index < 300; index++) {
      await journal.append([event({ body, conversationId: "c" })], FROM);
    }
    expect(journal.backlog().events).toBe(300);
    const count = (table: string): unknown => rowsOf(journal.path, `SELECT count(*) FROM ${table}`)[0]?.[0];
    expect([count("events_a"), count("events_b"), count("events_c"), count("events_d")]).not.toContain(300);
    for (const seq of [300, 1, 299, 2]) await journal.decide(frames(seq));
    expect(seqsOf(journal.framesFrom(1, 9))).toEqual([300, 1, 299, 2]);
    expect(seqsOf(journal.framesFrom(1, 1))).toEqual([300]);
    expect(journal.recentConversations(2).map(({ frameId }) => frameId)).toEqual([3, 4]);
    expect(journal.recentConversations(2, 1).map(({ frameId }) => frameId)).toEqual([2, 3]);
    expect(journal.prune({ seq: 300, frameId: 9, answerId: 0 }, 1)).toBe(1);
    expect(journal.prune({ seq: 200, frameId: 9, answerId: 0 })).toBe(1);
    expect(seqsOf(journal.framesFrom(1, 9))).toEqual([299, 2]);
  });

  test("frames go with their events, readers see both by their plain names, and ids go on", async () => {
    using journal = openTemporary();
    let framed = 0;
    while (journal.backlog().events === journal.headSeq()) {
      const results = await journal.append(
        new Array(400).fill(event({ conversationId: "c", message: "x".repeat(100) })),
        FROM,
      );
      // The first of each batch waits; the newer half is decided before the older one.
      const seqs = seqsOf(results).slice(1);
      await journal.decide(frames(...seqs.slice(200), ...seqs.slice(0, 200)));
      framed += seqs.length;
    }
    const gone = journal.headSeq() - journal.backlog().events;
    expect(journal.dropped()).toBe(gone / 400);
    expect(journal.nextFrameId()).toBe(framed + 1);
    const orphans = "SELECT count(*) FROM frames WHERE seq NOT IN (SELECT seq FROM events)";
    expect(rowsOf(journal.path, orphans)).toEqual([[0]]);
    expect(rowsOf(journal.path, "SELECT max(frame_id), count(*) FROM frames")[0]).toEqual([
      framed,
      framed - (gone * 399) / 400,
    ]);
    const kept = journal.framesFrom(0, 1_000_000);
    expect(kept.map(({ frameId }) => frameId)).toEqual(
      Array.from({ length: kept.length }, (_, index) => framed - kept.length + 1 + index),
    );
    expect(journal.recentConversations(5).map(({ frameId }) => frameId)).toEqual(
      [-4, -3, -2, -1, 0].map((back) => framed + back),
    );
    expect(seqsOf(journal.unframedAfter(0, 3))).toEqual([1, 401, 801].map((seq) => gone + seq));
    const dropped = await failureOf(journal.decide(frames(1, gone + 1)));
    expect(dropped).toBeInstanceOf(EventsGone);
    expect((dropped as EventsGone).seqs).toEqual([1]);
    expect(journal.nextFrameId()).toBe(framed + 1);
    const first = kept[0]?.frameId ?? 0;
    expect(journal.prune({ seq: journal.headSeq(), frameId: first + 9, answerId: 0 })).toBe(10);
    expect(journal.framesFrom(0, 1)[0]?.frameId).toBe(first + 10);
  });
});

describe("failures", () => {
  test("everything that a killed process acknowledged is there afterwards, once", async () => {
    const path = newPath();
    const said = new Map<string, number>();
    const framed = new Map<number, number>();
    for (let round = 0; round < 4; round++) {
      const script = Bun.fileURLToPath(import.meta.resolve("../fixtures/journal/append-forever.ts"));
      const child = Bun.spawn([process.execPath, script, path, String(round * 1_000_000)], {
        stdout: "pipe",
        stderr: "inherit",
      });
      let text = "";
      const enough = 300 + 170 * round;
      for await (const chunk of child.stdout) {
        text += new TextDecoder().decode(chunk);
        if (text.length > 15 * enough) child.kill("SIGKILL");
      }
      await child.exited;
      const lines = text.slice(0, text.lastIndexOf("\n")).split("\n");
      expect(lines.length).toBeGreaterThan(enough / 2);
      for (const [key = "", seq, frameId] of lines.map((line) => line.split(" "))) {
        if (key === "frame") framed.set(Number(seq), Number(frameId));
        else said.set(key, Number(seq));
      }
      using journal = openAt(path, { keysInMemoryMax: 64 });
      const events = journal.eventsAt([...said.values()]);
      [...said.keys()].forEach((key, index) => {
        expect(JSON.parse(new TextDecoder().decode(events[index]?.body)).key).toBe(key);
      });
      for (const [seq, frameId] of framed) expect(journal.frameOf(seq)?.frameId).toBe(frameId);
      expect(journal.framesFrom(1, 1e6).map(({ frameId }) => frameId)).toEqual(
        Array.from({ length: journal.nextFrameId() - 1 }, (_, index) => index + 1),
      );
      const again = await journal.append(keyed(...said.keys()), { ...FROM, receivedUs: Date.now() * 1000 });
      expect(again.map(({ seq, duplicate }) => (duplicate ? seq : -1))).toEqual([...said.values()]);
    }
  }, 20_000);

  test.skipIf(!mounted)(
    "a full disk refuses whole calls, loses nothing and leaves no gap; it goes on when there is room (needs root)",
    async () => {
      const path = join(disk, "journal");
      const ballast = join(disk, "ballast");
      writeFileSync(ballast, new Uint8Array(3_000_000));
      let journal = openAt(path, { keysInMemoryMax: 16 });
      const known = new Map<string, number>();
      let head = 0;
      journal.onCommitted = ({ events }) => {
        for (const { seq } of events) expect(seq).toBe(++head);
      };
      let frameId = 0;
      const body = new Uint8Array(2000).fill(120);
      const put = async (name: string): Promise<unknown> => {
        const keys = [1, 2, 3, 4, 5].map((part) => `${name}/${part}`);
        const framing = head > frameId ? journal.decide(frames(frameId + 1)) : null;
        const appending = journal.append(
          keys.map((key) => event({ key, body })),
          FROM,
        );
        const [decided, appended] = await Promise.allSettled([framing, appending]);
        if (decided.status === "fulfilled" && decided.value !== null) expect(decided.value).toBe(++frameId);
        if (appended.status === "rejected") return appended.reason;
        keys.forEach((key, index) => {
          known.set(key, appended.value[index]?.seq ?? 0);
        });
        return null;
      };
      for (let round = 0; round < 2; round++) {
        let refused = 0;
        for (let index = 0; refused < 5; index++) {
          const error = await put(`${round}-${index}`);
          if (error === null) continue;
          expect(error).toBeInstanceOf(GatewayError);
          expect((error as GatewayError).code).toBe("disk_full");
          expect(journal.headSeq()).toBe(head);
          refused += 1;
        }
        const full = refusal(() => {
          for (let index = 0; ; index++) journal.setMeta(`${index}`, "x".repeat(4000));
        });
        expect(full.code).toBe("disk_full");
        if (round === 0) {
          writeFileSync(ballast, new Uint8Array(1_000_000));
          expect(await put("with room again")).toBeNull();
        }
      }
      rmSync(ballast);
      journal[Symbol.dispose]();
      journal = openAt(path, { keysInMemoryMax: 16 });
      journal.onCommitted = () => {};
      expect([journal.headSeq(), journal.nextFrameId()]).toEqual([head, frameId + 1]);
      expect(known.size).toBe(head);
      const again = await journal.append(keyed(...known.keys()), FROM);
      expect(again.map(({ seq, duplicate }) => (duplicate ? seq : -1))).toEqual([...known.values()]);
      journal[Symbol.dispose]();
    },
    20_000,
  );
});

/** What the journal promises, without a disk. */
class Model {
  readonly events = new Map<number, JournalEvent>();
  readonly frames = new Map<number, number>();
  readonly keys = new Map<string, { seq: number; receivedUs: number }>();
  head = 0;
  nextFrameId = 1;
  pruned = { seq: 0, frameId: 0, answerId: 0 };

  append(
    events: readonly ParsedEvent[],
    o: { source: string; receivedUs: number },
  ): { seq: number; duplicate: boolean }[] {
    return events.map(({ key }) => {
      const scoped = `${o.source} ${key}`;
      const first = key === null ? undefined : this.keys.get(scoped);
      if (first !== undefined && first.receivedUs >= o.receivedUs - 8 * DAY_US)
        return { seq: first.seq, duplicate: true };
      this.head += 1;
      if (key !== null) this.keys.set(scoped, { seq: this.head, receivedUs: o.receivedUs });
      this.events.set(this.head, { seq: this.head } as JournalEvent);
      return { seq: this.head, duplicate: false };
    });
  }

  unframed(): number[] {
    const framed = new Set(this.frames.values());
    return [...this.events.keys()].filter((seq) => !framed.has(seq));
  }

  prune(seqMax: number, frameIdMax: number, max: number): number {
    let removed = 0;
    for (const [frameId, seq] of [...this.frames]) {
      if (removed === max || frameId > frameIdMax || seq > seqMax) break;
      this.frames.delete(frameId);
      this.events.delete(seq);
      this.pruned = { seq: Math.max(this.pruned.seq, seq), frameId, answerId: 0 };
      removed += 1;
    }
    return removed;
  }
}

type Command =
  | { do: "append"; calls: { keys: (number | null)[]; source: string }[]; hours: number }
  | { do: "decide"; picks: number[]; again: boolean }
  | { do: "prune"; seq: number; frameId: number; max: number }
  | { do: "forget keys" }
  | { do: "restart" };

const commands: fc.Arbitrary<Command[]> = fc.array(
  fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        do: fc.constant("append" as const),
        calls: fc.array(
          fc.record({
            keys: fc.array(fc.option(fc.nat(60)), { maxLength: 12 }),
            source: fc.constantFrom("a", "b"),
          }),
          { minLength: 1, maxLength: 4 },
        ),
        hours: fc.nat(60),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant("decide" as const),
        picks: fc.array(fc.nat(1000), { maxLength: 12 }),
        again: fc.boolean(),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant("prune" as const),
        seq: fc.nat(150),
        frameId: fc.nat(150),
        max: fc.integer({ min: 1, max: 20 }),
      }),
    },
    { weight: 1, arbitrary: fc.constant({ do: "forget keys" as const }) },
    { weight: 1, arbitrary: fc.constant({ do: "restart" as const }) },
  ),
  { maxLength: 40 },
);

test("the journal does what a plain model does, over any commands and restarts", async () => {
  const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
  console.log(`journal model: FC_SEED=${seed}`);
  await fc.assert(
    fc.asyncProperty(commands, async (list) => {
      const path = newPath();
      const model = new Model();
      let receivedUs = NOW_US;
      const options = { keysInMemoryMax: 4, nowUs: () => receivedUs };
      let journal = openAt(path, options);
      try {
        for (const command of list) {
          if (command.do === "append") {
            receivedUs += command.hours * HOUR_US;
            const calls = command.calls.map(({ keys, source }) => ({
              events: keys.map((key) => event({ key: key === null ? null : `k${key}` })),
              options: { source, receivedUs },
            }));
            const results = await Promise.all(
              calls.map(({ events, options }) => journal.append(events, options)),
            );
            const expected = calls.map(({ events, options }) => model.append(events, options));
            expect(results.map((call) => call.map(({ seq, duplicate }) => ({ seq, duplicate })))).toEqual(
              expected,
            );
          } else if (command.do === "decide") {
            const unframed = model.unframed();
            const seqs = [
              ...new Set(command.picks.map((pick) => unframed[pick % Math.max(1, unframed.length)] ?? -1)),
            ];
            const already = [...model.frames.values()][0];
            const bad =
              command.again && already !== undefined ? failureOf(journal.decide(frames(already))) : null;
            if (seqs.includes(-1)) continue;
            const halves = [seqs.slice(0, seqs.length >> 1), seqs.slice(seqs.length >> 1)];
            const ids = await Promise.all(halves.map((half) => journal.decide(frames(...half))));
            await bad;
            halves.forEach((half, index) => {
              expect(ids[index]).toBe(model.nextFrameId);
              for (const seq of half) model.frames.set(model.nextFrameId++, seq);
            });
          } else if (command.do === "prune") {
            const removed = journal.prune(
              { seq: command.seq, frameId: command.frameId, answerId: 0 },
              command.max,
            );
            expect(removed).toBe(model.prune(command.seq, command.frameId, command.max));
          } else if (command.do === "forget keys") {
            journal.pruneKeys(3);
          } else {
            journal[Symbol.dispose]();
            journal = openAt(path, options);
          }
          expect(seqsOf(journal.unframedAfter(0, 1e6))).toEqual(model.unframed());
          expect(journal.framesFrom(0, 1e6).map(({ frameId, seq }) => [frameId, seq])).toEqual([
            ...model.frames,
          ]);
          expect([
            journal.headSeq(),
            journal.nextFrameId(),
            journal.backlog().events,
            journal.pruned(),
          ]).toEqual([model.head, model.nextFrameId, model.events.size, model.pruned]);
        }
      } finally {
        journal[Symbol.dispose]();
        rmSync(join(path, ".."), { recursive: true });
      }
    }),
    { seed, numRuns: 60 },
  );
}, 30_000);
