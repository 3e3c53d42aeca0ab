/** The bytes that the gateway holds for its clients: bodies that arrive, and responses that are not read yet. */

/** @bound bytes held for clients, requests and responses together | 503 */
const HELD_BYTES_MAX = 160 * 1024 * 1024;
/** Slow readers must not keep senders out. @bound bytes of responses that clients have not read yet | 503 */
const RESPONSES_BYTES_MAX = 64 * 1024 * 1024;

/** Whoever takes bytes gives them back. Whoever gets none refuses its client. */
export class HeldBytes {
  #requests = 0;
  #responses = 0;

  get requests(): number {
    return this.#requests;
  }

  get responses(): number {
    return this.#responses;
  }

  /** Takes room for bytes of a request. @returns false if there is none. */
  takeRequest(bytes: number): boolean {
    if (!this.hasRoom(bytes)) return false;
    this.#requests += bytes;
    return true;
  }

  giveRequest(bytes: number): void {
    this.#requests -= bytes;
  }

  hasRoom(bytes: number): boolean {
    return this.#requests + this.#responses + bytes <= HELD_BYTES_MAX;
  }

  /** Takes room for bytes of a response. @returns false if there is none. */
  takeResponse(bytes: number): boolean {
    if (this.#responses + bytes > RESPONSES_BYTES_MAX || !this.hasRoom(bytes)) return false;
    this.#responses += bytes;
    return true;
  }

  giveResponse(bytes: number): void {
    this.#responses -= bytes;
  }
}
