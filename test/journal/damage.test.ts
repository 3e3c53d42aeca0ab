import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { PHYSICS_BYTES } from "../../src/frame.ts";
import { event, FROM, frame, openAt, rowsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();
const EVENTS = 400;
const FRAMED = 200;
const bodyOf = (seq: number): string => JSON.stringify({ n: seq, text: `message ${seq} `.repeat(40) });

/** A closed journal with EVENTS events, the first FRAMED of them with frames. */
async function filled(): Promise<string> {
  const path = newPath();
  const journal = openAt(path);
  const events = Array.from({ length: EVENTS }, (_, index) =>
    event({ body: new TextEncoder().encode(bodyOf(index + 1)), message: `olá ${index} \ud800 \0 ☕` }),
  );
  await journal.append(events, FROM);
  const vector = new Float32Array(64).fill(0.5);
  await journal.decide(Array.from({ length: FRAMED }, (_, index) => frame(index + 1, { vector })));
  journal[Symbol.dispose]();
  return path;
}

/** Reads everything as the pipeline does. */
function readAll(path: string) {
  const named: string[] = [];
  const journal = openAt(path);
  journal.damage.onDamage = (message) => named.push(message);
  try {
    const events: string[] = [];
    const seqs: number[] = [];
    for (let after = 0; ; after = seqs.at(-1) ?? after) {
      const part = journal.unframedAfter(after, 64);
      for (const { seq, body } of part) {
        seqs.push(seq);
        events.push(new TextDecoder().decode(body));
      }
      if (part.length === 0) break;
    }
    const frames: number[] = [];
    for (let from = 1; ; from = (frames.at(-1) ?? 0) + 1) {
      const part = journal.framesFrom(from, 64);
      for (const { frameId, physics, vector } of part) {
        expect(physics.every((byte) => byte === frameId % 256)).toBe(true);
        expect(vector).toEqual(new Float32Array(64).fill(0.5));
        frames.push(frameId);
      }
      if (part.length === 0) break;
    }
    return { events, seqs, frames, named, damaged: journal.damage.rows };
  } finally {
    journal[Symbol.dispose]();
  }
}

test("odd texts and bytes are whole after they were stored", async () => {
  const { seqs, frames, damaged } = readAll(await filled());
  expect([seqs.length, frames.length, damaged]).toEqual([EVENTS - FRAMED, FRAMED, 0]);
});

test("a journal of version 1 is migrated, and its rows without checksum are read", async () => {
  const path = await filled();
  const old = new Database(path);
  for (const log of ["events", "frames", "answers"]) old.run(`ALTER TABLE ${log} DROP COLUMN checksum`);
  old.run("PRAGMA user_version = 1");
  old.close(true);
  const { seqs, frames, damaged } = readAll(path);
  expect([seqs.length, frames.length, damaged]).toEqual([EVENTS - FRAMED, FRAMED, 0]);
  expect(rowsOf(path, "PRAGMA user_version")).toEqual([[2]]);
});

test("a changed value is named, counted once, and passed over", async () => {
  const path = await filled();
  const database = new Database(path);
  database.run("UPDATE events SET body = '{}' WHERE seq = 300");
  database.run("UPDATE frames SET intent = 'other' WHERE frame_id = 7");
  database.close(true);
  const { seqs, frames, named, damaged } = readAll(path);
  expect(seqs).not.toContain(300);
  expect(frames).not.toContain(7);
  expect([seqs.length, frames.length, damaged]).toEqual([EVENTS - FRAMED - 1, FRAMED - 1, 2]);
  expect(named).toEqual([
    "row 300 of events is damaged (its checksum differs); it is passed over",
    "row 7 of frames is damaged (its checksum differs); it is passed over",
  ]);
});

/** Zeroes the first page of the file whose bytes `holds` accepts. */
function zeroPage(path: string, holds: (page: Buffer) => boolean): void {
  const bytes = readFileSync(path);
  const pageBytes = bytes.readUInt16BE(16);
  for (let at = pageBytes; at < bytes.length; at += pageBytes) {
    if (!holds(bytes.subarray(at, at + pageBytes))) continue;
    writeFileSync(path, bytes.fill(0, at, at + pageBytes));
    return;
  }
  throw new Error("no such page");
}

/** The number of a message whose whole row is on the page; null if there is none. */
const holdsMessage = (n: number) => (page: Buffer) => page.includes(`message ${n} message ${n}`);

describe("a rebuilt journal", () => {
  test("has all rows but those of the damaged page, and goes on with the next numbers", async () => {
    const path = await filled();
    zeroPage(path, holdsMessage(300));
    const { seqs, frames, named, damaged } = readAll(path);
    expect(seqs).not.toContain(300);
    expect(seqs.length).toBeGreaterThan(EVENTS - FRAMED - 40);
    expect(frames).toHaveLength(FRAMED);
    expect(named[0]).toMatch(/a new journal was made of the rows that can be read; \d+ rows/);
    expect(damaged).toBe(EVENTS - FRAMED - seqs.length);
    expect(rowsOf(path, "PRAGMA integrity_check")).toEqual([["ok"]]);
    const kept = readdirSync(dirname(path)).filter((name) => name.includes(".damaged-"));
    expect(kept).toHaveLength(1);

    using journal = openAt(path);
    const [added] = await journal.append([event({ id: null })], FROM);
    expect(added?.seq).toBe(EVENTS + 1);
    expect(await journal.decide([frame(EVENTS + 1)])).toBe(FRAMED + 1);
  });

  test("keeps a lost frame's number and event apart from later ones", async () => {
    const path = await filled();
    // Pages of frames hold their provenance many times; one in the middle is zeroed.
    zeroPage(path, (page) => page[0] === 13 && page.includes(Buffer.alloc(PHYSICS_BYTES, 100)));
    readAll(path);
    const { frames, named } = readAll(path);
    expect(frames).not.toContain(100);
    expect(frames.length).toBeGreaterThan(FRAMED / 2);
    using journal = openAt(path);
    const unframed = journal.unframedAfter(0, EVENTS).map(({ seq }) => seq);
    expect(Math.min(...unframed)).toBe(FRAMED + 1);
    expect(await journal.decide([frame(FRAMED + 1)])).toBe(FRAMED + 1);
    expect(named.join("\n")).toContain("row 100 of frames is damaged");
  });

  test("has every row that can still be looked up by itself, also on a page whose order is damaged", async () => {
    const found: number[] = [];
    for (let n = 210; n < 400; n += 7) {
      const path = await filled();
      const bytes = readFileSync(path);
      const pageBytes = bytes.readUInt16BE(16);
      const at = bytes.indexOf(`message ${n} message ${n}`);
      const page = at - (at % pageBytes);
      // The rows of a page stand at its end, so that those in the first half stay.
      writeFileSync(path, bytes.fill(0, page + pageBytes / 2, page + pageBytes));
      const copy = `${path}.copy`;
      writeFileSync(copy, bytes);
      const single = new Database(copy);
      const readable: number[] = [];
      for (let seq = FRAMED + 1; seq <= EVENTS; seq++) {
        try {
          const [[body] = []] = single.prepare("SELECT body FROM events WHERE seq = ?").values(seq);
          if (body instanceof Uint8Array && new TextDecoder().decode(body) === bodyOf(seq))
            readable.push(seq);
        } catch {
          // Its page cannot be read.
        }
      }
      single.close();
      const { seqs } = readAll(path);
      expect(readable.filter((seq) => !seqs.includes(seq))).toEqual([]);
      found.push(...readable);
    }
    expect(found.length).toBeGreaterThan(0);
  });

  test("is made at the next start if a damaged page is met later", async () => {
    const path = await filled();
    const told: string[] = [];
    {
      using journal = openAt(path);
      journal.damage.onDamage = (message) => told.push(message);
      journal.damage.note("events", 300, "database disk image is malformed");
    }
    expect(told.at(-1)).toMatch(/a page is damaged: restart the gateway/);
    expect(existsSync(`${path}.rebuild`)).toBe(true);
    const { seqs, named } = readAll(path);
    expect(seqs).toHaveLength(EVENTS - FRAMED);
    expect(named[0]).toMatch(/a new journal was made of the rows that can be read; 0 rows/);
    expect(existsSync(`${path}.rebuild`)).toBe(false);
  });

  test("is made again if a kill left a half-made one", async () => {
    const path = await filled();
    zeroPage(path, holdsMessage(300));
    writeFileSync(`${path}.rebuilt`, "half");
    writeFileSync(`${path}.rebuilt-wal`, "half");
    expect(readAll(path).seqs.length).toBeGreaterThan(EVENTS - FRAMED - 40);
    expect(readdirSync(dirname(path)).filter((name) => name.includes(".rebuilt"))).toEqual([]);
  });

  test("keeps dedup keys and small tables", async () => {
    const path = await filled();
    {
      using journal = openAt(path);
      await journal.append([event({ key: "order-1" })], FROM);
      journal.table("schemas").write([{ key: "Order", value: "{}" }]);
    }
    zeroPage(path, holdsMessage(300));
    readAll(path);
    using journal = openAt(path);
    const [repeated] = await journal.append([event({ key: "order-1" })], FROM);
    expect(repeated?.duplicate).toBe(true);
    expect(journal.table("schemas").all()).toEqual([{ key: "Order", value: "{}" }]);
  });

  test("is refused by name if its identity cannot be read, and the file is left as it is", async () => {
    const path = await filled();
    zeroPage(path, (page) => page.includes("journal.id"));
    const before = readFileSync(path);
    for (let turn = 0; turn < 2; turn++)
      expect(() => openAt(path)).toThrow(/the id of the journal cannot be read; put back a copy/);
    expect(readFileSync(path).equals(before)).toBe(true);
  });
});

describe("seeded damage to pages", () => {
  const seed = Number(process.env.DAMAGE_SEED ?? 1);
  test(`no row is wrong, and no error is without a name (seed ${seed})`, async () => {
    console.log(`damage: DAMAGE_SEED=${seed}`);
    const path = await filled();
    const clean = readFileSync(path);
    const pageBytes = clean.readUInt16BE(16);
    let state = seed;
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state % below;
    };
    const outcomes = { whole: 0, damaged: 0, refused: 0 };
    for (let page = 0; page < statSync(path).size / pageBytes; page++) {
      const bytes = Buffer.from(clean);
      const at = page * pageBytes;
      if (random(2) === 0) bytes.fill(0, at, at + pageBytes);
      else for (let n = 0; n < 40; n++) bytes.writeUInt8(random(256), at + random(pageBytes));
      writeFileSync(path, bytes);
      try {
        const { events, seqs, damaged } = readAll(path);
        for (const [index, seq] of seqs.entries()) expect(events[index]).toBe(bodyOf(seq));
        if (damaged === 0) outcomes.whole++;
        else outcomes.damaged++;
      } catch (error) {
        if (!(error instanceof GatewayError)) throw new Error(`page ${page}: ${error}`, { cause: error });
        expect(error.message).toContain(path);
        outcomes.refused++;
      }
    }
    console.log(`damage: ${JSON.stringify(outcomes)}`);
    expect(outcomes.damaged).toBeGreaterThan(20);
  });
});
