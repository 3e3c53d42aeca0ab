/**
 * Rows on their way between journal, DuckDB and ring: the journal's rows become data chunks, and result chunks become raw frames.
 * Columns are copied as typed arrays; nothing here waits. Part of the store's Worker.
 */

import type { Database as Journal, Statement } from "bun:sqlite";
import {
  FLAG,
  FRAME_BYTES,
  type FrameFieldName,
  type LayoutField,
  OFFSET,
  PHYSICS_BYTES,
  PHYSICS_OFFSET,
  SEMANTIC_DIM_MAX,
  wholeSequence,
} from "../frame.ts";
import { CHECKSUM_DIFFERS, decidedChecksum, eventChecksum, readAround } from "../row-damage.ts";
import type { Run } from "./backlog.ts";
import { VECTOR_ROWS } from "./bounds.ts";
import { duckdb } from "./database.ts";
import type { DamagedRow, StoreCursors } from "./protocol.ts";
import { CURSOR_COLUMNS, EVENT_COLUMNS, FRAME_COLUMNS, PHYSICS_FIELDS, SCHEMA_VERSION } from "./schema.ts";

/** Rows in a data chunk. */
export const CHUNK_ROWS = VECTOR_ROWS;
/**
 * Bytes of bodies in a data chunk. While it is filled, each of them and its message are in memory several times. At least one event goes
 * in, however large.
 */
const CHUNK_BODY_BYTES_MAX = 4 * 1024 * 1024;

type Items = Float32Array | BigInt64Array | BigUint64Array | Int32Array | Uint32Array | Uint16Array;

/**
 * The typed array behind a column of numbers. The package's types hide it, but its own setItem writes to it. Filling it directly is
 * 30 times faster than one setItem for each value.
 */
function itemsOf<T extends Items>(vector: duckdb.DuckDBVector): T {
  const { items } = vector as unknown as { items?: T };
  if (items === undefined) throw new Error(`store: a column of ${vector.type} has no typed array`);
  return items;
}

/** The column of the elements behind an array column. */
function childOf(vector: duckdb.DuckDBVector): duckdb.DuckDBVector {
  const { childData } = vector as unknown as { childData?: duckdb.DuckDBVector };
  if (childData === undefined) throw new Error(`store: a column of ${vector.type} has no elements`);
  return childData;
}

const TYPE_OF_SQL: Readonly<Record<string, duckdb.DuckDBType>> = {
  BIGINT: duckdb.BIGINT,
  UBIGINT: duckdb.UBIGINT,
  INTEGER: duckdb.INTEGER,
  UINTEGER: duckdb.UINTEGER,
  USMALLINT: duckdb.USMALLINT,
  FLOAT: duckdb.FLOAT,
  VARCHAR: duckdb.VARCHAR,
  BLOB: duckdb.BLOB,
  "FLOAT[4]": duckdb.ARRAY(duckdb.FLOAT, 4),
  [`FLOAT[${SEMANTIC_DIM_MAX}]`]: duckdb.ARRAY(duckdb.FLOAT, SEMANTIC_DIM_MAX),
};

function chunkOf(
  columns: readonly { readonly name: string; readonly sqlType: string }[],
): duckdb.DuckDBDataChunk {
  return duckdb.DuckDBDataChunk.create(
    columns.map((column) => {
      const type = TYPE_OF_SQL[column.sqlType];
      if (type === undefined) throw new Error(`store: no type for column ${column.name} ${column.sqlType}`);
      return type;
    }),
  );
}

type SqlValue = string | number | Uint8Array | null;
type Row = readonly SqlValue[];
/** Is told about a row of the journal that is passed over. */
export type OnDamage = (damage: DamagedRow) => void;

/** Whether the row of an event is as it was written. Rows of older journals have no checksum. */
function isWholeEvent(row: Row): boolean {
  const [seq, id, receivedUs, timestampUs, type, conversationId, message, source, body, fields, sum] = row;
  if (sum === null) return true;
  const texts = { id, type, message, conversationId, fields, source, body };
  return sum === eventChecksum({ seq, receivedUs, timestampUs, ...texts });
}

/** The same for the row of a frame or an update. */
function isWholeDecided(row: Row): boolean {
  const [id, seq, decidedUs, eventType, intent, provenance, physics, , vector, sum] = row;
  if (sum === null) return true;
  return sum === decidedChecksum({ id, seq, decidedUs, physics, vector, eventType, intent, provenance });
}

function textOrNull(value: SqlValue | undefined): string | null {
  return typeof value === "string" ? value : null;
}

/** Fills a BIGINT column. What is not a number becomes NULL. */
function fillBigInts(vector: duckdb.DuckDBVector, rows: readonly Row[], column: number): void {
  const items = itemsOf<BigInt64Array>(vector);
  rows.forEach((row, index) => {
    const value = row[column];
    if (typeof value === "number") items[index] = BigInt(value);
    else vector.setItem(index, null);
  });
  vector.flush();
}

function fillTexts(vector: duckdb.DuckDBVector, rows: readonly Row[], column: number): void {
  rows.forEach((row, index) => {
    vector.setItem(index, textOrNull(row[column]));
  });
  vector.flush();
}

/** Copies events from the journal into DuckDB. It owns one data chunk and reuses it. */
export class EventWriter {
  #chunk = chunkOf(EVENT_COLUMNS);
  #sizes: Statement<unknown, [number, number, number]>;
  #select: Statement<unknown, [number, number]>;
  #onDamage: OnDamage;

  constructor(journal: Journal, onDamage: OnDamage) {
    this.#onDamage = onDamage;
    this.#sizes = journal.prepare(
      "SELECT seq, length(body) FROM events WHERE seq >= ? AND seq <= ? ORDER BY seq LIMIT ?",
    );
    this.#select = journal.prepare(
      `SELECT seq, id, received_us, timestamp_us, type, conversation_id, message, source, CAST(body AS TEXT),
         fields, checksum FROM events WHERE seq >= ? AND seq <= ? ORDER BY seq`,
    );
  }

  /**
   * Appends the next events of a range, at most CHUNK_ROWS.
   * @param range above `afterSeq` and up to `headSeq`; `bytesMax`: bytes of bodies, if fewer than CHUNK_BODY_BYTES_MAX.
   * @returns `seq`: the new cursor; `largestBytes`: the largest body.
   */
  append(
    appender: duckdb.DuckDBAppender,
    range: { readonly afterSeq: number; readonly headSeq: number; readonly bytesMax: number },
  ): { seq: number; rows: number; bytes: number; largestBytes: number } {
    const { afterSeq, headSeq } = range;
    const bytesMax = Math.min(range.bytesMax, CHUNK_BODY_BYTES_MAX);
    const lost = (seq: number, why: string): void => this.#onDamage({ log: "events", id: seq, why });
    const sizes = readAround(afterSeq + 1, headSeq, {
      read: (low, high) => this.#sizes.values(low, high, CHUNK_ROWS) as [number, number][],
      lost,
    }).slice(0, CHUNK_ROWS);
    let bytes = 0;
    let count = 0;
    let largestBytes = 0;
    for (const [, bodyBytes] of sizes) {
      if (count > 0 && bytes + bodyBytes > bytesMax) break;
      bytes += bodyBytes;
      largestBytes = Math.max(largestBytes, bodyBytes);
      count++;
    }
    const last = sizes[count - 1];
    // No row is left: an ephemeral journal may have dropped the rest before it was read. The cursor passes over it.
    if (last === undefined) return { seq: headSeq, rows: 0, bytes: 0, largestBytes: 0 };
    const rows = readAround(afterSeq + 1, last[0], {
      read: (low, high) => this.#select.values(low, high) as Row[],
      lost,
    }).filter((row) => {
      const whole = typeof row[8] === "string" && isWholeEvent(row);
      if (!whole) lost(row[0] as number, CHECKSUM_DIFFERS);
      return whole;
    });
    const chunk = this.#chunk;
    chunk.reset();
    chunk.rowCount = rows.length;
    if (rows.length > 0) this.#fill(rows);
    if (rows.length > 0) appender.appendDataChunk(chunk);
    const done = count === sizes.length && sizes.length < CHUNK_ROWS;
    const seq = done ? headSeq : last[0];
    return { seq, rows: rows.length, bytes: bytes + 128 * rows.length, largestBytes };
  }

  #fill(rows: readonly Row[]): void {
    EVENT_COLUMNS.forEach((column, index) => {
      const vector = this.#chunk.getColumnVector(index);
      if (column.sqlType === "BIGINT") fillBigInts(vector, rows, index);
      else fillTexts(vector, rows, index);
    });
  }
}

/** Appends the cursors as a row. They only grow, so the newest row is the greatest. */
export class CursorWriter {
  #chunk = chunkOf(CURSOR_COLUMNS);

  append(appender: duckdb.DuckDBAppender, journalId: number, cursors: StoreCursors): void {
    const chunk = this.#chunk;
    chunk.reset();
    chunk.setRows([
      [journalId, SCHEMA_VERSION, BigInt(cursors.seq), BigInt(cursors.frameId), BigInt(cursors.answerId)],
    ]);
    appender.appendDataChunk(chunk);
  }
}

/** The mask of negative zeros numbers the words of a frame from the first float of `semantic` on. */
const FRAME_HEAD_BYTES = OFFSET.semantic;
const PHYSICS_WORDS = PHYSICS_BYTES / 4;
const FRAME_FLOAT_WORDS = (FRAME_BYTES - FRAME_HEAD_BYTES) / 4;
const MASK_BYTES = Math.ceil(FRAME_FLOAT_WORDS / 8);
const NEGATIVE_ZERO = 0x80000000;

/** Indices of the floats among the words of the physics. */
const PHYSICS_FLOAT_WORDS: readonly number[] = PHYSICS_FIELDS.flatMap((field) =>
  field.type === "f32"
    ? Array.from({ length: field.count }, (_, index) => (field.offset - PHYSICS_OFFSET) / 4 + index)
    : [],
);

const ELEMENT_BYTES = { u64: 8, i64: 8, u32: 4, i32: 4, u16: 2, f32: 4 } as const;

type ViewKind = keyof typeof ELEMENT_BYTES;

/** One buffer as an array of every type that a frame has. */
function viewsOf(buffer: ArrayBuffer): Record<ViewKind, Items> {
  return {
    u64: new BigUint64Array(buffer),
    i64: new BigInt64Array(buffer),
    u32: new Uint32Array(buffer),
    i32: new Int32Array(buffer),
    u16: new Uint16Array(buffer),
    f32: new Float32Array(buffer),
  };
}

/**
 * Copies elements between typed arrays of one type. The loop treats every type as floats; this converts nothing, because both sides
 * have the same type.
 */
function copyStrided(
  target: Items,
  source: Items,
  o: { targetAt: number; targetStep: number; sourceAt: number; sourceStep: number; count: number },
): void {
  const to = target as Float32Array;
  const from = source as Float32Array;
  let t = o.targetAt;
  let s = o.sourceAt;
  for (let index = 0; index < o.count; index++) {
    to[t] = from[s] as number;
    t += o.targetStep;
    s += o.sourceStep;
  }
}

/** The columns of `enrichments`. Those of `answers` differ only in the name of the first one. */
const FRAME_TABLE_COLUMNS = [{ name: "frame_id", sqlType: "BIGINT" }, ...FRAME_COLUMNS];
const columnIndex = (name: string): number => FRAME_TABLE_COLUMNS.findIndex((column) => column.name === name);

/** Whether physics and vector have their lengths. A row of an older journal has no checksum that would tell. */
function hasForm(row: Row): boolean {
  const [, , , , , , physics, , vector] = row;
  if (!(physics instanceof Uint8Array) || physics.byteLength !== PHYSICS_BYTES) return false;
  if (!(vector instanceof Uint8Array)) return vector === null;
  return vector.byteLength <= 4 * SEMANTIC_DIM_MAX && vector.byteLength % 4 === 0;
}

/** Copies frames, or updates, from the journal into DuckDB, together with the vectors that were offered. */
export class FrameWriter {
  #chunk = chunkOf(FRAME_TABLE_COLUMNS);
  #physics = new ArrayBuffer(CHUNK_ROWS * PHYSICS_BYTES);
  #physicsBytes = new Uint8Array(this.#physics);
  #physicsViews = viewsOf(this.#physics);
  #withVector: Statement<unknown, [number, number]>;
  #withoutVector: Statement<unknown, [number, number]>;

  #lost: (id: number, why: string) => void;
  /** The frame whose missing row made a commit fail. */
  #missingBefore = 0;

  constructor(journal: Journal, log: "frames" | "answers", onDamage: OnDamage) {
    this.#lost = (id, why) => onDamage({ log, id, why });
    const id = log === "frames" ? "frame_id" : "answer_id";
    const select = (vector: string): Statement<unknown, [number, number]> =>
      journal.prepare(
        `SELECT ${id}, seq, decided_us, event_type, intent, provenance, physics, ${vector}, vector, checksum
         FROM ${log} WHERE ${id} >= ? AND ${id} < ? ORDER BY ${id}`,
      );
    this.#withVector = select("vector");
    this.#withoutVector = select("NULL");
  }

  /**
   * Appends `count` frames of `run` from `firstFrameId` on, at most CHUNK_ROWS.
   * @param gapsAllowed rows may be missing, because an ephemeral journal drops what nobody has read.
   * @throws Error if all rows are missing for the first time, or if one should have a vector that neither the journal nor the
   *   offer holds.
   */
  append(
    appender: duckdb.DuckDBAppender,
    run: Run,
    o: { firstFrameId: number; count: number; gapsAllowed: boolean },
  ): { rows: number; bytes: number } {
    const select = run.vectors === null ? this.#withVector : this.#withoutVector;
    const rows = this.#wholeRows(select, o);
    if (rows.length === 0) return { rows: 0, bytes: 0 };
    const chunk = this.#chunk;
    chunk.reset();
    chunk.rowCount = rows.length;
    for (const name of ["frame_id", "seq", "decided_us"]) {
      fillBigInts(
        chunk.getColumnVector(columnIndex(name)),
        rows,
        ["frame_id", "seq", "decided_us"].indexOf(name),
      );
    }
    for (const [at, name] of ["event_type", "intent", "provenance"].entries()) {
      fillTexts(chunk.getColumnVector(columnIndex(name)), rows, 3 + at);
    }
    const masks = new Map<number, Uint8Array>();
    this.#fillPhysics(rows, masks);
    const vectors = this.#fillSemantic(rows, run, masks);
    this.#fillMasks(rows.length, masks);
    appender.appendDataChunk(chunk);
    return { rows: rows.length, bytes: rows.length * 256 + vectors * 4 * SEMANTIC_DIM_MAX };
  }

  /** The rows that can be stored. Names those that are damaged. */
  #wholeRows(
    select: Statement<unknown, [number, number]>,
    o: { firstFrameId: number; count: number; gapsAllowed: boolean },
  ): Row[] {
    const end = o.firstFrameId + o.count;
    const lost = new Map<number, string>();
    const read = (low: number, high: number): Row[] => select.values(low, high + 1) as Row[];
    const rows = readAround(o.firstFrameId, end - 1, { read, lost: (id, why) => lost.set(id, why) });
    if (!o.gapsAllowed) {
      const there = new Set(rows.map(([id]) => id));
      for (let id = o.firstFrameId; id < end; id++) {
        if (!there.has(id) && !lost.has(id)) lost.set(id, "the journal does not have it");
      }
    }
    // Rows that are missing may have been on their way. Only if they still are after the next opening, they are passed over.
    const [first] = lost.keys();
    if (rows.length === 0 && !o.gapsAllowed && first !== undefined && first !== this.#missingBefore) {
      this.#missingBefore = first;
      throw new Error(
        `the journal has only ${rows.length} of the ${o.count} frames from ${o.firstFrameId} on`,
      );
    }
    const whole = rows.filter((row) => {
      const whole = isWholeDecided(row) && hasForm(row);
      if (!whole) lost.set(row[0] as number, CHECKSUM_DIFFERS);
      return whole;
    });
    for (const [id, why] of lost) this.#lost(id, why);
    return whole;
  }

  #fillPhysics(rows: readonly Row[], masks: Map<number, Uint8Array>): void {
    rows.forEach((row, index) => {
      this.#physicsBytes.set(row[6] as Uint8Array, index * PHYSICS_BYTES);
    });
    const words = this.#physicsViews.u32 as Uint32Array;
    for (let row = 0; row < rows.length; row++) {
      for (const word of PHYSICS_FLOAT_WORDS) {
        if (words[row * PHYSICS_WORDS + word] !== NEGATIVE_ZERO) continue;
        words[row * PHYSICS_WORDS + word] = 0;
        mark(masks, row, SEMANTIC_DIM_MAX + word);
      }
    }
    for (const field of PHYSICS_FIELDS) {
      const vector = this.#chunk.getColumnVector(columnIndex(field.name));
      const elementBytes = ELEMENT_BYTES[field.type];
      const target = itemsOf(field.count === 1 ? vector : childOf(vector));
      for (let element = 0; element < field.count; element++) {
        copyStrided(target, this.#physicsViews[field.type], {
          targetAt: element,
          targetStep: field.count,
          sourceAt: (field.offset - PHYSICS_OFFSET) / elementBytes + element,
          sourceStep: PHYSICS_BYTES / elementBytes,
          count: rows.length,
        });
      }
      vector.flush();
    }
  }

  /** @returns how many rows have a vector. */
  #fillSemantic(rows: readonly Row[], run: Run, masks: Map<number, Uint8Array>): number {
    const vector = this.#chunk.getColumnVector(columnIndex("semantic"));
    const items = itemsOf<Float32Array>(childOf(vector));
    const flags = this.#physicsViews.u16 as Uint16Array;
    const flagsAt = (OFFSET.flags - PHYSICS_OFFSET) / 2;
    let count = 0;
    rows.forEach((row, index) => {
      const at = index * SEMANTIC_DIM_MAX;
      if (((flags[(index * PHYSICS_BYTES) / 2 + flagsAt] as number) & FLAG.semantic) === 0) {
        items.fill(0, at, at + SEMANTIC_DIM_MAX);
        nullify(vector, index);
        return;
      }
      count++;
      if (run.vectors !== null) {
        const from = ((row[0] as number) - run.firstFrameId) * SEMANTIC_DIM_MAX;
        items.set(run.vectors.subarray(from, from + SEMANTIC_DIM_MAX), at);
        return;
      }
      const bytes = row[7];
      if (!(bytes instanceof Uint8Array)) {
        throw new Error(
          `frame ${String(row[0])} should have a vector, but neither the journal nor the offer holds it`,
        );
      }
      items.fill(0, at + bytes.byteLength / 4, at + SEMANTIC_DIM_MAX);
      new Uint8Array(items.buffer, items.byteOffset, items.byteLength).set(bytes, 4 * at);
    });
    const words = new Uint32Array(items.buffer, items.byteOffset, rows.length * SEMANTIC_DIM_MAX);
    for (let word = 0; word < words.length; word++) {
      if (words[word] !== NEGATIVE_ZERO) continue;
      words[word] = 0;
      mark(masks, Math.floor(word / SEMANTIC_DIM_MAX), word % SEMANTIC_DIM_MAX);
    }
    vector.flush();
    return count;
  }

  #fillMasks(rows: number, masks: ReadonlyMap<number, Uint8Array>): void {
    const vector = this.#chunk.getColumnVector(columnIndex("negative_zeros"));
    for (let row = 0; row < rows; row++) {
      const mask = masks.get(row);
      vector.setItem(row, mask === undefined ? null : new duckdb.DuckDBBlobValue(mask));
    }
    vector.flush();
  }
}

/** Notes that a float of a frame is -0.0. DuckDB gets 0.0, and the mask keeps the sign. */
function mark(masks: Map<number, Uint8Array>, row: number, word: number): void {
  let mask = masks.get(row);
  if (mask === undefined) {
    mask = new Uint8Array(MASK_BYTES);
    masks.set(row, mask);
  }
  mask[word >> 3] = (mask[word >> 3] as number) | (1 << (word & 7));
}

/** Marks a row of an array column as NULL without writing a NULL into each element. */
function nullify(vector: duckdb.DuckDBVector, row: number): void {
  const { validity } = vector as unknown as {
    validity?: { setItemValid(row: number, valid: boolean): void };
  };
  if (validity === undefined) throw new Error(`store: a column of ${vector.type} has no validity mask`);
  validity.setItemValid(row, false);
}

/** The columns that {@link FrameBuffer.place} takes, in this order. */
export const FRAME_SELECT = [
  "frame_id",
  "semantic",
  "negative_zeros",
  ...PHYSICS_FIELDS.map((field) => field.name),
]
  .map((name) => `"${name}"`)
  .join(", ");

/** Raw frames under construction, from `firstFrameId` on, with the sequence numbers of a ring of `capacity`. */
export class FrameBuffer {
  readonly buffer: ArrayBuffer;
  readonly #views: Record<ViewKind, Items>;
  readonly #present: Uint8Array;

  constructor(
    readonly firstFrameId: number,
    readonly limit: number,
    readonly capacity: number,
  ) {
    this.buffer = new ArrayBuffer(limit * FRAME_BYTES);
    this.#views = viewsOf(this.buffer);
    this.#present = new Uint8Array(limit);
  }

  /** How many frames are in place before the first gap. */
  contiguous(): number {
    const gap = this.#present.indexOf(0);
    return gap < 0 ? this.limit : gap;
  }

  /** Places the rows of a result chunk (columns of FRAME_SELECT) by their frame_id. */
  place(chunk: duckdb.DuckDBDataChunk): void {
    const rows = chunk.rowCount;
    const ids = itemsOf<BigInt64Array>(chunk.getColumnVector(0));
    const semantic = chunk.getColumnVector(1);
    const elements = itemsOf<Float32Array>(childOf(semantic));
    const validity = (semantic as unknown as { validity: { itemValid(row: number): boolean } }).validity;
    const masks = chunk.getColumnVector(2) as duckdb.DuckDBBlobVector;
    const f32 = this.#views.f32 as Float32Array;
    const u64 = this.#views.u64 as BigUint64Array;
    const u32 = this.#views.u32 as Uint32Array;
    const slots = new Int32Array(rows);
    for (let row = 0; row < rows; row++) {
      const frameId = Number(ids[row]);
      const slot = frameId - this.firstFrameId;
      if (slot < 0 || slot >= this.limit) throw new Error(`store: frame ${frameId} was not requested`);
      slots[row] = slot;
      u64[(slot * FRAME_BYTES + OFFSET.sequence) / 8] = BigInt(wholeSequence(frameId, this.capacity));
      u64[(slot * FRAME_BYTES + OFFSET.frame_id) / 8] = BigInt(frameId);
      if (validity.itemValid(row)) {
        const vector = elements.subarray(row * SEMANTIC_DIM_MAX, (row + 1) * SEMANTIC_DIM_MAX);
        f32.set(vector, (slot * FRAME_BYTES + OFFSET.semantic) / 4);
      }
    }
    for (const [index, field] of PHYSICS_FIELDS.entries()) {
      this.#placeField(chunk.getColumnVector(3 + index), field, slots);
    }
    for (let row = 0; row < rows; row++) {
      const mask = masks.getItemBytes(row);
      const slot = slots[row] as number;
      if (mask !== null) restoreNegativeZeros(u32, (slot * FRAME_BYTES + FRAME_HEAD_BYTES) / 4, mask);
      this.#present[slot] = 1;
    }
  }

  #placeField(vector: duckdb.DuckDBVector, field: LayoutField, slots: Int32Array): void {
    const source = itemsOf(field.count === 1 ? vector : childOf(vector)) as Float32Array;
    const target = this.#views[field.type] as Float32Array;
    const elementBytes = ELEMENT_BYTES[field.type];
    for (let row = 0; row < slots.length; row++) {
      const at = ((slots[row] as number) * FRAME_BYTES + OFFSET[field.name as FrameFieldName]) / elementBytes;
      for (let element = 0; element < field.count; element++) {
        target[at + element] = source[row * field.count + element] as number;
      }
    }
  }
}

function restoreNegativeZeros(words: Uint32Array, frameAt: number, mask: Uint8Array): void {
  mask.forEach((bits, byte) => {
    if (bits === 0) return;
    for (let bit = 0; bit < 8; bit++) {
      if ((bits & (1 << bit)) !== 0) words[frameAt + 8 * byte + bit] = NEGATIVE_ZERO;
    }
  });
}
