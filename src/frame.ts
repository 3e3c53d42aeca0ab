/**
 * The ParticleFrame and the header of the ring, byte for byte (little endian).
 *
 * The two field tables below are the only source of the layout. The offsets, the encoder and the decoder here, the numpy
 * dtype in consumer.py, docs/FRAME.md and the golden file are derived from them. Other programs read this format, so a
 * change of the layout is a new version of it.
 */

type ScalarType = "u64" | "i64" | "u32" | "i32" | "u16" | "f32";

export interface LayoutField {
  readonly name: string;
  readonly type: ScalarType;
  /** Elements of a fixed array; 1 for a scalar. */
  readonly count: number;
  /** Bytes from the start, as the format says; checked against the sum of the fields before it. */
  readonly offset: number;
  readonly meaning: string;
}

const TYPE_BYTES: Readonly<Record<ScalarType, number>> = {
  u64: 8,
  i64: 8,
  u32: 4,
  i32: 4,
  u16: 2,
  f32: 4,
};

function field(offset: number, name: string, type: ScalarType, meaning: string, count = 1): LayoutField {
  return { name, type, count, offset, meaning };
}

/** The 64 bytes before the first frame. */
export const HEADER_FIELDS = [
  field(0, "magic", "u64", "0x5048595349435300 (`PHYSICS\\0` read as a big-endian number); written last"),
  field(8, "version", "u32", "1"),
  field(12, "frame_size", "u32", "4224"),
  field(16, "capacity", "u64", "frames in the ring"),
  field(
    24,
    "head",
    "u64",
    "the next frame_id (ids start at 1); the newest frame is head − 1, in slot (head − 1) mod capacity",
  ),
  field(
    32,
    "tail",
    "u64",
    "the oldest frame_id that may be read: frame i is readable if and only if tail ≤ i < head and its sequence says so",
  ),
  field(40, "epoch", "u32", "one more at every writer start"),
  field(44, "writer_pid", "u32", "in the writer's pid namespace: a hint, never proof of death"),
  field(
    48,
    "heartbeat_us",
    "i64",
    "writer's clock, Unix µs, refreshed at least once a second; its age alone proves no stall (see below)",
  ),
  field(
    56,
    "waiters",
    "u32",
    "a reader sets it to 1 before it sleeps on the low word of head (futex, offset 24); the writer clears it and wakes all",
  ),
  field(60, "state", "u32", "1 running, 2 closed cleanly, 3 superseded by a new file at the same path"),
] as const;

/** One frame. Every float is finite. */
export const FRAME_FIELDS = [
  field(
    0,
    "sequence",
    "u64",
    "SeqLock: 2·(⌊i / capacity⌋ + 1) when frame i is whole, that − 1 while it is written; lower than expected: not yet, higher: lapped",
  ),
  field(8, "frame_id", "u64", "i, from 1, without gaps"),
  field(16, "semantic", "f32", "embedding, L2-normalised, zero-padded past semantic_dim", 1024),
  field(
    4112,
    "delta_time",
    "f32",
    "ln(max(dt, 0.001)), dt in seconds since the conversation's previous event; 0 with flag bit 5",
  ),
  field(4116, "duration_ms", "f32", "from receipt to the decision, in ms"),
  field(
    4120,
    "velocity",
    "f32",
    "the conversation's events in the 60 s up to this one, itself included: messages a minute",
  ),
  field(
    4124,
    "interrupt",
    "f32",
    "1.0 if it was received before the conversation's previous event was decided, else 0.0",
  ),
  field(
    4128,
    "timestamp_us",
    "i64",
    "the event's own timestamp if it has one, else the time of its receipt, Unix µs",
  ),
  field(
    4136,
    "conversation_hash",
    "u64",
    "first 8 bytes (little endian) of SHA-256 of the conversation id, UTF-8; 0 without a conversation",
  ),
  field(4144, "workflow_node", "i32", "from the event, else −1"),
  field(4148, "case_status", "i32", "0 new, 1 open, 2 pending, 3 resolved, 4 closed; from the event, else 0"),
  field(4152, "lead_status", "i32", "0 cold, 1 warm, 2 hot, 3 converted, 4 lost; from the event, else 0"),
  field(
    4156,
    "fill_rate",
    "f32",
    "share of the learned schema's fields that this event fills, 0 to 1 (0 until there are schemas)",
  ),
  field(
    4160,
    "actor_type",
    "i32",
    "0 system, 1 human, 2 agent, 3 tool; from the event, else human if there is a message, else system",
  ),
  field(
    4164,
    "intent_id",
    "i32",
    "first 4 bytes (little endian) of SHA-256 of the label & 0x7fffffff, else −1",
  ),
  field(4168, "sentiment", "f32", "−1 to 1; 0 if unknown (see flags)"),
  field(4172, "confidence", "f32", "of the intent, 0 to 1"),
  field(
    4176,
    "spin",
    "f32",
    "unit quaternion (w, x, y, z): a fixed seeded projection of the embedding; the identity without one",
    4,
  ),
  field(4192, "event_seq", "u64", "the event's number in journal and DuckDB: the join key"),
  field(4200, "semantic_dim", "u16", "leading floats of semantic that carry the model's vector"),
  field(
    4202,
    "flags",
    "u16",
    "bit 0 semantic present, 1 intent, 2 sentiment, 3 conversation, 4 refilled after a restart, 5 first event of its conversation (or the earlier ones are forgotten)",
  ),
  field(
    4204,
    "model_id",
    "u32",
    "0 without vector, else first 4 bytes (little endian) of SHA-256 of the embedder's name, precision and pooling included",
  ),
  field(4208, "type_id", "i32", "like intent_id, of the event type; −1 for UnknownEvent"),
  field(4212, "journal_id", "u32", "the journal that event_seq is from"),
  field(4216, "checksum", "u64", "of bytes 16 to 4215, for readers on weakly ordered processors; 0: none"),
] as const;

export type HeaderFieldName =
  | "magic"
  | "version"
  | "frame_size"
  | "capacity"
  | "head"
  | "tail"
  | "epoch"
  | "writer_pid"
  | "heartbeat_us"
  | "waiters"
  | "state";
export type FrameFieldName =
  | "sequence"
  | "frame_id"
  | "semantic"
  | "delta_time"
  | "duration_ms"
  | "velocity"
  | "interrupt"
  | "timestamp_us"
  | "conversation_hash"
  | "workflow_node"
  | "case_status"
  | "lead_status"
  | "fill_rate"
  | "actor_type"
  | "intent_id"
  | "sentiment"
  | "confidence"
  | "spin"
  | "event_seq"
  | "semantic_dim"
  | "flags"
  | "model_id"
  | "type_id"
  | "journal_id"
  | "checksum";

export const HEADER_BYTES = 64;
export const FRAME_BYTES = 4224;
/** Floats in `semantic`: the widest embedding a frame can carry. */
export const SEMANTIC_DIM_MAX = 1024;
/** `PHYSICS\0` read as a big-endian number. */
export const MAGIC = 0x5048595349435300n;
export const RING_VERSION = 1;
export const RING_STATE = { running: 1, closed: 2, superseded: 3 } as const;
export const RING_CAPACITY_DEFAULT = 100_000;

/** Bits of `flags`. */
export const FLAG = {
  semantic: 1,
  intent: 2,
  sentiment: 4,
  conversation: 8,
  refilled: 16,
  first: 32,
} as const;

function offsetsOf<Name extends string>(
  fields: readonly LayoutField[],
  totalBytes: number,
): Readonly<Record<Name, number>> {
  const offsets: Record<string, number> = {};
  let next = 0;
  for (const entry of fields) {
    if (entry.offset !== next || next % TYPE_BYTES[entry.type] !== 0) {
      throw new Error(`frame: field ${entry.name} stands at ${next}, the format says ${entry.offset}`);
    }
    offsets[entry.name] = entry.offset;
    next += TYPE_BYTES[entry.type] * entry.count;
  }
  if (next !== totalBytes) throw new Error(`frame: the fields take ${next} bytes, the format ${totalBytes}`);
  return offsets as Record<Name, number>;
}

/** Byte offsets of the header's fields. */
export const HEADER_OFFSET = offsetsOf<HeaderFieldName>(HEADER_FIELDS, HEADER_BYTES);
/** Byte offsets of a frame's fields within the frame. */
export const OFFSET = offsetsOf<FrameFieldName>(FRAME_FIELDS, FRAME_BYTES);

/**
 * The bytes behind the embedding, `delta_time` to `checksum`. The journal keeps them beside the vector, and they are copied
 * into a frame in one go.
 */
export const PHYSICS_OFFSET = OFFSET.delta_time;
export const PHYSICS_BYTES = FRAME_BYTES - PHYSICS_OFFSET;

/** Bytes of a whole ring file. `capacity` in frames, at least 1. */
export function ringBytes(capacity: number): number {
  return HEADER_BYTES + capacity * FRAME_BYTES;
}

/** The sequence of frame `frameId` when it is whole, in a ring of `capacity` slots. */
export function wholeSequence(frameId: number, capacity: number): number {
  return 2 * (Math.floor(frameId / capacity) + 1);
}

/** The fields of a frame except sequence, frame_id and the embedding. FRAME_FIELDS has units and ranges. */
export interface Physics {
  delta_time: number;
  duration_ms: number;
  velocity: number;
  interrupt: number;
  timestamp_us: number;
  conversation_hash: bigint;
  workflow_node: number;
  case_status: number;
  lead_status: number;
  fill_rate: number;
  actor_type: number;
  intent_id: number;
  sentiment: number;
  confidence: number;
  spin: readonly [number, number, number, number];
  event_seq: number;
  semantic_dim: number;
  flags: number;
  model_id: number;
  type_id: number;
  journal_id: number;
  checksum: bigint;
}

/** A frame without `sequence`, which depends on the ring's capacity. */
export interface Frame extends Physics {
  frame_id: number;
  /** Length SEMANTIC_DIM_MAX; zeros past `semantic_dim`. */
  semantic: Float32Array;
}

const AT = (name: FrameFieldName): number => OFFSET[name] - PHYSICS_OFFSET;

/**
 * Writes the PHYSICS_BYTES of a frame.
 * @throws RangeError if a float is not finite: such a frame must never reach a reader.
 */
export function encodePhysics(physics: Physics): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(PHYSICS_BYTES);
  const view = new DataView(bytes.buffer);
  const f32 = (name: FrameFieldName, value: number, index = 0): void => {
    if (!Number.isFinite(Math.fround(value))) {
      throw new RangeError(`frame: ${name} of event ${physics.event_seq} is ${value}, not a finite float32`);
    }
    view.setFloat32(AT(name) + 4 * index, value, true);
  };
  f32("delta_time", physics.delta_time);
  f32("duration_ms", physics.duration_ms);
  f32("velocity", physics.velocity);
  f32("interrupt", physics.interrupt);
  view.setBigInt64(AT("timestamp_us"), BigInt(physics.timestamp_us), true);
  view.setBigUint64(AT("conversation_hash"), physics.conversation_hash, true);
  view.setInt32(AT("workflow_node"), physics.workflow_node, true);
  view.setInt32(AT("case_status"), physics.case_status, true);
  view.setInt32(AT("lead_status"), physics.lead_status, true);
  f32("fill_rate", physics.fill_rate);
  view.setInt32(AT("actor_type"), physics.actor_type, true);
  view.setInt32(AT("intent_id"), physics.intent_id, true);
  f32("sentiment", physics.sentiment);
  f32("confidence", physics.confidence);
  physics.spin.forEach((value, index) => {
    f32("spin", value, index);
  });
  view.setBigUint64(AT("event_seq"), BigInt(physics.event_seq), true);
  view.setUint16(AT("semantic_dim"), physics.semantic_dim, true);
  view.setUint16(AT("flags"), physics.flags, true);
  view.setUint32(AT("model_id"), physics.model_id, true);
  view.setInt32(AT("type_id"), physics.type_id, true);
  view.setUint32(AT("journal_id"), physics.journal_id, true);
  view.setBigUint64(AT("checksum"), physics.checksum, true);
  return bytes;
}

/** Reads what {@link encodePhysics} wrote. `bytes` has PHYSICS_BYTES. */
export function decodePhysics(bytes: Uint8Array): Physics {
  if (bytes.byteLength !== PHYSICS_BYTES) {
    throw new RangeError(`frame: ${bytes.byteLength} bytes of physics, the format has ${PHYSICS_BYTES}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const f32 = (name: FrameFieldName, index = 0): number => view.getFloat32(AT(name) + 4 * index, true);
  const i32 = (name: FrameFieldName): number => view.getInt32(AT(name), true);
  return {
    delta_time: f32("delta_time"),
    duration_ms: f32("duration_ms"),
    velocity: f32("velocity"),
    interrupt: f32("interrupt"),
    timestamp_us: Number(view.getBigInt64(AT("timestamp_us"), true)),
    conversation_hash: view.getBigUint64(AT("conversation_hash"), true),
    workflow_node: i32("workflow_node"),
    case_status: i32("case_status"),
    lead_status: i32("lead_status"),
    fill_rate: f32("fill_rate"),
    actor_type: i32("actor_type"),
    intent_id: i32("intent_id"),
    sentiment: f32("sentiment"),
    confidence: f32("confidence"),
    spin: [f32("spin", 0), f32("spin", 1), f32("spin", 2), f32("spin", 3)],
    event_seq: Number(view.getBigUint64(AT("event_seq"), true)),
    semantic_dim: view.getUint16(AT("semantic_dim"), true),
    flags: view.getUint16(AT("flags"), true),
    model_id: view.getUint32(AT("model_id"), true),
    type_id: i32("type_id"),
    journal_id: view.getUint32(AT("journal_id"), true),
    checksum: view.getBigUint64(AT("checksum"), true),
  };
}

/**
 * Writes one whole frame at `offsetBytes` of `target`, with the sequence that it has in a ring of `capacity` slots.
 * @param vector leading floats of `semantic` (at most SEMANTIC_DIM_MAX), or null if the frame has no vector.
 */
export function encodeFrame(
  target: Uint8Array,
  offsetBytes: number,
  frame: { frameId: number; capacity: number; physics: Uint8Array; vector: Float32Array | null },
): void {
  const view = new DataView(target.buffer, target.byteOffset + offsetBytes, FRAME_BYTES);
  view.setBigUint64(OFFSET.sequence, BigInt(wholeSequence(frame.frameId, frame.capacity)), true);
  view.setBigUint64(OFFSET.frame_id, BigInt(frame.frameId), true);
  target.fill(0, offsetBytes + OFFSET.semantic, offsetBytes + PHYSICS_OFFSET);
  if (frame.vector !== null) {
    const bytes = new Uint8Array(frame.vector.buffer, frame.vector.byteOffset, frame.vector.byteLength);
    target.set(bytes, offsetBytes + OFFSET.semantic);
  }
  target.set(frame.physics, offsetBytes + PHYSICS_OFFSET);
}

const CHECKSUM_WORDS = (OFFSET.checksum - OFFSET.semantic) / 4;
const PHYSICS_WORDS = (OFFSET.checksum - PHYSICS_OFFSET) / 4;
const FLAGS_WORD = (OFFSET.semantic_dim - PHYSICS_OFFSET) / 4;
/** Bit 4 of `flags`, which are the upper half of that word. */
const REFILLED_BIT = FLAG.refilled << 16;

/** The finaliser of MurmurHash3 (Appleby, 2008), on 32 bits. */
function fmix32(value: number): number {
  let x = value;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/** Two factors for each word: for the low and the high half of the sum. They are odd, so that a change of one word always shows. */
const checksumFactors = new Int32Array(2 * CHECKSUM_WORDS).map((_, index) => fmix32(index + 1) | 1);

/**
 * The `checksum` of a frame. It covers bytes 16 to 4215: they are decided before the frame has an id, and are the same in
 * ring, journal and DuckDB. Flag bit 4 counts as 0. It is a sum over the 1,050 little-endian words w_k, with
 * u_k = w_k XOR (w_k >> 16): Σ u_k · a_k in the low and Σ u_k · b_k in the high half, each modulo 2³², with
 * a_k = fmix32(2k + 1) | 1 and b_k = fmix32(2k + 2) | 1; 1 if both halves are 0. A frame that is half new and half old
 * passes with a probability of about 2⁻⁶⁴.
 *
 * @param physics PHYSICS_BYTES, at any alignment; its own checksum does not count
 * @param vector leading floats of `semantic`, or null
 */
export function frameChecksum(physics: Uint8Array, vector: Float32Array | null): bigint {
  let low = 0;
  let high = 0;
  if (vector !== null) {
    const words = new Int32Array(vector.buffer, vector.byteOffset, vector.length);
    // Words beyond the vector are 0 and add nothing.
    for (let k = 0; k < words.length; k++) {
      const word = words[k] as number;
      const mixed = word ^ (word >>> 16);
      low = (low + Math.imul(mixed, checksumFactors[2 * k] as number)) | 0;
      high = (high + Math.imul(mixed, checksumFactors[2 * k + 1] as number)) | 0;
    }
  }
  const view = new DataView(physics.buffer, physics.byteOffset, PHYSICS_BYTES);
  for (let n = 0; n < PHYSICS_WORDS; n++) {
    const k = SEMANTIC_DIM_MAX + n;
    const word = view.getInt32(4 * n, true) & (n === FLAGS_WORD ? ~REFILLED_BIT : -1);
    const mixed = word ^ (word >>> 16);
    low = (low + Math.imul(mixed, checksumFactors[2 * k] as number)) | 0;
    high = (high + Math.imul(mixed, checksumFactors[2 * k + 1] as number)) | 0;
  }
  const sum = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
  return sum === 0n ? 1n : sum;
}

/** Computes the frame's checksum and writes it into `physics`. */
export function fillChecksum(physics: Uint8Array, vector: Float32Array | null): void {
  const view = new DataView(physics.buffer, physics.byteOffset, PHYSICS_BYTES);
  view.setBigUint64(AT("checksum"), frameChecksum(physics, vector), true);
}

/** Reads the whole frame at `offsetBytes` of `source`. The semantic vector is a copy. */
export function decodeFrame(source: Uint8Array, offsetBytes = 0): Frame {
  const view = new DataView(source.buffer, source.byteOffset + offsetBytes, FRAME_BYTES);
  const semanticAt = source.byteOffset + offsetBytes + OFFSET.semantic;
  const semantic = new Float32Array(source.buffer.slice(semanticAt, semanticAt + 4 * SEMANTIC_DIM_MAX));
  return {
    frame_id: Number(view.getBigUint64(OFFSET.frame_id, true)),
    semantic,
    ...decodePhysics(source.subarray(offsetBytes + PHYSICS_OFFSET, offsetBytes + FRAME_BYTES)),
  };
}

/** The number with the fewest digits that is stored as the same f32: 0.9 instead of 0.8999999761581421. */
export function shortestOfF32(value: number): number {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return Number(value.toPrecision(9));
}

/** The shortest text that reads back as the same number; JSON has a negative zero, JavaScript does not print it. */
function floatText(value: number): string {
  return Object.is(value, -0) ? "-0.0" : String(value);
}

function fieldText(view: DataView, base: number, { type, count, offset }: LayoutField): string {
  const at = base + offset;
  if (type === "f32") {
    if (count === 1) return floatText(view.getFloat32(at, true));
    const texts = new Array<string>(count);
    for (let index = 0; index < count; index++)
      texts[index] = floatText(view.getFloat32(at + 4 * index, true));
    return `[${texts.join(",")}]`;
  }
  // 64-bit numbers are decimal strings: a JSON number of that size is read wrongly by most.
  if (type === "u64") return `"${view.getBigUint64(at, true)}"`;
  if (type === "i64") return `"${view.getBigInt64(at, true)}"`;
  if (type === "u32") return String(view.getUint32(at, true));
  return String(type === "i32" ? view.getInt32(at, true) : view.getUint16(at, true));
}

/** The frame at byte `base` as a JSON object with every field, as in /api/frames. */
export function frameJson(view: DataView, base: number): string {
  return `{${FRAME_FIELDS.map((field) => `"${field.name}":${fieldText(view, base, field)}`).join(",")}}`;
}

function sha256(text: string): DataView {
  const digest = new Bun.CryptoHasher("sha256").update(text).digest();
  return new DataView(digest.buffer, digest.byteOffset, digest.byteLength);
}

/** The id of an intent's or event type's label: 0 to 2³¹ − 1. */
export function labelId(label: string): number {
  return sha256(label).getUint32(0, true) & 0x7fffffff;
}

/** The id of an embedder by its full name (precision and pooling included): u32. */
export function modelId(name: string): number {
  return sha256(name).getUint32(0, true);
}

/** `conversation_hash` of a conversation id. */
export function conversationHash(conversationId: string): bigint {
  return sha256(conversationId).getBigUint64(0, true);
}

/** The label of an event without a type; its type_id is −1. */
export const UNKNOWN_EVENT = "UnknownEvent";
