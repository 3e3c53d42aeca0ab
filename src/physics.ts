/**
 * The physics of a frame: how an event moves in its conversation (kinetics), and which way its vector points (spin). Only
 * memory and arithmetic: the time comes with the events.
 */
import { conversationHash, SEMANTIC_DIM_MAX } from "./frame.ts";

// ---------------------------------------------------------------------------------------------- kinetics

/** @bound conversations whose motion is remembered | the least recently seen is forgotten, and its next event counts as its first */
const CONVERSATIONS_MAX = 100_000;
/** @bound timestamps remembered of one conversation | its velocity stays at this number */
const TIMES_PER_CONVERSATION_MAX = 1024;
/** @bound timestamps remembered in all (32 MB) | whole conversations are forgotten, the least recently seen first */
const TIMES_MAX = 4_194_304;
const VELOCITY_WINDOW_US = 60_000_000;
const DELTA_SECONDS_MIN = 0.001;

/** How an event moves in its conversation, in fields of the frame. */
export interface Motion {
  /**
   * ln(max(dt, 0.001)), with dt in seconds by the events' own clocks; 0 if `first` or without a conversation.
   */
  readonly delta_time: number;
  /**
   * Events of the conversation in the 60 s up to this one, itself included, 1 to 1,024; 0 without a
   * conversation.
   */
  readonly velocity: number;
  /** 1 if it was received before the conversation's previous event was decided, else 0; 0 if the clock was set back between the two. */
  readonly interrupt: number;
  /** Flag bit 5: the conversation's first event. False without a conversation. */
  readonly first: boolean;
  /** 0n without a conversation. */
  readonly conversation_hash: bigint;
}

interface Conversation {
  readonly id: string;
  readonly hash: bigint;
  /** Its neighbours in the order in which conversations were last seen. */
  older: Conversation | null;
  newer: Conversation | null;
  /** The timestamp of its newest event by order of receipt. */
  previousUs: number;
  /** When that event was received. */
  receivedUs: number;
  /** When that event was decided; infinite until then. */
  decidedUs: number;
  /** Timestamps in order of receipt. Those before index `start` are forgotten. */
  times: number[];
  start: number;
}

const NO_CONVERSATION: Motion = {
  delta_time: 0,
  velocity: 0,
  interrupt: 0,
  first: false,
  conversation_hash: 0n,
};

/**
 * Computes the motion of events within their conversations. Remembers at most `conversationsMax` conversations (default
 * 100,000) and 4,194,304 timestamps in all, 1,024 of one conversation. It forgets the least recently seen conversation
 * first; the next event of a forgotten conversation counts as its first.
 */
export class Kinetics {
  readonly #conversationsMax: number;
  readonly #timesMax: number;
  readonly #conversations = new Map<string, Conversation>();
  // A linked list has the order. Finding a Map's first entry takes longer the more entries were deleted before it.
  #oldest: Conversation | null = null;
  #newest: Conversation | null = null;
  #times = 0;

  constructor(o: { conversationsMax?: number; timesMax?: number }) {
    this.#conversationsMax = o.conversationsMax ?? CONVERSATIONS_MAX;
    this.#timesMax = o.timesMax ?? TIMES_MAX;
  }

  /** The number of conversations that are remembered. */
  get size(): number {
    return this.#conversations.size;
  }

  /**
   * Takes the next event, in order of receipt. If its own clock is behind the previous event's, it has the shortest
   * delta_time, and its velocity counts the remembered events of the 60 s before it.
   * @param o.timestampUs the event's own clock, or its receipt
   */
  observe(o: { conversationId: string | null; timestampUs: number; receivedUs: number }): Motion {
    const { conversationId, timestampUs } = o;
    if (conversationId === null) return NO_CONVERSATION;
    const known = this.#conversations.get(conversationId);
    const conversation = known ?? newConversation(conversationId);
    const motion = motionOf(known, conversation, { ...o, velocity: this.#count(conversation, timestampUs) });
    conversation.previousUs = timestampUs;
    conversation.receivedUs = o.receivedUs;
    conversation.decidedUs = Number.POSITIVE_INFINITY;
    if (known === undefined) this.#conversations.set(conversationId, conversation);
    else this.#unlink(conversation);
    this.#linkNewest(conversation);
    this.#forget();
    return motion;
  }

  /** What {@link observe} would return for an event, without taking it. */
  preview(o: { conversationId: string | null; timestampUs: number; receivedUs: number }): Motion {
    const { conversationId, timestampUs } = o;
    if (conversationId === null) return NO_CONVERSATION;
    const known = this.#conversations.get(conversationId);
    return motionOf(known, known ?? newConversation(conversationId), {
      ...o,
      velocity: known === undefined ? 1 : countWith(known, timestampUs),
    });
  }

  /** Notes when the newest event of a conversation was decided. */
  decided(conversationId: string, decidedUs: number): void {
    const conversation = this.#conversations.get(conversationId);
    if (conversation !== undefined) conversation.decidedUs = decidedUs;
  }

  /** Takes decided events again after a restart, in ascending order, in addition to what was observed before. */
  restore(
    rows: readonly {
      readonly conversationId: string;
      readonly timestampUs: number;
      readonly decidedUs: number;
    }[],
  ): void {
    for (const { conversationId, timestampUs, decidedUs } of rows) {
      this.observe({ conversationId, timestampUs, receivedUs: Number.NEGATIVE_INFINITY });
      this.decided(conversationId, decidedUs);
    }
  }

  /** Adds a timestamp. @returns how many there are in the window that ends with it */
  #count(conversation: Conversation, timestampUs: number): number {
    const { times } = conversation;
    const fromUs = timestampUs - VELOCITY_WINDOW_US;
    times.push(timestampUs);
    this.#times += 1;
    while (
      (times[conversation.start] as number) < fromUs ||
      times.length - conversation.start > TIMES_PER_CONVERSATION_MAX
    ) {
      conversation.start += 1;
      this.#times -= 1;
    }
    if (conversation.start > 32 && conversation.start * 2 > times.length) {
      conversation.times = times.slice(conversation.start);
      conversation.start = 0;
    }
    let count = 0;
    for (let index = conversation.start; index < conversation.times.length; index++) {
      const timeUs = conversation.times[index] as number;
      if (timeUs >= fromUs && timeUs <= timestampUs) count += 1;
    }
    return count;
  }

  #forget(): void {
    while (this.#conversations.size > this.#conversationsMax || this.#times > this.#timesMax) {
      const oldest = this.#oldest;
      if (oldest === null) return;
      this.#unlink(oldest);
      this.#conversations.delete(oldest.id);
      this.#times -= oldest.times.length - oldest.start;
    }
  }

  #linkNewest(conversation: Conversation): void {
    conversation.older = this.#newest;
    if (this.#newest === null) this.#oldest = conversation;
    else this.#newest.newer = conversation;
    this.#newest = conversation;
  }

  #unlink(conversation: Conversation): void {
    const { older, newer } = conversation;
    if (older === null) this.#oldest = newer;
    else older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
    conversation.older = null;
    conversation.newer = null;
  }
}

function motionOf(
  known: Conversation | undefined,
  { hash, previousUs }: Conversation,
  o: { timestampUs: number; receivedUs: number; velocity: number },
): Motion {
  const seconds = (o.timestampUs - previousUs) / 1e6;
  // An event that was received before its predecessor shows that the clock was set back: the two do not compare.
  const comparable = known !== undefined && o.receivedUs >= known.receivedUs;
  return {
    delta_time: known === undefined ? 0 : Math.log(Math.max(seconds, DELTA_SECONDS_MIN)),
    velocity: o.velocity,
    interrupt: comparable && o.receivedUs < known.decidedUs ? 1 : 0,
    first: known === undefined,
    conversation_hash: hash,
  };
}

/** How many timestamps there would be in the window that ends with this one, if it were added. */
function countWith({ times, start }: Conversation, timestampUs: number): number {
  const fromUs = timestampUs - VELOCITY_WINDOW_US;
  let first = start;
  while (
    first < times.length &&
    ((times[first] as number) < fromUs || times.length + 1 - first > TIMES_PER_CONVERSATION_MAX)
  )
    first += 1;
  let count = 1;
  for (let index = first; index < times.length; index++) {
    const timeUs = times[index] as number;
    if (timeUs >= fromUs && timeUs <= timestampUs) count += 1;
  }
  return count;
}

function newConversation(conversationId: string): Conversation {
  return {
    id: conversationId,
    hash: conversationHash(conversationId),
    older: null,
    newer: null,
    previousUs: 0,
    receivedUs: Number.NEGATIVE_INFINITY,
    decidedUs: Number.NEGATIVE_INFINITY,
    times: [],
    start: 0,
  };
}

// -------------------------------------------------------------------------------------------------- spin

const SPIN_ROWS = 4;
/** "PHYS" as a big-endian number. */
const SPIN_SEED = 0x50485953;

let spinSigns: Float64Array | null = null;

/**
 * Draws the signs of the projection, +1 or −1, and interleaves them: the four rows' signs of float 0, then of float 1, …
 * They are drawn row by row (w, x, y, z), float by float, from Marsaglia's xorshift32 (shifts 13, 17, 5; J. Stat. Softw. 8(14),
 * 2003), which starts with SPIN_SEED. A draw is the state after a step; if its highest bit is set, the sign is −1.
 */
function drawSigns(): Float64Array {
  const signs = new Float64Array(SPIN_ROWS * SEMANTIC_DIM_MAX);
  let state = SPIN_SEED;
  for (let row = 0; row < SPIN_ROWS; row++) {
    for (let column = 0; column < SEMANTIC_DIM_MAX; column++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      signs[column * SPIN_ROWS + row] = state < 0 ? -1 : 1;
    }
  }
  return signs;
}

/**
 * Computes the orientation of a vector: four sums of its floats with fixed random signs (a Rademacher projection), scaled to
 * length 1. Near vectors have near spins. The sums are float64, float by float.
 * @param vector at most SEMANTIC_DIM_MAX finite floats; missing ones count as zero
 * @returns a unit quaternion (w, x, y, z); the identity (1, 0, 0, 0) for null, or if all four sums are zero
 */
export function spin(vector: Float32Array | null): [number, number, number, number] {
  if (vector === null) return [1, 0, 0, 0];
  spinSigns ??= drawSigns();
  const signs = spinSigns;
  let w = 0;
  let x = 0;
  let y = 0;
  let z = 0;
  for (let column = 0, at = 0; column < vector.length; column++, at += SPIN_ROWS) {
    const value = vector[column] as number;
    w += value * (signs[at] as number);
    x += value * (signs[at + 1] as number);
    y += value * (signs[at + 2] as number);
    z += value * (signs[at + 3] as number);
  }
  const length = Math.sqrt(w * w + x * x + y * y + z * z);
  if (!(length > 0 && length < Number.POSITIVE_INFINITY)) return [1, 0, 0, 0];
  return [w / length, x / length, y / length, z / length];
}
