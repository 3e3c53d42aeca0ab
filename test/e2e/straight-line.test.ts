import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { hashingEmbed } from "../../src/embed/hashing.ts";
import {
  apiFrames,
  bankingMessages,
  duckRows,
  Gateway,
  type RingFrame,
  ringFrames,
  ringHead,
  TempFolder,
  until,
} from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const SINGLES = 1000;
const CONNECTIONS = 16;

describe("10,003 real messages by NDJSON and 1,000 by single POSTs from 16 connections", () => {
  const folder = new TempFolder();
  const db = folder.file("events.duckdb");
  const messages = bankingMessages();
  const total = messages.length + SINGLES;
  let frames: RingFrame[] = [];
  let viaApi: Uint8Array[] = [];
  const listed: Record<string, unknown>[] = [];
  const pastTheEnd: Record<string, string | null>[] = [];
  let labels: Record<string, unknown> = {};
  const sent = new Map<number, { message: string; conversation_id: string; type: string }>();

  beforeAll(async () => {
    await using gateway = await Gateway.start(folder, { args: ["--db-path", db] });
    const events = messages.map(({ text, category }, index) => ({
      message: text,
      conversation_id: `c${index % 400}`,
      type: category,
    }));
    const response = await gateway.postLines(`${events.map((event) => JSON.stringify(event)).join("\n")}\n`);
    expect(response.status).toBe(200);
    const reply = (await response.json()) as { accepted: number; first_seq: number; last_seq: number };
    expect(reply).toMatchObject({ accepted: messages.length, first_seq: 1, last_seq: messages.length });
    events.forEach((event, index) => {
      sent.set(index + 1, event);
    });
    let next = 0;
    await Promise.all(
      Array.from({ length: CONNECTIONS }, async () => {
        for (let index = next++; index < SINGLES; index = next++) {
          const event = {
            message: `${messages[index]?.text} (${index})`,
            conversation_id: `s${index % 40}`,
            type: "Single",
          };
          const single = await gateway.post(event);
          expect(single.status).toBe(200);
          const { seq, duplicate } = (await single.json()) as { seq: number; duplicate: boolean };
          expect(duplicate).toBe(false);
          expect(sent.has(seq)).toBe(false);
          sent.set(seq, event);
        }
      }),
    );
    await until("all frames are in the ring", () => (ringHead(folder.ring)?.head ?? 0) === total + 1, 60_000);
    viaApi = await apiFrames(gateway);
    labels = await gateway.json("/api/labels");
    for (const accept of ["application/json", "application/vnd.cs-physics.frames"]) {
      const { headers } = await gateway.fetch(`/api/frames?after=${total}`, { headers: { accept } });
      const names = ["x-frames-count", "x-frames-head", "x-journal-id"];
      pastTheEnd.push(Object.fromEntries(names.map((name) => [name, headers.get(name)])));
    }
    for (let before: number | null = null; ; ) {
      const page: { events: Record<string, unknown>[]; next: number | null } = await gateway.json(
        `/api/events?limit=1000${before === null ? "" : `&before=${before}`}`,
      );
      listed.push(...page.events);
      if (page.next === null) break;
      before = page.next;
    }
    expect(await gateway.stop()).toBe(0);
    frames = ringFrames(folder.ring);
  }, 300_000);

  afterAll(() => folder[Symbol.dispose]());

  test("banking77 has its 10,003 rows", () => {
    expect(messages.length).toBe(10_003);
  });

  test("every acknowledged event is in the ring exactly once, ids without gaps", () => {
    expect(frames.map((frame) => frame.frameId)).toEqual(
      Array.from({ length: total }, (_, index) => index + 1),
    );
    expect(new Set(frames.map((frame) => frame.eventSeq))).toEqual(new Set(sent.keys()));
  });

  test("every conversation is in order of receipt", () => {
    const newest = new Map<string, number>();
    for (const { eventSeq } of frames) {
      const conversation = sent.get(eventSeq)?.conversation_id ?? "";
      expect(eventSeq).toBeGreaterThan(newest.get(conversation) ?? 0);
      newest.set(conversation, eventSeq);
    }
  });

  test("vectors equal the embedder's", () => {
    const expected = new Float32Array(1024);
    for (const { bytes, eventSeq, flags } of frames) {
      expected.fill(0);
      const any = hashingEmbed(sent.get(eventSeq)?.message ?? "", expected, 0);
      expect(flags & 1).toBe(any ? 1 : 0);
      expect(Buffer.compare(bytes.subarray(16, 16 + 4096), new Uint8Array(expected.buffer))).toBe(0);
    }
  });

  test("/api/frames and the ring agree bit for bit", () => {
    expect(viaApi.length).toBe(frames.length);
    frames.forEach(({ bytes }, index) => {
      expect(Buffer.compare(viaApi[index] ?? new Uint8Array(), bytes)).toBe(0);
    });
  });

  test("an empty response of /api/frames says where the frames end and which journal decided them", () => {
    const said = {
      "x-frames-count": "0",
      "x-frames-head": String(total + 1),
      "x-journal-id": String(frames[0]?.journalId),
    };
    expect(pastTheEnd).toEqual([said, said]);
  });

  test("/api/labels equals the file beside the ring, and names every type that was sent", () => {
    expect(labels).toEqual(JSON.parse(readFileSync(`${folder.ring}.json`, "utf8")));
    const types = new Set([...sent.values()].map((event) => event.type));
    expect(new Set(Object.values(labels.types as Record<string, string>))).toEqual(types);
  });

  test("/api/events lists every event once, newest first, fields as sent", () => {
    expect(listed.map((event) => event.seq)).toEqual(
      Array.from({ length: total }, (_, index) => total - index),
    );
    for (const event of listed) {
      const original = sent.get(Number(event.seq));
      expect(event.message).toBe(original?.message);
      expect(event.conversation_id).toBe(original?.conversation_id);
      expect(event.event_type).toBe(original?.type);
      expect(event.payload).toEqual(original);
    }
  });

  test("DuckDB holds every event and every frame exactly once, as sent", async () => {
    const counts = await duckRows(
      db,
      "SELECT count(*) AS n, count(DISTINCT seq) AS d, min(seq) AS low, max(seq) AS high FROM events",
    );
    expect(counts[0]).toEqual({ n: BigInt(total), d: BigInt(total), low: 1n, high: BigInt(total) });
    const rows = await duckRows(db, "SELECT seq, message, conversation_id, event_type, payload FROM events");
    for (const row of rows) {
      const original = sent.get(Number(row.seq));
      expect(row.payload).toBe(JSON.stringify(original));
      expect(row.message).toBe(original?.message ?? "");
    }
  });

  test("DuckDB and the ring agree bit for bit", async () => {
    const rows = await duckRows(
      db,
      "SELECT frame_id, seq, velocity, delta_time, conversation_hash, flags, type_id, model_id, journal_id, spin[1] AS w, semantic[1:1024]::FLOAT[] AS semantic FROM enrichments ORDER BY frame_id",
    );
    expect(rows.length).toBe(total);
    rows.forEach((row, index) => {
      const view = new DataView(frames[index]?.bytes.buffer ?? new ArrayBuffer(4224));
      expect(Number(row.frame_id)).toBe(index + 1);
      expect(Number(row.seq)).toBe(Number(view.getBigUint64(4192, true)));
      expect(row.velocity).toBe(view.getFloat32(4120, true));
      expect(row.delta_time).toBe(view.getFloat32(4112, true));
      expect(row.conversation_hash).toBe(view.getBigUint64(4136, true));
      expect(row.flags).toBe(view.getUint16(4202, true));
      expect(row.type_id).toBe(view.getInt32(4208, true));
      expect(row.model_id).toBe(view.getUint32(4204, true));
      expect(row.journal_id).toBe(view.getUint32(4212, true));
      expect(row.w).toBe(view.getFloat32(4176, true));
      const semantic = (row.semantic as { items: number[] } | null)?.items;
      if (semantic !== undefined) {
        const stored = Float32Array.from(semantic);
        expect(Buffer.compare(new Uint8Array(stored.buffer), new Uint8Array(view.buffer, 16, 4096))).toBe(0);
      }
    });
  });
});
