import { describe, expect, test } from "bun:test";
import { Detail, type DetailSources } from "../../src/dashboard/detail.ts";
import { event, settle } from "./fixtures.ts";

const ENRICHMENT = {
  frame_id: 4,
  event_type: "Pedido",
  intent: "compra",
  sentiment: -0.5,
  confidence: 0.9,
  provenance: { type: "given", intent: "examples", sentiment: "llm", embedder: "bge" },
};

function open(over: Partial<DetailSources> = {}) {
  const seen = { changes: 0 };
  const nothing: DetailSources = {
    journalEvent: () => null,
    enrichment: async () => null,
    storedEvent: async () => null,
  };
  const detail = new Detail({ ...nothing, ...over }, () => {
    seen.changes += 1;
  });
  const facts = (): Record<string, string> => Object.fromEntries(detail.shown?.facts ?? []);
  return { detail, facts, seen };
}

describe("detail", () => {
  test("an event that the journal has comes from there, and its payload keeps its 64-bit numbers", async () => {
    const { detail, facts, seen } = open({
      journalEvent: (seq) => event(seq, { timestampUs: 1_000_000 }),
      enrichment: async () => ENRICHMENT,
      storedEvent: () => expect.unreachable(),
    });
    const opened = detail.open(3);
    expect(detail.shown).toEqual({ seq: 3, state: "loading", facts: [], lines: [] });
    await opened;
    expect(detail.shown?.state).toBe("ready");
    expect(detail.shown?.lines).toEqual([
      "{",
      '  "message": "mensagem 3",',
      '  "big": 9007199254740993',
      "}",
    ]);
    expect(facts()).toMatchObject({
      seq: "3",
      id: "id-3",
      timestamp: "1970-01-01T00:00:01.000Z",
      type: "Pedido",
      conversation: "c-1",
      frame: "4",
      intent: "compra, confidence 0.90  (examples)",
      sentiment: "-0.50  (llm)",
      "type from": "given",
      embedder: "bge",
    });
    expect(seen.changes).toBe(1);
  });

  test("an event without a frame says so", async () => {
    const { detail, facts } = open({
      journalEvent: (seq) => event(seq, { type: null, conversationId: null }),
    });
    await detail.open(3);
    expect(facts()).toMatchObject({ type: "unknown", conversation: "none", frame: "none yet" });
    expect(Object.keys(facts())).not.toContain("timestamp");
  });

  test("an event that only the store has comes from there; one that is nowhere is gone", async () => {
    const json =
      '{"seq":3,"id":"x","received_us":1,"timestamp_us":null,"event_type":null,"conversation_id":null,' +
      '"message":null,"payload":{"a":[1e400,{"payload":2}],"b":"\\"}"},"enrichment":null}';
    const { detail, facts } = open({ storedEvent: async (seq) => (seq === 3 ? json : null) });
    await detail.open(3);
    expect(facts()).toMatchObject({ id: "x", received: "1970-01-01T00:00:00.000Z" });
    expect(detail.shown?.lines.join("")).toContain('"a": [    1e400');
    await detail.open(4);
    expect(detail.shown).toEqual({ seq: 4, state: "gone", facts: [], lines: [] });
  });

  test("a long payload is cut, and the rest is counted", async () => {
    const body = new TextEncoder().encode(JSON.stringify({ message: "x".repeat(300_000) }));
    const { detail } = open({ journalEvent: (seq) => event(seq, { body }) });
    await detail.open(1);
    expect(detail.shown?.lines.slice(0, -1).join("").length).toBeLessThan(262_200);
    expect(detail.shown?.lines.at(-1)).toContain(
      `… and ${(body.length - 262_144).toLocaleString("en-US")} more characters`,
    );
  });

  test("a failure to read becomes a fact", async () => {
    const { detail, facts } = open({ storedEvent: () => Promise.reject(new Error("disk I/O error")) });
    await detail.open(3);
    expect(detail.shown?.state).toBe("ready");
    expect(facts()).toEqual({ error: "disk I/O error" });
  });

  test("an event that arrives after another was opened is not shown", async () => {
    const slow = Promise.withResolvers<null>();
    const { detail } = open({ storedEvent: (seq) => (seq === 1 ? slow.promise : Promise.resolve(null)) });
    const first = detail.open(1);
    await detail.open(2);
    slow.resolve(null);
    await first;
    expect(detail.shown?.seq).toBe(2);
  });

  test("an update makes the shown event be read again; what is shown stays until then", async () => {
    let intent = "compra";
    const { detail, facts } = open({
      journalEvent: (seq) => event(seq),
      enrichment: async () => ({ ...ENRICHMENT, intent }),
    });
    const update = { type: null, intent: "desconto", sentiment: null };
    detail.updated(new Map([[3, update]]));
    expect(detail.shown).toBeNull();
    await detail.open(3);
    intent = "desconto";
    detail.updated(new Map([[4, update]]));
    await settle();
    expect(facts().intent).toStartWith("compra");
    detail.updated(new Map([[3, update]]));
    expect(facts().intent).toStartWith("compra");
    await settle();
    expect(facts().intent).toStartWith("desconto");
  });
});
