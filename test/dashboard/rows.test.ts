import { describe, expect, test } from "bun:test";
import { enriched, enrichmentOfFrame, rowOf, rowsOfPage } from "../../src/dashboard/rows.ts";
import { encodePhysics } from "../../src/frame.ts";
import { draft, event, NOW_US, PHYSICS, pageBelow } from "./fixtures.ts";

describe("rows", () => {
  test("a row shows the event's message, and its body if it has none", () => {
    expect(rowOf(event(3))).toEqual({
      seq: 3,
      receivedUs: NOW_US + 3,
      type: "UserMessage",
      intent: null,
      sentiment: null,
      conversation: "c-1",
      message: "mensagem 3",
      isMessage: true,
      frameId: null,
    });
    const body = new TextEncoder().encode('{"a":1}');
    expect(rowOf(event(3, { message: null, body }))).toMatchObject({ message: '{"a":1}', isMessage: false });
  });

  test("a row keeps 400 characters of a message and 120 of a label, and never half a character", () => {
    const long = "😀".repeat(600);
    const row = rowOf(event(1, { message: `x${long}`, type: `x${long}`, conversationId: long }));
    expect(row.message.length).toBe(400);
    expect(row.type?.length).toBe(120);
    expect(row.conversation?.length).toBe(120);
    for (const text of [row.message, row.type ?? "", row.conversation ?? ""])
      expect(text.isWellFormed()).toBe(true);
    const body = new TextEncoder().encode("é".repeat(10_000));
    expect(rowOf(event(1, { message: null, body })).message).toBe("é".repeat(400));
  });

  test("a page of the store becomes rows in ascending order", () => {
    const rows = rowsOfPage(pageBelow(10, 3));
    expect(rows.map(({ seq }) => seq)).toEqual([7, 8, 9]);
    expect(rows[0]).toMatchObject({
      message: '{"a":1}',
      isMessage: false,
      frameId: 9,
      intent: "i",
      type: "T",
    });
  });

  test("an enrichment makes a new row; without a frame or a type it leaves those as they are", () => {
    const row = { ...rowOf(event(1)), frameId: 4 };
    const update = enriched(row, { frameId: null, type: null, intent: "compra", sentiment: 0.5 });
    expect(update).toEqual({ ...row, intent: "compra", sentiment: 0.5 });
    expect(update).not.toBe(row);
    const frame = enriched(row, { frameId: 5, type: "Pedido", intent: null, sentiment: null });
    expect(frame).toMatchObject({ frameId: 5, type: "Pedido", intent: null, sentiment: null });
  });

  test("a frame's sentiment is unknown unless its flag says otherwise", () => {
    const { decided } = draft(event(1));
    expect(enrichmentOfFrame(7, decided)).toEqual({
      frameId: 7,
      type: "UserMessage",
      intent: "cancelamento",
      sentiment: -0.5,
    });
    const physics = encodePhysics({ ...PHYSICS, flags: 0 });
    expect(enrichmentOfFrame(7, { ...decided, physics }).sentiment).toBeNull();
  });
});
