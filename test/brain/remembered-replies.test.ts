import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RememberedReplies, sameWords } from "../../src/brain/remembered-replies.ts";
import { Journal, type RememberedRow } from "../../src/journal/journal.ts";
import { FakeClock } from "../fake-clock.ts";

setDefaultTimeout(60_000);

/** The journal's rows in memory; fails on request. */
class MemoryRows {
  readonly kept = new Map<string, RememberedRow>();
  /** Rows of each commit that succeeded. */
  readonly commits: number[] = [];
  failWith: Error | null = null;

  answers(): RememberedRow[] {
    return [...this.kept.values()].sort((a, b) => a.said - b.said);
  }

  changeAnswers(put: readonly RememberedRow[], dropped: readonly Uint8Array[]): void {
    if (this.failWith !== null) throw this.failWith;
    for (const key of dropped) this.kept.delete(key.join());
    for (const row of put) this.kept.set(row.key.join(), row);
    this.commits.push(put.length + dropped.length);
  }
}

function open(rows: ConstructorParameters<typeof RememberedReplies>[0]["rows"]) {
  const clock = new FakeClock();
  const failures: unknown[] = [];
  const replies = new RememberedReplies({ rows, failed: (error) => failures.push(error), clock });
  return { replies, clock, failures };
}

const REPLY = { intent: "CancelPlan", sentiment: -0.5, confidence: 0.8, model: "m" };

describe("a remembered reply", () => {
  test("stands for the same words, however they are typed", () => {
    const { replies } = open(new MemoryRows());
    replies.remember("Não, quero cancelar meu plano!", REPLY);
    for (const text of ["nao quero cancelar meu plano", "  NÃO… quero  cancelar «meu» plano. "])
      expect(replies.recall(text)).toEqual(REPLY);
    expect(replies.recall("quero cancelar meu plano")).toBeNull();
    expect(replies.counters).toEqual({ remembered_answers_hits_total: 2 });
  });

  test("does not stand for other words, numbers, questions or faces", () => {
    const different = [
      ["quero cancelar meu plano", "não quero cancelar meu plano"],
      ["quero cancelar meu plano", "quero cancelar meu plano?"],
      ["transferir 100 reais", "transferir 1000 reais"],
      ["transferir 10.5 reais", "transferir 105 reais"],
      ["transferir 10.5 reais", "transferir 10 5 reais"],
      ["saldo -5", "saldo 5"],
      ["ótimo 👍", "ótimo 👎"],
      ["certo :)", "certo :("],
      ["R$ 5", "$ 5"],
      ["!", "?"],
    ] as const;
    for (const [one, other] of different)
      expect([one, sameWords(one) === sameWords(other)]).toEqual([one, false]);
  });

  test("is forgotten when another model has replied", () => {
    const rows = new MemoryRows();
    const { replies } = open(rows);
    replies.remember("quero cancelar", REPLY);
    replies.remember("oi", { ...REPLY, model: "other" });
    replies.flush();
    replies.keepOnly("m");
    expect([replies.recall("oi"), replies.recall("quero cancelar")]).toEqual([null, REPLY]);
    replies.flush();
    expect(rows.kept.size).toBe(1);
  });

  test("is forgotten beyond 10,000 of them, the least recently used first", () => {
    const rows = new MemoryRows();
    const { replies } = open(rows);
    for (let at = 0; at < 10_000; at++) replies.remember(`text ${at}`, REPLY);
    replies.flush();
    expect(replies.recall("text 0")).not.toBeNull();
    replies.remember("one more", REPLY);
    expect(replies.size).toBe(10_000);
    expect(replies.recall("text 1")).toBeNull();
    expect(replies.recall("text 0")).not.toBeNull();
    replies.flush();
    expect(rows.kept.size).toBe(10_000);
  });
});

describe("remembered replies in the journal", () => {
  const folder = mkdtempSync(join(tmpdir(), "gateway-replies-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("survive a restart, without the texts", () => {
    const path = join(folder, "replies.journal");
    const openJournal = (): Journal =>
      Journal.open({ path, ephemeral: null, nowUs: () => 1, randomU32: () => 7, bootId: "boot" });
    {
      using journal = openJournal();
      const { replies } = open(journal.intents);
      replies.remember("quero cancelar", REPLY);
      replies.flush();
      const kept = journal.intents.answers().map(({ answer }) => answer);
      expect(kept).toHaveLength(1);
      expect(kept.join()).not.toContain("quero cancelar");
    }
    using journal = openJournal();
    const { replies } = open(journal.intents);
    expect(replies.recall("Quero cancelar.")).toEqual(REPLY);
    // Its order goes on from what was kept: the next one is the newest after another restart, too.
    replies.remember("oi", REPLY);
    replies.flush();
    expect(journal.intents.answers().map(({ said }) => said)).toEqual([1, 2]);
  });

  test("are written a second after the first of them, in slices of 16 rows", async () => {
    const rows = new MemoryRows();
    const { replies, clock } = open(rows);
    for (let at = 0; at < 40; at++) replies.remember(`text ${at}`, REPLY);
    await clock.advance(999);
    expect(rows.commits).toEqual([]);
    await clock.advance(1);
    expect(rows.commits).toEqual([16]);
    await clock.advance(49);
    expect(rows.commits).toEqual([16]);
    await clock.advance(51);
    expect(rows.commits).toEqual([16, 16, 8]);
    expect([rows.kept.size, clock.pending]).toEqual([40, 0]);
  });

  test("are written in larger slices if many wait, so that their number does not grow for long", async () => {
    const rows = new MemoryRows();
    const { replies, clock } = open(rows);
    for (let at = 0; at < 1000; at++) replies.remember(`text ${at}`, REPLY);
    await clock.advance(1000);
    expect(rows.commits).toEqual([50]);
  });

  test("are written as they are then: a reply that changed once, one that was forgotten not at all", async () => {
    const rows = new MemoryRows();
    const { replies, clock } = open(rows);
    replies.remember("a", REPLY);
    replies.remember("a", { ...REPLY, intent: "Other" });
    replies.remember("b", { ...REPLY, model: "other" });
    replies.keepOnly("m");
    await clock.advance(1000);
    expect([...rows.kept.values()].map(({ answer }) => JSON.parse(answer).intent)).toEqual(["Other"]);
  });

  test("stay in memory if they cannot be written, and are written with the next one", async () => {
    const rows = new MemoryRows();
    const { replies, clock, failures } = open(rows);
    rows.failWith = new Error("disk full");
    replies.remember("a", REPLY);
    await clock.advance(60_000);
    expect([failures, replies.recall("a")]).toEqual([[rows.failWith], REPLY]);
    rows.failWith = null;
    replies.remember("b", REPLY);
    await clock.advance(1000);
    expect(rows.kept.size).toBe(2);
  });

  test("are all written by a flush, which leaves no timer", async () => {
    const rows = new MemoryRows();
    const { replies, clock } = open(rows);
    for (let at = 0; at < 40; at++) replies.remember(`text ${at}`, REPLY);
    replies.flush();
    expect([rows.commits, clock.pending]).toEqual([[40], 0]);
    replies.flush();
    expect(rows.commits).toEqual([40]);
  });
});
