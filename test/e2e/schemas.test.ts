/** Schemas in the executable: in the frames, over HTTP, and across restarts and kills. */

import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { duckRows, Gateway, ringFrames, ringHead, TempFolder, until } from "./gateway.ts";

setDefaultTimeout(300_000);

const FILL_RATE_AT = 4156;
const order = (extra: object = {}): string =>
  JSON.stringify({ type: "Order", total: 10, customer: { name: "Ana", email: "ana@example.com" }, ...extra });

interface Shown {
  events: number;
  fields: { path: string; fill_rate: number; sample: unknown; drift: string | null }[];
}

const fillRate = ({ bytes }: { bytes: Uint8Array }): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getFloat32(FILL_RATE_AT, true);

const framed = (folder: TempFolder, events: number): Promise<void> =>
  until(`${events} frames are in the ring`, () => (ringHead(folder.ring)?.head ?? 0) === events + 1);

describe("schemas in the executable", () => {
  test("set fill_rate, are shown, report drift, and continue after a stop", async () => {
    using folder = new TempFolder();
    const db = folder.file("events.duckdb");
    {
      await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
      const lines = [
        ...Array.from({ length: 60 }, () => order()),
        '{"type":"Order","customer":{"name":""}}',
        '{"message":"of no type"}',
        order({ coupon: { code: "NATAL" } }),
      ];
      expect((await gateway.postLines(`${lines.join("\n")}\n`)).status).toBe(200);
      await framed(folder, 63);
      const shown = await gateway.json<Shown>("/api/schemas/Order");
      expect(shown.events).toBe(62);
      expect(shown.fields.map(({ path, drift }) => [path, drift])).toEqual([
        ["type", null],
        ["total", null],
        ["customer", null],
        ["customer.name", null],
        ["customer.email", null],
        ["coupon", "new_field"],
        ["coupon.code", "new_field"],
      ]);
      expect(shown.fields[4]?.sample).toBe("***@example.com");
      const metrics = await gateway.metrics();
      expect(metrics.gateway_schema_new_fields_total).toBe(1);
      expect(metrics.gateway_schema_types).toBe(2);
      const { drift } = await gateway.json<{ drift: unknown[] }>("/metrics", {
        headers: { accept: "application/json" },
      });
      expect(drift).toEqual([
        { kind: "new_field", type: "Order", path: "coupon", at_us: expect.any(Number) },
      ]);
      const chat = await gateway.fetch("/api/chat", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: '{"msg":"Oi"}',
      });
      expect(chat.status).toBe(503);
      expect(await chat.json()).toMatchObject({ code: "llm_unavailable" });
      // A stop does not wait for DuckDB to open.
      await until("DuckDB has the frames", async () => {
        return (await gateway.metrics()).gateway_store_lag_frames === 0;
      });
      expect(await gateway.stop()).toBe(0);
    }
    const rates = ringFrames(folder.ring).map(fillRate);
    expect(rates).toEqual([0, ...Array(59).fill(1), 0.25, 0, 1]);
    const rows = await duckRows(db, "SELECT fill_rate FROM enrichments ORDER BY frame_id");
    expect(rows.map((row) => Math.fround(Number(row.fill_rate)))).toEqual(rates);
    await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
    expect((await gateway.json<Shown>("/api/schemas/Order")).events).toBe(62);
    await gateway.post(order());
    await framed(folder, 64);
    // By now the schema expects coupon.code.
    const last = ringFrames(folder.ring).at(-1);
    if (last === undefined) throw new Error("no frame");
    expect(fillRate(last)).toBeCloseTo(4 / 5, 6);
  });

  test("lose at most the last seconds to a kill, and never a frame", async () => {
    using folder = new TempFolder();
    const db = folder.file("events.duckdb");
    {
      await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
      await gateway.postLines(`${Array(100).fill(order()).join("\n")}\n`);
      await framed(folder, 100);
      // The schemas are written a few seconds later.
      await until("the schemas are in the journal", () => keptEvents(db) === 100);
      await gateway.postLines(`${Array(50).fill(order()).join("\n")}\n`);
      await framed(folder, 150);
      await gateway.kill();
    }
    await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
    const { events } = await gateway.json<Shown>("/api/schemas/Order");
    expect(events).toBeWithin(100, 151);
    await gateway.post(order());
    await framed(folder, 151);
    expect(ringFrames(folder.ring).map(fillRate)).toEqual([0, ...Array(150).fill(1)]);
  });
});

/** How many events the stored schema of orders counts. Reads the journal beside the running gateway. */
function keptEvents(db: string): number {
  const journal = new Database(`${db}.journal`, { readonly: true });
  try {
    const row = journal.query<{ value: string }, []>("SELECT value FROM schemas WHERE key = 'Order'").get();
    return row === null ? 0 : (JSON.parse(row.value) as { events: number }).events;
  } finally {
    journal.close();
  }
}
