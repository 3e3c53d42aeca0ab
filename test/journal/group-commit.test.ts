/** Group commit without a disk: which calls wait together, and when they are stored and settled. */

import { describe, expect, test } from "bun:test";
import { type GroupCall, GroupCommit, type GroupCommitOptions } from "../../src/journal/group-commit.ts";

/** A call with rows of 10 bytes each that records when it is settled. */
class Waiting implements GroupCall {
  readonly kind = "append";
  readonly bytes: number;
  failure: unknown = undefined;
  readonly name: string;
  readonly rows: number;
  readonly #log: string[];

  constructor(name: string, rows: number, log: string[]) {
    this.name = name;
    this.rows = rows;
    this.bytes = 10 * rows;
    this.#log = log;
  }

  settle(): void {
    this.#log.push(this.failure === undefined ? this.name : `${this.name}: ${this.failure}`);
  }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function groups(options: Partial<GroupCommitOptions<Waiting>> = {}) {
  const log: string[] = [];
  const namesOf = (group: readonly Waiting[]): string => group.map(({ name }) => name).join("+");
  const commit = new GroupCommit<Waiting>({
    path: "the journal",
    rowsMax: 10,
    bytesMax: 1000,
    store: (group) => log.push(`store ${namesOf(group)}`),
    stored: (group) => log.push(`stored ${namesOf(group)}`),
    ...options,
  });
  return { commit, log, add: (name: string, rows = 1) => commit.add(new Waiting(name, rows, log)) };
}

describe("a group", () => {
  test("holds the calls of one turn; it is stored first, then its listener is called, then its calls are settled", async () => {
    const { log, add } = groups();
    add("a");
    add("b");
    expect(log).toEqual([]);
    await nextTurn();
    expect(log).toEqual(["store a+b", "stored a+b", "a", "b"]);
    add("c");
    await nextTurn();
    expect(log.slice(4)).toEqual(["store c", "stored c", "c"]);
  });

  test("is bounded by rows and by bytes, except for a single large call; the other calls follow in order", async () => {
    const byRows = groups();
    for (const [name, rows] of [
      ["a", 6],
      ["b", 4],
      ["c", 1],
      ["d", 25],
      ["e", 1],
    ] as const)
      byRows.add(name, rows);
    for (let turn = 0; turn < 5; turn++) await nextTurn();
    expect(byRows.log.filter((line) => line.startsWith("store "))).toEqual([
      "store a+b",
      "store c",
      "store d",
      "store e",
    ]);
    const byBytes = groups({ bytesMax: 30 });
    for (const name of ["a", "b"]) byBytes.add(name, 2);
    for (let turn = 0; turn < 3; turn++) await nextTurn();
    expect(byBytes.log).toEqual(["store a", "stored a", "a", "store b", "stored b", "b"]);
  });

  test("that cannot be stored fails all of its calls with the journal's error, and the next group is stored", async () => {
    let fails = true;
    const { log, add } = groups({
      store: () => {
        if (fails) throw new Error("no disk");
      },
      stored: () => {},
    });
    add("a");
    add("b");
    await nextTurn();
    fails = false;
    add("c");
    await nextTurn();
    expect(log).toEqual([
      expect.stringContaining("a: GatewayError: journal: append the journal: no disk"),
      expect.stringContaining("b: GatewayError: journal: append the journal: no disk"),
      "c",
    ]);
  });

  test("keeps the failure that the store gave to one of its calls", async () => {
    const { log, add } = groups({
      store: ([first]) => {
        if (first !== undefined) first.failure = "a bad row";
        throw new Error("no disk");
      },
      stored: () => {},
    });
    add("a");
    add("b");
    await nextTurn();
    expect(log).toEqual(["a: a bad row", expect.stringContaining("b: GatewayError")]);
  });
});

describe("disposal", () => {
  test("stores all waiting calls, in several groups if necessary, and refuses later ones", async () => {
    const { commit, log, add } = groups();
    add("a", 8);
    add("b", 8);
    commit[Symbol.dispose]();
    const stored = ["store a", "stored a", "a", "store b", "stored b", "b"];
    expect(log).toEqual(stored);
    add("c");
    commit[Symbol.dispose]();
    await nextTurn();
    expect(log).toEqual([...stored, expect.stringContaining("c: GatewayError: journal: append")]);
    expect(log.at(-1)).toContain("the journal is closed");
  });

  test("settles the calls even if the listener throws, and throws its exception", () => {
    const { commit, log, add } = groups({
      stored: () => {
        throw new Error("a bug elsewhere");
      },
    });
    add("a");
    expect(() => commit[Symbol.dispose]()).toThrow("a bug elsewhere");
    expect(log).toEqual(["store a", "a"]);
  });
});
