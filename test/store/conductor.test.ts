/** The conductor beside a real DuckDB, with a clock that stands still unless a test moves it. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Conductor } from "../../src/store/conductor.ts";
import type { FromWorker } from "../../src/store/protocol.ts";
import { FakeClock } from "../fake-clock.ts";
import { EVERYTHING, numbered, physicsOf, rejection, TestJournal, until } from "./test-journal.ts";

setDefaultTimeout(60_000);

const CLOSE = { withinMs: 10_000 };
const ROOT = mkdtempSync(join(tmpdir(), "store-conductor-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const COMMIT_DELAY_MS = 200;
const COMMIT_ROWS = 2048;
const READ_WAIT_MS_MAX = 2000;

/** A clock whose turns of the event loop can be held back, and with them a commit. */
class HoldingClock extends FakeClock {
  #held: PromiseWithResolvers<void> | null = null;

  hold(): void {
    this.#held = Promise.withResolvers();
  }

  release(): void {
    this.#held?.resolve();
    this.#held = null;
  }

  override async nextTurn(): Promise<void> {
    await super.nextTurn();
    await this.#held?.promise;
  }
}

class Case {
  readonly clock = new HoldingClock();
  readonly journal = new TestJournal(ROOT);
  readonly posted: FromWorker[] = [];
  onPost: (message: FromWorker) => void = () => {};

  async open(): Promise<Conductor> {
    const { workerUrl: _url, ...options } = this.journal.options();
    return Conductor.open(options, {
      clock: this.clock,
      availableBytes: () => Number.MAX_SAFE_INTEGER,
      post: (message) => {
        this.posted.push(message);
        this.onPost(message);
      },
    });
  }

  count(event: FromWorker["event"]): number {
    return this.posted.filter((message) => message.event === event).length;
  }

  /** Makes every commit of events fail, until it is mended. */
  breakJournal(): void {
    this.journal.db.run("ALTER TABLE events RENAME TO hidden");
  }

  mendJournal(): void {
    this.journal.db.run("ALTER TABLE hidden RENAME TO events");
  }
}

describe("writing", () => {
  test("a few rows wait 200 ms for company, many do not", async () => {
    const one = new Case();
    const store = await one.open();
    store.head(one.journal.addEvents(numbered(3)));
    await one.clock.advance(COMMIT_DELAY_MS - 1);
    store.head(one.journal.addEvents(numbered(3, 4)));
    expect(one.count("cursors")).toBe(0);
    await one.clock.advance(1);
    await until("the rows are stored", () => one.count("cursors") === 1);
    expect(store.cursors.seq).toBe(6);
    store.head(one.journal.addEvents(numbered(COMMIT_ROWS, 7)));
    await until("many rows are stored", () => store.cursors.seq === 6 + COMMIT_ROWS);
    await store.close(CLOSE);
  });

  test("frames and updates are stored like events, and the cursors are told after each commit", async () => {
    const one = new Case();
    const store = await one.open();
    const rows = [{ seq: 1, physics: physicsOf({ flags: 0 }) }];
    const head = one.journal.addEvents(numbered(1));
    one.journal.addFrames(rows);
    one.journal.addUpdates(rows);
    store.head(head);
    store.offer({ firstFrameId: 1, count: 1, vectors: null });
    store.updates(1);
    await store.flush({ headSeq: head });
    expect(one.posted).toEqual([{ event: "cursors", cursors: { seq: 1, frameId: 1, answerId: 1 } }]);
    await store.close(CLOSE);
  });

  test("a run behind missing frames makes the conductor ask, once, where to begin again", async () => {
    const one = new Case();
    const store = await one.open();
    store.offer({ firstFrameId: 3, count: 1, vectors: null });
    store.offer({ firstFrameId: 4, count: 1, vectors: null });
    expect(one.posted).toEqual([{ event: "reopened", cursors: EVERYTHING }]);
    await store.close(CLOSE);
  });

  test("30 s after the last commit comes a checkpoint, with the cursors of that commit", async () => {
    const one = new Case();
    const store = await one.open();
    await store.flush({ headSeq: one.journal.addEvents(numbered(3)) });
    await one.clock.advance(29_999);
    expect(one.count("checkpoint")).toBe(0);
    await one.clock.advance(1);
    await until("it is checkpointed", () => one.count("checkpoint") === 1);
    expect(one.posted.at(-1)).toEqual({ event: "checkpoint", cursors: { seq: 3, frameId: 0, answerId: 0 } });
    await store.close(CLOSE);
  });

  test("a checkpoint that is asked for during a commit begins behind it and reports what it holds", async () => {
    const one = new Case();
    const store = await one.open();
    const head = one.journal.addEvents(numbered(3));
    one.clock.hold();
    const flushed = store.flush({ headSeq: head });
    const completed = store.checkpoint();
    await one.clock.settle();
    expect(one.posted).toEqual([]);
    one.clock.release();
    await Promise.all([flushed, completed]);
    expect(one.posted.map(({ event }) => event)).toEqual(["cursors", "checkpoint"]);
    expect(one.posted[1]).toMatchObject({ cursors: { seq: 3 } });
    await store.close(CLOSE);
  });
});

describe("reading", () => {
  test("a read hastens the commit that it needs", async () => {
    const one = new Case();
    const store = await one.open();
    const head = one.journal.addEvents(numbered(3));
    const { json, lag } = await store.events({ query: { limit: 10 }, headSeq: head });
    expect(lag).toBe(0);
    expect(JSON.parse(json).events.length).toBe(3);
    expect(one.clock.monotonicMs()).toBe(0);
    await store.close(CLOSE);
  });

  test("a read waits 2 s for a commit, then answers with what is stored and says by how much it lags", async () => {
    const one = new Case();
    const store = await one.open();
    await store.flush({ headSeq: one.journal.addEvents(numbered(2)) });
    const head = one.journal.addEvents(numbered(5, 3));
    one.clock.hold();
    let answered = false;
    const reading = store.events({ query: { limit: 10 }, headSeq: head }).finally(() => {
      answered = true;
    });
    await one.clock.advance(READ_WAIT_MS_MAX - 1);
    expect(answered).toBe(false);
    await one.clock.advance(1);
    const { json, lag } = await reading;
    expect([JSON.parse(json).events.length, lag]).toEqual([2, 5]);
    one.clock.release();
    await store.flush({ headSeq: head });
    await store.close(CLOSE);
  });

  test("a read of one event waits for this event only", async () => {
    const one = new Case();
    const store = await one.open();
    await store.flush({ headSeq: one.journal.addEvents(numbered(2)) });
    const head = one.journal.addEvents(numbered(5, 3));
    one.clock.hold();
    expect(await store.event({ seq: 2, headSeq: head })).toMatchObject({ lag: 0 });
    one.clock.release();
    await store.close(CLOSE);
  });
});

describe("after a failure", () => {
  test("whoever waits is told, nothing is written for a pause that doubles, then all of it is stored", async () => {
    const one = new Case();
    const store = await one.open();
    const head = one.journal.addEvents(numbered(10));
    one.breakJournal();
    expect((await rejection(store.flush({ headSeq: head }))).code).toBe("store_failed");
    await until("the database is open again", () => one.count("reopened") === 1);
    expect((await rejection(failedFlush(one, store, head))).code).toBe("store_failed");
    await until("the database is open again", () => one.count("reopened") === 2);
    one.mendJournal();
    const flushed = store.flush({ headSeq: head });
    await one.clock.advance(199);
    // A query takes longer than a commit would need to begin.
    await store.stats();
    expect([one.count("failure"), one.count("cursors")]).toEqual([2, 0]);
    await one.clock.advance(1);
    await flushed;
    expect([one.count("failure"), store.cursors.seq]).toEqual([2, head]);
    expect((await store.stats()).events).toBe(head);
    await store.close(CLOSE);
  });

  /** A flush that fails after the first pause of 100 ms, not a millisecond before. */
  async function failedFlush(one: Case, store: Conductor, headSeq: number): Promise<unknown> {
    const flushed = store.flush({ headSeq });
    flushed.catch(() => {});
    await one.clock.advance(99);
    await store.stats();
    expect(one.count("failure")).toBe(1);
    await one.clock.advance(1);
    return flushed;
  }

  test("reads are answered as soon as the database is open again, during the pause", async () => {
    const one = new Case();
    const store = await one.open();
    await store.flush({ headSeq: one.journal.addEvents(numbered(4)) });
    one.breakJournal();
    await rejection(store.flush({ headSeq: 5 }));
    await until("the database is open again", () => one.count("reopened") === 1);
    expect((await store.stats()).events).toBe(4);
    expect(one.clock.monotonicMs()).toBe(0);
    one.mendJournal();
    const closed = store.close(CLOSE);
    await one.clock.advance(100);
    await closed;
  });
});

describe("closing", () => {
  test("stores what is known, checkpoints, and leaves no timer behind", async () => {
    const one = new Case();
    const store = await one.open();
    store.head(one.journal.addEvents(numbered(5)));
    await store.close(CLOSE);
    expect(one.posted.map(({ event }) => event)).toEqual(["cursors", "checkpoint"]);
    expect(one.clock.pending).toBe(0);
    expect(await one.journal.rows("count(*)::INT", "events")).toEqual([[5]]);
  });

  test("does not checkpoint a database to which nothing was written", async () => {
    const one = new Case();
    await (await one.open()).close(CLOSE);
    expect(one.posted).toEqual([]);
  });

  test("gives up after 10 s if the commit does not end, and does not reopen if that fails then", async () => {
    const one = new Case();
    const store = await one.open();
    store.head(one.journal.addEvents(numbered(5)));
    // The journal lacks this frame, which is found behind the events.
    store.offer({ firstFrameId: 1, count: 1, vectors: null });
    one.clock.hold();
    let closed = false;
    const closing = store.close(CLOSE).then(() => {
      closed = true;
    });
    await one.clock.advance(CLOSE.withinMs);
    expect(closed).toBe(false);
    one.clock.release();
    await closing;
    expect(one.posted.map(({ event }) => event)).toEqual(["failure"]);
  });

  test("leaves no timer behind if a commit ends during it, or if news comes afterwards", async () => {
    const one = new Case();
    const store = await one.open();
    const head = one.journal.addEvents(numbered(5));
    store.head(head);
    one.clock.hold();
    const closing = store.close(CLOSE);
    await one.clock.advance(CLOSE.withinMs);
    store.head(head + 1);
    one.clock.release();
    await closing;
    expect(one.posted.map(({ event }) => event)).toEqual(["cursors"]);
    store.head(head + 2);
    store.updates(1);
    expect(one.clock.pending).toBe(0);
  });

  test("does not wait for a database that cannot be opened again", async () => {
    const one = new Case();
    const store = await one.open();
    const { databasePath } = one.journal;
    await store.flush({ headSeq: one.journal.addEvents(numbered(1)) });
    // The idle time of the checkpoint runs; the pause between attempts to open comes beside it.
    expect(one.clock.pending).toBe(1);
    one.onPost = ({ event }) => {
      if (event !== "failure") return;
      one.onPost = () => {};
      renameSync(databasePath, `${databasePath}.moved`);
      writeFileSync(databasePath, "somebody's letter\n".repeat(1000));
    };
    one.breakJournal();
    expect((await rejection(store.flush({ headSeq: 2 }))).code).toBe("store_failed");
    await until("opening has failed", () => one.clock.pending === 2);
    await one.clock.advance(99);
    expect(one.count("failure")).toBe(1);
    await one.clock.advance(1);
    await until("opening has failed again", () => one.count("failure") === 2 && one.clock.pending === 2);
    expect((await rejection(store.stats())).code).toBe("store_unavailable");
    await store.close(CLOSE);
    expect(one.clock.pending).toBe(0);
  });
});
