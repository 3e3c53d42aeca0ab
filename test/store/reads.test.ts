import { describe, expect, test } from "bun:test";
import { Reads } from "../../src/store/reads.ts";
import { FakeClock } from "../fake-clock.ts";
import { rejection } from "./test-journal.ts";

const READS_MAX = 256;

/** A connection whose queries end when the test says so, or fail when they are interrupted. */
class FakeConnection {
  readonly started: string[] = [];
  interrupts = 0;
  #fail: (error: Error) => void = () => {};
  #end: () => void = () => {};

  query(name: string): Promise<string> {
    this.started.push(name);
    return new Promise((resolve, reject) => {
      this.#end = () => resolve(name);
      this.#fail = reject;
    });
  }

  /** Ends the running query. */
  end(): void {
    this.#end();
  }

  fail(detail: string): void {
    this.#fail(new Error(detail));
  }

  interrupt(): void {
    this.interrupts++;
    this.fail("INTERRUPT Error: Interrupted!");
  }
}

type Connection = Parameters<Reads["open"]>[0];

function opened(): {
  clock: FakeClock;
  reads: Reads;
  connection: FakeConnection;
  read: (name: string) => Promise<string>;
} {
  const clock = new FakeClock();
  const reads = new Reads({ clock, path: "/tmp/events.duckdb" });
  const connection = new FakeConnection();
  reads.open(connection as unknown as Connection);
  return { clock, reads, connection, read: (name) => reads.run(() => connection.query(name)) };
}

describe("reads", () => {
  test("run one at a time, in order of arrival", async () => {
    const { clock, connection, read } = opened();
    const ended = [read("a"), read("b")];
    await clock.settle();
    expect(connection.started).toEqual(["a"]);
    connection.end();
    await clock.settle();
    expect(connection.started).toEqual(["a", "b"]);
    connection.end();
    expect(await Promise.all(ended)).toEqual(["a", "b"]);
    expect(clock.pending).toBe(0);
  });

  test("a query is interrupted after 10 s and refused by name; the next one runs", async () => {
    const { clock, connection, read } = opened();
    const late = rejection(read("slow"));
    const next = read("next");
    await clock.advance(9_999);
    expect(connection.interrupts).toBe(0);
    await clock.advance(1);
    const { code, detail } = await late;
    expect([code, detail]).toEqual(["store_unavailable", "the query took more than 10 s"]);
    await clock.settle();
    connection.end();
    expect(await next).toBe("next");
    expect([connection.interrupts, clock.pending]).toEqual([1, 0]);
  });

  test("a query that fails by itself says why, and leaves no deadline behind", async () => {
    const { clock, connection, read } = opened();
    const failed = rejection(read("bad"));
    await clock.settle();
    connection.fail("Out of Memory Error");
    const { code, detail } = await failed;
    expect([code, detail]).toEqual(["store_failed", "Out of Memory Error"]);
    expect(clock.pending).toBe(0);
  });

  test("at most 256 wait beside the running one, the next is refused", async () => {
    const { clock, reads, connection, read } = opened();
    const running = read("running");
    await clock.settle();
    const waiting = Array.from({ length: READS_MAX }, (_, index) => reads.run(async () => index));
    expect((await rejection(read("one too many"))).code).toBe("overloaded");
    connection.end();
    await running;
    expect((await Promise.all(waiting)).length).toBe(READS_MAX);
  });

  test("exclusive work waits for the running query and holds back later ones", async () => {
    const { clock, reads, connection, read } = opened();
    const order: string[] = [];
    const gate = Promise.withResolvers<void>();
    const before = read("before").then(() => order.push("before"));
    const alone = reads.exclusive(() => gate.promise).then(() => order.push("alone"));
    const after = reads.run(async () => order.push("after"));
    await clock.settle();
    gate.resolve();
    await clock.settle();
    expect(order).toEqual([]);
    connection.end();
    await Promise.all([before, alone, after]);
    expect(order).toEqual(["before", "alone", "after"]);
  });

  test("exclusive work that fails does not stop the queue", async () => {
    const { reads } = opened();
    const failed = reads.exclusive(() => Promise.reject(new Error("no")));
    const after = reads.run(async () => "after");
    await expect(failed).rejects.toThrow("no");
    expect(await after).toBe("after");
  });

  test("interrupting ends the running query and refuses all others until a database is open again", async () => {
    const { clock, reads, connection, read } = opened();
    const running = rejection(read("running"));
    const waiting = rejection(read("waiting"));
    await clock.settle();
    await reads.interrupt();
    expect((await running).detail).toContain("Interrupted");
    expect((await waiting).detail).toBe("the database is being reopened");
    expect((await rejection(read("to come"))).code).toBe("store_unavailable");
    expect(connection.started).toEqual(["running"]);
    reads.open(connection as unknown as Connection);
    expect(await reads.run(async () => "again")).toBe("again");
  });

  test("stopping lets what is queued finish, then refuses", async () => {
    const { clock, reads, connection, read } = opened();
    const running = read("running");
    const waiting = reads.run(async () => "waiting");
    await clock.settle();
    let stopped = false;
    const stopping = reads.stop().then(() => {
      stopped = true;
    });
    await clock.settle();
    expect(stopped).toBe(false);
    connection.end();
    await stopping;
    expect(await Promise.all([running, waiting])).toEqual(["running", "waiting"]);
    expect((await rejection(read("to come"))).code).toBe("store_unavailable");
    expect([connection.interrupts, clock.pending]).toEqual([0, 0]);
  });
});
