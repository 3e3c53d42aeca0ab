/** Group commit without a disk: what waits together, who is told, and when. */

import { describe, expect, test } from "bun:test";
import { type GroupCall, GroupCommit, type GroupCommitOptions } from "../../src/journal/group-commit.ts";

/** A call of some rows, 10 bytes each, that writes down when it is settled. */
class Waiting implements GroupCall {
  readonly kind = "append";
  readonly bytes: number;
  failure: unknown = undefined;
  readonly name: string;
  readonly rows: number;
  readonly #told: string[];

  constructor(name: string, rows: number, told: string[]) {
    this.name = name;
    this.rows = rows;
    this.bytes = 10 * rows;
    this.#told = told;
  }

  settle(): void {
    this.#told.push(this.failure === undefined ? this.name : `${this.name}: ${this.failure}`);
  }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function groups(options: Partial<GroupCommitOptions<Waiting>> = {}) {
  const told: string[] = [];
  const namesOf = (group: readonly Waiting[]): string => group.map(({ name }) => name).join("+");
  const commit = new GroupCommit<Waiting>({
    path: "the journal",
    rowsMax: 10,
    bytesMax: 1000,
    store: (group) => told.push(`store ${namesOf(group)}`),
    stored: (group) => told.push(`stored ${namesOf(group)}`),
    ...options,
  });
  return { commit, told, add: (name: string, rows = 1) => commit.add(new Waiting(name, rows, told)) };
}

describe("a group", () => {
  test("takes the calls of one turn, and is stored before its listener and its callers are told", async () => {
    const { told, add } = groups();
    add("a");
    add("b");
    expect(told).toEqual([]);
    await nextTurn();
    expect(told).toEqual(["store a+b", "stored a+b", "a", "b"]);
    add("c");
    await nextTurn();
    expect(told.slice(4)).toEqual(["store c", "stored c", "c"]);
  });

  test("is bounded by rows and by bytes, but for a single call; the rest follows in order", async () => {
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
    expect(byRows.told.filter((line) => line.startsWith("store "))).toEqual([
      "store a+b",
      "store c",
      "store d",
      "store e",
    ]);
    const byBytes = groups({ bytesMax: 30 });
    for (const name of ["a", "b"]) byBytes.add(name, 2);
    for (let turn = 0; turn < 3; turn++) await nextTurn();
    expect(byBytes.told).toEqual(["store a", "stored a", "a", "store b", "stored b", "b"]);
  });

  test("that cannot be stored fails all of its calls with the journal's error, and the next one is tried", async () => {
    let fails = true;
    const { told, add } = groups({
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
    expect(told).toEqual([
      expect.stringContaining("a: GatewayError: journal: append the journal: no disk"),
      expect.stringContaining("b: GatewayError: journal: append the journal: no disk"),
      "c",
    ]);
  });

  test("keeps the failure that the store gave to one of its calls", async () => {
    const { told, add } = groups({
      store: ([first]) => {
        if (first !== undefined) first.failure = "a bad row";
        throw new Error("no disk");
      },
      stored: () => {},
    });
    add("a");
    add("b");
    await nextTurn();
    expect(told).toEqual(["a: a bad row", expect.stringContaining("b: GatewayError")]);
  });
});

describe("the end", () => {
  test("stores what waits, in as many groups as it takes, and refuses what comes later", async () => {
    const { commit, told, add } = groups();
    add("a", 8);
    add("b", 8);
    commit[Symbol.dispose]();
    const stored = ["store a", "stored a", "a", "store b", "stored b", "b"];
    expect(told).toEqual(stored);
    add("c");
    commit[Symbol.dispose]();
    await nextTurn();
    expect(told).toEqual([...stored, expect.stringContaining("c: GatewayError: journal: append")]);
    expect(told.at(-1)).toContain("the journal is closed");
  });

  test("settles a call whose listener throws, and lets the exception out", () => {
    const { commit, told, add } = groups({
      stored: () => {
        throw new Error("a bug elsewhere");
      },
    });
    add("a");
    expect(() => commit[Symbol.dispose]()).toThrow("a bug elsewhere");
    expect(told).toEqual(["store a", "a"]);
  });
});
