/** Checks whether every frame of a ring is as docs/FRAME.md defines it. */
import { FLAG, FRAME_BYTES, OFFSET, SEMANTIC_DIM_MAX } from "../frame.ts";
import { type FrameRange, fitsChecksum, type RingReader, RingUnreadable } from "./reader.ts";

/** Frames copied and checked together: 1 MB. */
const SLICE_FRAMES = 256;
/** @bound frame ids that `ring verify` names for each kind of damage | they are counted, not named */
const NAMED_MAX = 10;
/** Length of a unit vector in float32, summed over at most 1,024 of them. */
const UNIT_TOLERANCE = 1e-3;
const KNOWN_FLAGS = Object.values(FLAG).reduce((sum, bit) => sum | bit, 0);

/** Kinds of damage, in the order in which they are reported. */
export const DAMAGE = {
  header: "head and tail do not fit together",
  sequence: "not whole, although between tail and head",
  frame_id: "the slot holds another frame_id",
  not_finite: "a float is infinite or no number",
  padding: "semantic is not zero past semantic_dim",
  norm: "semantic is not of length 1",
  spin: "spin is not of length 1",
  flags: "a flag does not fit the values",
  range: "a value is outside its range",
  checksum: "the checksum does not fit the frame",
  journal_id: "the frame is of another journal than the newest one",
} as const;
export type DamageKind = keyof typeof DAMAGE;

/** What was found; `frames` = `whole` + `damaged` + `skipped`. Ids and counts are numbers. */
export interface RingReport {
  readonly path: string;
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  /** Frames between tail and head when the check began. */
  readonly frames: number;
  readonly whole: number;
  readonly damaged: number;
  /** Overwritten before they could be checked, which is not damage. */
  readonly skipped: number;
  readonly journal_id: number | null;
  readonly problems: Partial<Record<DamageKind, { count: number; first_ids: number[] }>>;
}

/** Checks every frame that is readable now, but none that is published meanwhile. */
export function verifyRing(reader: RingReader): RingReport {
  const problems: RingReport["problems"] = {};
  const note = (kind: DamageKind, frameId: number | null): void => {
    problems[kind] ??= { count: 0, first_ids: [] };
    const { first_ids } = problems[kind];
    problems[kind].count += 1;
    if (frameId !== null && first_ids.length < NAMED_MAX) first_ids.push(frameId);
  };
  const about = { path: reader.path, capacity: reader.capacity, head: reader.head(), tail: reader.tail() };
  let range: FrameRange;
  try {
    range = reader.range();
  } catch (error) {
    if (!(error instanceof RingUnreadable)) throw error;
    note("header", null);
    return { ...about, frames: 0, whole: 0, damaged: 0, skipped: 0, journal_id: null, problems };
  }
  const { low, high } = range;
  const journalId = newestJournal(reader, range);
  const counts = { whole: 0, damaged: 0, skipped: 0 };
  for (let first = low; first < high; first += SLICE_FRAMES) {
    const end = Math.min(first + SLICE_FRAMES, high);
    const { bytes, whole } = reader.copy(first, end);
    const tail = reader.tail();
    const view = new DataView(bytes.buffer);
    for (let frameId = first; frameId < end; frameId++) {
      const at = (frameId - first) * FRAME_BYTES;
      const found = whole[frameId - first] ? damageOf(view, at, frameId, journalId) : ["sequence" as const];
      if (!whole[frameId - first] && tail > frameId) counts.skipped += 1;
      else {
        for (const kind of found) note(kind, frameId);
        counts[found.length === 0 ? "whole" : "damaged"] += 1;
      }
    }
  }
  return { ...about, head: high, tail: low, frames: high - low, ...counts, journal_id: journalId, problems };
}

/** The journal_id of the newest whole frame; null if no frame is whole. */
function newestJournal(reader: RingReader, { low, high }: FrameRange): number | null {
  for (let frameId = high - 1; frameId >= low; frameId--) {
    const { bytes, whole } = reader.copy(frameId, frameId + 1);
    if (whole[0]) return new DataView(bytes.buffer).getUint32(OFFSET.journal_id, true);
  }
  return null;
}

/**
 * What is wrong with the frame at byte `at`, each kind once. A check of one more property is one more line here
 * and its words in DAMAGE.
 */
function damageOf(view: DataView, at: number, frameId: number, journalId: number | null): DamageKind[] {
  const found: DamageKind[] = [];
  const expect = (kind: DamageKind, holds: boolean): void => {
    if (!holds) found.push(kind);
  };
  const dim = view.getUint16(at + OFFSET.semantic_dim, true);
  const flags = view.getUint16(at + OFFSET.flags, true);
  const semantic = new Float32Array(view.buffer, at + OFFSET.semantic, SEMANTIC_DIM_MAX);
  const { length, finite, padded } = measure(semantic, dim);
  const present = (flags & FLAG.semantic) !== 0;
  expect("frame_id", view.getBigUint64(at + OFFSET.frame_id, true) === BigInt(frameId));
  expect("not_finite", finite && otherFloatsAreFinite(view, at));
  expect("padding", padded);
  // A length of NaN is already reported as not finite.
  expect("norm", !present || !finite || Math.abs(length - 1) <= UNIT_TOLERANCE);
  const spin = new Float32Array(view.buffer, at + OFFSET.spin, 4);
  expect("spin", !(Math.abs(Math.hypot(...spin) - 1) > UNIT_TOLERANCE));
  expect("flags", flagsFit(view, at, { flags, dim }));
  expect("range", valuesAreInRange(view, at, dim));
  expect("checksum", fitsChecksum(new Uint8Array(view.buffer, at, FRAME_BYTES)));
  expect("journal_id", view.getUint32(at + OFFSET.journal_id, true) === journalId);
  return found;
}

function measure(semantic: Float32Array, dim: number): { length: number; finite: boolean; padded: boolean } {
  let sum = 0;
  let padded = true;
  for (let index = 0; index < semantic.length; index++) {
    const value = semantic[index] as number;
    sum += value * value;
    if (index >= dim && value !== 0) padded = false;
  }
  // Squares of finite float32 never add up to infinity in float64.
  return { length: Math.sqrt(sum), finite: Number.isFinite(sum), padded };
}

const SINGLE_FLOATS = [
  "delta_time",
  "duration_ms",
  "velocity",
  "interrupt",
  "fill_rate",
  "sentiment",
  "confidence",
] as const;

function otherFloatsAreFinite(view: DataView, at: number): boolean {
  const spin = new Float32Array(view.buffer, at + OFFSET.spin, 4);
  return (
    SINGLE_FLOATS.every((name) => Number.isFinite(view.getFloat32(at + OFFSET[name], true))) &&
    spin.every((value) => Number.isFinite(value))
  );
}

/** Whether a value is the one for "unknown" exactly if its flag says that it is unknown. */
function flagsFit(view: DataView, at: number, { flags, dim }: { flags: number; dim: number }): boolean {
  const has = (bit: number): boolean => (flags & bit) !== 0;
  const model = view.getUint32(at + OFFSET.model_id, true);
  return (
    (flags & ~KNOWN_FLAGS) === 0 &&
    has(FLAG.semantic) === dim > 0 &&
    has(FLAG.semantic) === (model !== 0) &&
    has(FLAG.intent) === view.getInt32(at + OFFSET.intent_id, true) >= 0 &&
    (has(FLAG.sentiment) || view.getFloat32(at + OFFSET.sentiment, true) === 0) &&
    (has(FLAG.conversation) || view.getBigUint64(at + OFFSET.conversation_hash, true) === 0n) &&
    (!has(FLAG.first) || (has(FLAG.conversation) && view.getFloat32(at + OFFSET.delta_time, true) === 0))
  );
}

function valuesAreInRange(view: DataView, at: number, dim: number): boolean {
  const float = (name: (typeof SINGLE_FLOATS)[number]): number => view.getFloat32(at + OFFSET[name], true);
  const int = (name: "case_status" | "lead_status" | "actor_type"): number =>
    view.getInt32(at + OFFSET[name], true);
  // No comparison with NaN holds, and NaN is already reported as not finite.
  const outside = (value: number, low: number, high: number): boolean => value < low || value > high;
  return !(
    dim > SEMANTIC_DIM_MAX ||
    view.getBigUint64(at + OFFSET.event_seq, true) < 1n ||
    outside(float("sentiment"), -1, 1) ||
    outside(float("confidence"), 0, 1) ||
    outside(float("fill_rate"), 0, 1) ||
    outside(float("interrupt"), 0, 1) ||
    float("duration_ms") < 0 ||
    float("velocity") < 0 ||
    outside(int("case_status"), 0, 4) ||
    outside(int("lead_status"), 0, 4) ||
    outside(int("actor_type"), 0, 3)
  );
}
