import { describe, expect, test } from "bun:test";
import { History, type HistoryOptions } from "../../src/dashboard/history.ts";
import type { EventRow } from "../../src/tui/model.ts";
import { pageBelow } from "./fixtures.ts";

type Query = Parameters<HistoryOptions["storedEvents"]>[0];

function open(storedEvents: HistoryOptions["storedEvents"]) {
  const requested: Query[] = [];
  const warnings: string[] = [];
  const seen = { changes: 0 };
  const history = new History({
    storedEvents: (query) => {
      requested.push(query);
      return storedEvents(query);
    },
    warn: (message) => void warnings.push(message),
    changed: () => {
      seen.changes += 1;
    },
  });
  return { history, requested, warnings, seen };
}

const page = async ({ before = 0, limit }: Query): Promise<string> => pageBelow(before, limit);
const seqs = (rows: readonly EventRow[]): number[] => rows.map(({ seq }) => seq);
const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

describe("history", () => {
  test("older events come page by page, by the filter, down to the oldest", async () => {
    const { history, requested, seen } = open(page);
    await history.loadOlder("plano", 151);
    expect(requested).toEqual([{ limit: 100, before: 151, q: "plano" }]);
    expect(seqs(history.rows)).toEqual(range(51, 150));
    expect([history.state, seen.changes]).toEqual(["idle", 1]);
    await history.loadOlder("", 151);
    expect(requested[1]).toEqual({ limit: 100, before: 51 });
    expect(seqs(history.rows)).toEqual(range(1, 150));
    expect(history.state).toBe("end");
    await history.loadOlder("", 151);
    expect(requested.length).toBe(2);
    history.forget();
    expect([history.rows, history.state]).toEqual([[], "idle"]);
  });

  test("nothing is loaded while the tail is not held, and one page at a time", async () => {
    const { history, requested } = open(page);
    await history.loadOlder("", null);
    expect(requested).toEqual([]);
    const loading = history.loadOlder("", 500);
    expect(history.state).toBe("loading");
    await history.loadOlder("", 500);
    await loading;
    expect(requested.length).toBe(1);
  });

  test("rows are bounded", async () => {
    const { history, requested } = open(page);
    for (let load = 0; load < 100; load++) await history.loadOlder("", 100_000);
    expect(history.state).toBe("bound");
    expect(history.rows.length).toBe(8200);
    expect(requested.length).toBe(82);
  });

  test("a page that comes after the filter changed is thrown away, and so is its failure", async () => {
    const pages: PromiseWithResolvers<string>[] = [];
    const { history } = open(() => {
      const next = Promise.withResolvers<string>();
      pages.push(next);
      return next.promise;
    });
    const late = history.loadOlder("x", 500);
    history.forget();
    const newer = history.loadOlder("y", 500);
    pages[0]?.resolve(pageBelow(500, 100));
    await late;
    expect([history.rows, history.state]).toEqual([[], "loading"]);
    pages[1]?.resolve(pageBelow(300, 100));
    await newer;
    expect(history.rows.at(-1)?.seq).toBe(299);
    const failing = history.loadOlder("y", 500);
    history.forget();
    pages[2]?.reject(new Error("too late"));
    await failing;
    expect(history.state).toBe("idle");
  });

  test("a store that fails or is not open is named, in the state and as a warning", async () => {
    const broken = open(() => Promise.reject(new Error("disk I/O error")));
    await broken.history.loadOlder("", 500);
    expect(broken.history.state).toBe("failed");
    expect(broken.warnings).toEqual([expect.stringContaining("disk I/O error")]);
    const closed = open(() => null);
    await closed.history.loadOlder("", 500);
    expect(closed.history.state).toBe("failed");
    expect(closed.warnings).toEqual([expect.stringContaining("DuckDB is not open yet")]);
  });

  test("a frame or an update reaches a row of the history", async () => {
    const { history } = open(page);
    await history.loadOlder("", 10);
    const before = history.rows;
    history.enrich(4, { frameId: 77, type: null, intent: "compra", sentiment: null });
    history.enrich(4000, { frameId: 78, type: null, intent: "compra", sentiment: null });
    expect(history.rows[3]).toMatchObject({ seq: 4, frameId: 77, intent: "compra" });
    expect(before[3]?.frameId).toBe(9);
  });
});

describe("the beginning", () => {
  test("the newest stored events are read once, as soon as the store is open", async () => {
    let isOpen = false;
    const { history, requested, seen } = open(() => (isOpen ? page({ before: 43, limit: 100 }) : null));
    const added: (readonly EventRow[])[] = [];
    const begin = (): Promise<void> => history.begin(42, (rows) => void added.push(rows));
    await begin();
    expect(added).toEqual([]);
    isOpen = true;
    await begin();
    await begin();
    expect(added.map(seqs)).toEqual([range(1, 42)]);
    expect(requested.map(({ limit }) => limit)).toEqual([100, 100]);
    expect(seen.changes).toBe(1);
  });

  test("an empty gateway has nothing to read, then or later", async () => {
    const { history, requested } = open(page);
    const added: unknown[] = [];
    await history.begin(0, (rows) => void added.push(rows));
    await history.begin(5, (rows) => void added.push(rows));
    expect([requested, added]).toEqual([[], []]);
  });

  test("a page that cannot be read is a warning, and is not read again", async () => {
    const { history, requested, warnings } = open(() => Promise.reject(new Error("disk I/O error")));
    const add = (): void => expect.unreachable();
    await history.begin(5, add);
    await history.begin(5, add);
    expect(requested.length).toBe(1);
    expect(warnings).toEqual([expect.stringContaining("disk I/O error")]);
  });
});
