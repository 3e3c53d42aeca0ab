import { describe, expect, test } from "bun:test";
import { SchemaList } from "../../src/dashboard/schemas.ts";
import type { ShownType } from "../../src/schemas/schemas.ts";
import { NOW_US } from "./fixtures.ts";

describe("schemas", () => {
  const shown = (type: string, events: number): ShownType => ({
    type,
    events,
    first_seen_us: NOW_US - 5e6,
    last_seen_us: NOW_US,
    fields: [
      ...[{ path: "customer.name", types: ["string" as const], fill_rate: 0.75, drift: "gone" as const }],
      ...[{ path: "total", types: ["number" as const, "string" as const], fill_rate: 1, drift: null }],
    ].map((field) => ({ ...field, first_seen_us: NOW_US - 5e6, last_seen_us: NOW_US })),
    sample: '{"total":3}',
  });

  test("have fields, recent changes and a sample, and a rate once they were counted twice", () => {
    let events = 100;
    const newField = (path: string) => ({
      kind: "new_field" as const,
      type: "Order",
      path,
      at_us: NOW_US - 1,
    });
    const gone = { kind: "gone" as const, type: "Order", path: "customer.name", at_us: NOW_US };
    const drift = [...["a", "b", "c", "d", "e"].map(newField), gone];
    const list = new SchemaList({ shown: () => [shown("Order", events), shown("Ping", 7)], drift });
    const [order, ping] = list.views(0);
    expect(order).toEqual({
      ...{ name: "Order", events: 100, perMinute: null, firstSeenUs: NOW_US - 5e6, lastSeenUs: NOW_US },
      fields: [
        { path: "customer.name", types: ["string"], fillRate: 0.75, drift: "no longer sent" },
        { path: "total", types: ["number", "string"], fillRate: 1, drift: null },
      ],
      drift: ["customer.name: no longer sent", ...["e", "d", "c", "b"].map((path) => `${path}: new field`)],
      sample: '{\n  "total": 3\n}',
    });
    expect([ping?.name, ping?.drift]).toEqual(["Ping", []]);
    events = 130;
    // The list is rebuilt once a second, not for every screen.
    expect(list.views(500)[0]?.events).toBe(100);
    expect(list.views(30_000).map(({ perMinute }) => perMinute)).toEqual([60, 0]);
  });
});
