/** The writer's side of the 64 bytes before the first slot, which tell readers which frames they may read. */
import { FRAME_BYTES, HEADER_BYTES, HEADER_OFFSET, MAGIC, RING_STATE, RING_VERSION } from "../frame.ts";
import type { Mapping } from "../native/libc.ts";
import { nextHighWord } from "./words.ts";

const HEAD_WORD = HEADER_OFFSET.head / 4;
const TAIL_WORD = HEADER_OFFSET.tail / 4;
const EPOCH_WORD = HEADER_OFFSET.epoch / 4;
const PID_WORD = HEADER_OFFSET.writer_pid / 4;
const WAITERS_WORD = HEADER_OFFSET.waiters / 4;
const STATE_WORD = HEADER_OFFSET.state / 4;
const HEARTBEAT_LONG = HEADER_OFFSET.heartbeat_us / 8;
const PLAIN_LOADS_STAY = process.arch === "x64";

type State = keyof typeof RING_STATE;

/** The header of the ring that this process writes. */
export class RingHeader {
  readonly #mapping: Mapping;
  #words: Int32Array;
  #longs: BigInt64Array;
  #head: number;
  #tail: number;
  /** The first head and the first tail above the stored ones with another high word. */
  #headLimit: number;
  #tailLimit: number;

  constructor(mapping: Mapping, { head, tail }: { head: number; tail: number }) {
    const buffer = mapping.view(0, HEADER_BYTES);
    this.#mapping = mapping;
    this.#words = new Int32Array(buffer);
    this.#longs = new BigInt64Array(buffer);
    this.#head = head;
    this.#tail = tail;
    this.#headLimit = nextHighWord(head);
    this.#tailLimit = nextHighWord(tail);
  }

  /** The next frame_id. */
  head(): number {
    return this.#head;
  }

  /** The oldest frame_id that may be read. */
  tail(): number {
    return this.#tail;
  }

  /** Whether a reader sleeps until the next frame comes. */
  readerWaits(): boolean {
    return Atomics.load(this.#words, WAITERS_WORD) !== 0;
  }

  /** Withdraws the frames below `tail`. Does nothing if `tail` is not above the stored one. */
  raiseTail(tail: number): void {
    if (tail <= this.#tail) return;
    this.#tail = tail;
    if (tail < this.#tailLimit) Atomics.store(this.#words, TAIL_WORD, tail | 0);
    else this.#storeTailWide(tail);
  }

  /** Makes every frame below `head` readable, and wakes the readers that sleep. */
  show(head: number): void {
    const words = this.#words;
    this.#head = head;
    if (head < this.#headLimit) Atomics.store(words, HEAD_WORD, head | 0);
    else this.#storeHeadWide(head);
    // On x86-64 nothing passes the store of head, so a plain load is enough. JavaScriptCore's `Atomics.load` is a locked
    // instruction there, which would take the cache line from the readers a second time.
    const waiters = PLAIN_LOADS_STAY ? words[WAITERS_WORD] : Atomics.load(words, WAITERS_WORD);
    if (waiters !== 0) this.#wakeReaders();
  }

  /** Tells readers that the writer is alive. */
  beat(nowUs: number): void {
    Atomics.store(this.#longs, HEARTBEAT_LONG, BigInt(Math.floor(nowUs)));
  }

  /** Stores the ring's state and wakes the readers that sleep. */
  setState(state: State): void {
    storeState(this.#words, this.#mapping, state);
  }

  /** Call it before the file is unmapped: later calls only touch memory of this process. */
  release(): void {
    this.#words = new Int32Array(HEADER_BYTES / 4);
    this.#longs = new BigInt64Array(HEADER_BYTES / 8);
  }

  #wakeReaders(): void {
    Atomics.store(this.#words, WAITERS_WORD, 0);
    this.#mapping.wake(HEADER_OFFSET.head);
  }

  #storeHeadWide(head: number): void {
    Atomics.store(this.#longs, HEAD_WORD / 2, BigInt(head));
    this.#headLimit = nextHighWord(head);
  }

  #storeTailWide(tail: number): void {
    Atomics.store(this.#longs, TAIL_WORD / 2, BigInt(tail));
    this.#tailLimit = nextHighWord(tail);
  }
}

function storeState(words: Int32Array, mapping: Mapping, state: State): void {
  Atomics.store(words, STATE_WORD, RING_STATE[state]);
  if (Atomics.exchange(words, WAITERS_WORD, 0) !== 0) mapping.wake(HEADER_OFFSET.head);
}

/** Stores a ring's state and wakes the readers that sleep. Only the header need be mapped. */
export function markState(mapping: Mapping, state: State): void {
  storeState(new Int32Array(mapping.view(0, HEADER_BYTES)), mapping, state);
}

/** Records that this process writes the ring, in epoch `epoch`. */
export function claimRing(mapping: Mapping, o: { epoch: number; nowUs: number }): void {
  const buffer = mapping.view(0, HEADER_BYTES);
  const words = new Int32Array(buffer);
  Atomics.store(words, EPOCH_WORD, o.epoch | 0);
  Atomics.store(words, PID_WORD, process.pid);
  Atomics.store(new BigInt64Array(buffer), HEARTBEAT_LONG, BigInt(Math.floor(o.nowUs)));
  storeState(words, mapping, "running");
}

/** Writes the header of a new file whose frames are complete, claimed by this process. The magic is written last. */
export function writeHeader(
  mapping: Mapping,
  o: { capacity: number; head: number; tail: number; epoch: number; nowUs: number },
): void {
  const view = new DataView(mapping.view(0, HEADER_BYTES));
  view.setUint32(HEADER_OFFSET.version, RING_VERSION, true);
  view.setUint32(HEADER_OFFSET.frame_size, FRAME_BYTES, true);
  view.setBigUint64(HEADER_OFFSET.capacity, BigInt(o.capacity), true);
  view.setBigUint64(HEADER_OFFSET.head, BigInt(o.head), true);
  view.setBigUint64(HEADER_OFFSET.tail, BigInt(o.tail), true);
  claimRing(mapping, o);
  view.setBigUint64(HEADER_OFFSET.magic, MAGIC, true);
}
