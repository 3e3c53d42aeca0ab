/** The bytes that the gateway holds for its clients: bodies that arrive, and responses that are not read yet. */
import type { Clock } from "../clock.ts";

/** @bound bytes held for clients, requests and responses together | 503 */
const HELD_BYTES_MAX = 160 * 1024 * 1024;
/** Slow readers must not keep senders out. @bound bytes of responses that clients have not read yet | 503 */
const RESPONSES_BYTES_MAX = 64 * 1024 * 1024;
/** A body that waits is not read, so it costs nothing. @bound the wait of a body for room | 503 */
const ROOM_WAIT_MS = 10_000;
/** @bound bodies that wait for room | 503 */
const WAITING_MAX = 256;

interface Waiting {
  readonly bytes: number;
  readonly settle: (hasRoom: boolean) => void;
}

/** Whoever takes bytes gives them back. Whoever gets none refuses its client. */
export class HeldBytes {
  readonly #clock: Clock;
  readonly #waiting = new Set<Waiting>();
  #requests = 0;
  #responses = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get requests(): number {
    return this.#requests;
  }

  get responses(): number {
    return this.#responses;
  }

  #hasRoom(bytes: number): boolean {
    return this.#requests + this.#responses + bytes <= HELD_BYTES_MAX;
  }

  /** Takes room for bytes of a request. @returns false if there is none now. */
  takeRequest(bytes: number): boolean {
    if (!this.#hasRoom(bytes)) return false;
    this.#requests += bytes;
    return true;
  }

  /** Waits until there is room, and takes it. @returns false if there is none in time. */
  async waitRequest(bytes: number): Promise<boolean> {
    if (this.takeRequest(bytes)) return true;
    if (bytes > HELD_BYTES_MAX || this.#waiting.size >= WAITING_MAX) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const waiting = { bytes, settle: resolve };
    this.#waiting.add(waiting);
    using _late = this.#clock.after(ROOM_WAIT_MS, () => resolve(false));
    const hasRoom = await promise;
    this.#waiting.delete(waiting);
    return hasRoom;
  }

  /** Refuses all that wait. */
  refuseWaiting(): void {
    for (const { settle } of this.#waiting) settle(false);
    this.#waiting.clear();
  }

  giveRequest(bytes: number): void {
    this.#requests -= bytes;
    this.#letIn();
  }

  /** Takes room for bytes of a response. @returns false if there is none now. */
  takeResponse(bytes: number): boolean {
    if (this.#responses + bytes > RESPONSES_BYTES_MAX || !this.#hasRoom(bytes)) return false;
    this.#responses += bytes;
    return true;
  }

  giveResponse(bytes: number): void {
    this.#responses -= bytes;
    this.#letIn();
  }

  /** First come, first served, but a small body may overtake a large one that does not fit. */
  #letIn(): void {
    for (const waiting of this.#waiting) {
      if (!this.takeRequest(waiting.bytes)) continue;
      this.#waiting.delete(waiting);
      waiting.settle(true);
    }
  }
}

/** What one request holds. Disposing of it gives everything back. */
export class Hold implements Disposable {
  readonly #held: HeldBytes;
  #bytes = 0;

  constructor(held: HeldBytes) {
    this.#held = held;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Takes more, if there is room now. */
  add(bytes: number): boolean {
    if (!this.#held.takeRequest(bytes)) return false;
    this.#bytes += bytes;
    return true;
  }

  /** Waits for room for what `bytes` are more than it has. It keeps what it has meanwhile, because that is in memory. */
  async grow(bytes: number): Promise<boolean> {
    if (bytes <= this.#bytes) return true;
    if (!(await this.#held.waitRequest(bytes - this.#bytes))) return false;
    this.#bytes = bytes;
    return true;
  }

  /** Gives back what it has beyond `bytes`. */
  shrink(bytes: number): void {
    const more = this.#bytes - bytes;
    if (more <= 0) return;
    this.#bytes = bytes;
    this.#held.giveRequest(more);
  }

  [Symbol.dispose](): void {
    this.shrink(0);
  }
}
