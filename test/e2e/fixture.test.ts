/** Files of earlier versions open with all their content. test/fixtures/README.md says how they were made. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { apiFrames, duckRows, Gateway, ringFrames, ringHead, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const FIXTURES = resolve(import.meta.dir, "../fixtures");
const FRAME_BYTES = 4224;
const CAPACITY = 16;
const REFILLED = 16;

/** The part of a frame that never changes: everything but its sequence and its refill flag. */
function lasting(frame: Uint8Array): Uint8Array {
  const copy = frame.slice(8);
  const view = new DataView(copy.buffer);
  view.setUint16(4202 - 8, view.getUint16(4202 - 8, true) & ~REFILLED, true);
  return copy;
}

for (const version of ["v1"]) {
  for (const how of ["stopped", "killed"]) {
    test(`the files of ${version}, ${how}: every event, frame and key is kept, and frame ids continue`, async () => {
      using folder = new TempFolder();
      const source = join(FIXTURES, version, how);
      for (const name of readdirSync(source)) {
        copyFileSync(
          join(source, name),
          name.startsWith("ring") ? folder.ring + name.slice(4) : folder.file(name),
        );
      }
      const bodies = JSON.parse(readFileSync(join(source, "bodies.json"), "utf8")) as string[];
      const recorded = readFileSync(join(source, "frames.bin"));
      const count = recorded.byteLength / FRAME_BYTES;
      expect(count).toBe(bodies.length);
      const db = folder.file("events.duckdb");
      const args = ["--db-path", db, "--ring-capacity", String(CAPACITY)];
      await using gateway = await Gateway.start(folder, { args });
      await until("the ring exists", () => gateway.log.includes(`next frame ${count + 1}`));

      const frames = await apiFrames(gateway);
      expect(frames.length).toBe(count);
      frames.forEach((frame, index) => {
        const before = recorded.subarray(index * FRAME_BYTES, (index + 1) * FRAME_BYTES);
        expect(Buffer.compare(lasting(frame), lasting(Uint8Array.from(before)))).toBe(0);
      });
      const inRing = ringFrames(folder.ring);
      expect(inRing.map(({ frameId }) => frameId)).toEqual(
        Array.from({ length: CAPACITY }, (_, index) => count - CAPACITY + 1 + index),
      );
      for (const { frameId, bytes } of inRing) {
        expect(
          Buffer.compare(lasting(bytes), lasting(frames[frameId - 1] ?? new Uint8Array(FRAME_BYTES))),
        ).toBe(0);
      }

      for (const [index, body] of bodies.entries()) {
        // Version 1 took an id alone for a key and did not note the body, so it cannot be known whether this is a repeat.
        if (!("idempotency_key" in (JSON.parse(body) as object))) continue;
        const reply = await gateway.post(body);
        expect(await reply.json()).toMatchObject({ seq: index + 1, duplicate: true });
      }
      expect(await (await gateway.post({ message: "a próxima" })).json()).toMatchObject({ seq: count + 1 });
      await until("every event is framed", () => (ringHead(folder.ring)?.head ?? 0) === count + 2);
      // A gateway that stops before DuckDB is open leaves the newest event to the next start.
      await until("DuckDB is open", async () => {
        const { parts } = await gateway.json<{ parts: { store: { state: string } } }>("/ready");
        return parts.store.state === "ok";
      });
      expect(await gateway.stop()).toBe(0);

      const rows = await duckRows(db, "SELECT seq, payload FROM events ORDER BY seq");
      expect(rows.slice(0, count).map((row) => row.payload)).toEqual(bodies);
      expect(rows.length).toBe(count + 1);
      expect((await duckRows(db, "SELECT count(*) AS n FROM enrichments"))[0]).toEqual({
        n: BigInt(count + 1),
      });
    });
  }
}
