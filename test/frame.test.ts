import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import {
  conversationHash,
  decodeFrame,
  encodeFrame,
  encodePhysics,
  FRAME_BYTES,
  FRAME_FIELDS,
  fillChecksum,
  frameChecksum,
  labelId,
  modelId,
  OFFSET,
  PHYSICS_BYTES,
  PHYSICS_OFFSET,
  type Physics,
  shortestOfF32,
  wholeSequence,
} from "../src/frame.ts";

setDefaultTimeout(60_000);

const GOLDEN = join(import.meta.dir, "golden");
const bytes = new Uint8Array(readFileSync(join(GOLDEN, "frames.bin")));

/** A frame in test/golden/frames.json: 64-bit numbers as decimal strings, and only the leading floats. */
type GoldenFrame = { readonly [name: string]: string | number | readonly number[] };

const golden = JSON.parse(readFileSync(join(GOLDEN, "frames.json"), "utf8")) as {
  readonly capacity: number;
  readonly frame_bytes: number;
  readonly texts: Readonly<Record<"conversation_hash" | "intent_id" | "type_id" | "model_id", string>>;
  readonly frames: readonly GoldenFrame[];
};

const FIELDS_64 = new Set(
  FRAME_FIELDS.filter(({ type }) => type === "u64" || type === "i64").map(({ name }) => name as string),
);
/** Fields of Physics that are bigint; the other 64-bit ones are numbers, exact up to 2⁵³. */
const BIGINTS = new Set(["conversation_hash", "checksum"]);

function physicsOf(frame: GoldenFrame): Physics {
  const entries = Object.entries(frame)
    .filter(([name]) => !["sequence", "frame_id", "semantic"].includes(name))
    .map(([name, value]) => {
      if (BIGINTS.has(name)) return [name, BigInt(value as string)];
      return [name, FIELDS_64.has(name) ? Number(value) : value];
    });
  return Object.fromEntries(entries) as Physics;
}

describe("the golden frames", () => {
  test("have the size that the format defines", () => {
    expect(golden.frame_bytes).toBe(FRAME_BYTES);
    expect(bytes.length).toBe(golden.frames.length * FRAME_BYTES);
    expect(golden.frames.length).toBeGreaterThan(3);
  });

  test("name every field of the table", () => {
    const names = FRAME_FIELDS.map(({ name }) => name as string).sort();
    for (const frame of golden.frames) expect(Object.keys(frame).sort()).toEqual(names);
  });

  for (const [index, frame] of golden.frames.entries()) {
    test(`frame ${frame.frame_id}: decodeFrame reads every field`, () => {
      const decoded = decodeFrame(bytes, index * FRAME_BYTES);
      const { semantic, frame_id, ...physics } = decoded;
      expect(physics).toEqual(physicsOf(frame));
      expect(BigInt(frame_id)).toBe(BigInt(frame.frame_id as string));
      const vector = frame.semantic as readonly number[];
      expect([...semantic.subarray(0, vector.length)]).toEqual([...vector]);
      expect(semantic.subarray(vector.length).every((value) => value === 0)).toBe(true);
    });

    test(`frame ${frame.frame_id}: encodeFrame writes the same bytes`, () => {
      const vector = Float32Array.from(frame.semantic as readonly number[]);
      // Nothing may remain of the frame that the slot held before.
      const target = new Uint8Array(FRAME_BYTES + 16).fill(0xa5);
      encodeFrame(target, 8, {
        frameId: Number(frame.frame_id),
        capacity: golden.capacity,
        physics: encodePhysics(physicsOf(frame)),
        vector: vector.length === 0 ? null : vector,
      });
      const expected = bytes.subarray(index * FRAME_BYTES, (index + 1) * FRAME_BYTES);
      expect(Buffer.compare(target.subarray(8, 8 + FRAME_BYTES), expected)).toBe(0);
      expect([...target.subarray(0, 8), ...target.subarray(8 + FRAME_BYTES)]).toEqual(Array(16).fill(0xa5));
    });

    test(`frame ${frame.frame_id}: its sequence is that of a whole frame in a ring of ${golden.capacity}`, () => {
      const view = new DataView(bytes.buffer, bytes.byteOffset + index * FRAME_BYTES);
      expect(String(view.getBigUint64(OFFSET.sequence, true))).toBe(frame.sequence as string);
      expect(String(wholeSequence(Number(frame.frame_id), golden.capacity))).toBe(frame.sequence as string);
    });
  }

  test("carry the ids of their texts", () => {
    const plain = physicsOf(golden.frames[0] as GoldenFrame);
    const { texts } = golden;
    expect(plain.conversation_hash).toBe(conversationHash(texts.conversation_hash));
    expect(plain.intent_id).toBe(labelId(texts.intent_id));
    expect(plain.type_id).toBe(labelId(texts.type_id));
    expect(plain.model_id).toBe(modelId(texts.model_id));
  });
});

describe("encoding", () => {
  const f32 = fc.float({ noNaN: true, noDefaultInfinity: true });
  const i32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
  const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });
  const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const anyPhysics: fc.Arbitrary<Physics> = fc.record({
    delta_time: f32,
    duration_ms: f32,
    velocity: f32,
    interrupt: f32,
    timestamp_us: fc.maxSafeInteger(),
    conversation_hash: u64,
    workflow_node: i32,
    case_status: i32,
    lead_status: i32,
    fill_rate: f32,
    actor_type: i32,
    intent_id: i32,
    sentiment: f32,
    confidence: f32,
    spin: fc.tuple(f32, f32, f32, f32),
    event_seq: fc.maxSafeNat(),
    semantic_dim: fc.integer({ min: 0, max: 65_535 }),
    flags: fc.integer({ min: 0, max: 65_535 }),
    model_id: u32,
    type_id: i32,
    journal_id: u32,
    checksum: u64,
  });

  test("any physics survives encoding and decoding", () => {
    fc.assert(
      fc.property(anyPhysics, fc.integer({ min: 1, max: 2 ** 50 }), (physics, frameId) => {
        const frame = new Uint8Array(FRAME_BYTES);
        encodeFrame(frame, 0, { frameId, capacity: 7, physics: encodePhysics(physics), vector: null });
        const { semantic, frame_id, ...decoded } = decodeFrame(frame);
        expect(frame_id).toBe(frameId);
        expect(semantic.every((value) => value === 0)).toBe(true);
        expect(decoded).toEqual(physics);
      }),
    );
  });

  test("a float that is not finite, also after rounding to float32, never becomes a frame", () => {
    const physics = physicsOf(golden.frames[0] as GoldenFrame);
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 1e39, -1e300]) {
      for (const name of ["delta_time", "duration_ms", "velocity", "interrupt", "fill_rate"] as const) {
        expect(() => encodePhysics({ ...physics, [name]: value })).toThrow(`frame: ${name} of event 41`);
      }
      expect(() => encodePhysics({ ...physics, spin: [1, 0, 0, value] })).toThrow("frame: spin of event 41");
    }
    expect(encodePhysics(physics).length).toBe(PHYSICS_BYTES);
  });
});

describe("the checksum", () => {
  const checked = golden.frames.at(-1) as GoldenFrame;
  const raw = bytes.slice(bytes.length - FRAME_BYTES);

  /** Computed from the text of docs/FRAME.md alone, in exact integers. */
  function byDefinition(frame: Uint8Array): bigint {
    const mask = (1n << 32n) - 1n;
    const fmix32 = (k: bigint): bigint => {
      let x = k;
      x = ((x ^ (x >> 16n)) * 0x85ebca6bn) & mask;
      x = ((x ^ (x >> 13n)) * 0xc2b2ae35n) & mask;
      return x ^ (x >> 16n);
    };
    const view = new DataView(frame.buffer, frame.byteOffset, FRAME_BYTES);
    let low = 0n;
    let high = 0n;
    for (let k = 0n; k < 1050n; k++) {
      let word = BigInt(view.getUint32(16 + 4 * Number(k), true));
      // Bit 4 of the u16 at 4202.
      if (k === BigInt((4200 - 16) / 4)) word &= ~(16n << 16n);
      const u = word ^ (word >> 16n);
      low = (low + u * (fmix32(2n * k + 1n) | 1n)) & mask;
      high = (high + u * (fmix32(2n * k + 2n) | 1n)) & mask;
    }
    const sum = (high << 32n) | low;
    return sum === 0n ? 1n : sum;
  }

  const parts = (frame: Uint8Array): [Uint8Array, Float32Array] => [
    frame.slice(PHYSICS_OFFSET),
    new Float32Array(frame.slice(16, PHYSICS_OFFSET).buffer),
  ];

  test("of the golden frame that has one follows the definition, which leaves out its own field", () => {
    expect(byDefinition(raw)).toBe(BigInt(checked.checksum as string));
    expect(frameChecksum(...parts(raw))).toBe(byDefinition(raw));
    const [physics] = parts(raw);
    physics.fill(0, 4216 - PHYSICS_OFFSET);
    // Zeros past semantic_dim add nothing, so the leading floats suffice.
    fillChecksum(physics, parts(raw)[1].subarray(0, 384));
    expect(physics).toEqual(raw.slice(PHYSICS_OFFSET));
  });

  test("changes with every bit that it covers, and not with the refill flag", () => {
    const sums = new Set([byDefinition(raw)]);
    for (let at = 16; at < 4216; at++) {
      const frame = raw.slice();
      const bit = at === 4202 ? 1 : 1 << (at % 8);
      frame[at] = (frame[at] as number) ^ bit;
      sums.add(frameChecksum(...parts(frame)));
    }
    expect(sums.size).toBe(1 + 4200);
    const refilled = raw.slice();
    refilled[4202] = (refilled[4202] as number) ^ 16;
    expect(frameChecksum(...parts(refilled))).toBe(byDefinition(raw));
  });

  test("of two halves is the checksum of neither frame, wherever they meet", () => {
    // The hardest case for a checksum: every float is a small whole number, so all low bits are 0.
    const whole = (id: number): Uint8Array => {
      const frame = new Uint8Array(FRAME_BYTES);
      new Float32Array(frame.buffer, 16, 1050).fill(id);
      return frame;
    };
    const sums = new Set<bigint>();
    for (let word = 0; word <= 1050; word++) {
      const torn = whole(3);
      torn.set(whole(19).subarray(16 + 4 * word, 4216), 16 + 4 * word);
      sums.add(frameChecksum(...parts(torn)));
    }
    expect(sums.size).toBe(1051);
  });

  test("of all zeros is not 0, because 0 means that there is no checksum", () => {
    expect(frameChecksum(new Uint8Array(PHYSICS_BYTES), null)).toBe(1n);
  });
});

test("the shortest number of an f32 is stored as the same f32, and is the one that was written", () => {
  for (const value of [0.9, -0.25, 0.1, 1, 0, 1e-7, 123456.79, 0.333])
    expect(shortestOfF32(Math.fround(value))).toBe(value);
  fc.assert(
    fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (value) => {
      expect(Math.fround(shortestOfF32(value))).toBe(value === 0 ? shortestOfF32(value) : value);
    }),
  );
});
