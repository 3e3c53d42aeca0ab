/**
 * Response bodies that are made while the client reads them. A client that reads nothing costs about one piece: Bun asks for
 * the next part of a stream when the socket has taken the one before.
 */
import type { Clock } from "../clock.ts";
import type { Pieces, Refused } from "./contract.ts";
import type { HeldBytes } from "./held.ts";

/** What the socket is given at once. Smaller bodies are no streams: the socket's own buffer takes them. */
const PART_BYTES = 256 * 1024;
/** What a stream keeps room for if its pieces are smaller than that. */
const STREAM_BYTES = 2 * PART_BYTES;
/** @bound a streamed response of which the client takes nothing for so long | the connection is closed */
const STUCK_MS_MAX = 60_000;
const STUCK_LOOK_MS = 5000;
/** @bound streams that wait for room for a large piece | the connection is closed */
const WAITING_MAX = 8;
const ROOM_LOOK_MS = 50;

const NO_ROOM: Refused = {
  code: "overloaded",
  detail: "responses that other clients have not read yet fill the room for them",
  hint: "try again, with fewer requests at once or a smaller limit",
};

export interface StreamsOptions {
  readonly held: HeldBytes;
  readonly clock: Clock;
  /** Called when a stream was ended because its client took nothing. */
  readonly onStuck: () => void;
  /** Called when a piece could not be made. The status has gone out, so the client only sees that the connection ends. */
  readonly onFailed: (thrown: unknown) => void;
}

/** Opens streams within the bound of what is held for clients, and ends those that nobody reads. */
export class Streams {
  readonly #o: StreamsOptions;
  readonly #open = new Set<Stream>();
  #timer: Disposable | null = null;
  #waiting = 0;

  constructor(options: StreamsOptions) {
    this.#o = options;
  }

  /** A body of these bytes, as it is if it is small. */
  whole(body: string | Uint8Array): string | Uint8Array | ReadableStream<Uint8Array> | Refused {
    if (body.length <= PART_BYTES) return body;
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
    return this.pieces(once(bytes), bytes.byteLength);
  }

  /** @param pieceBytes the size of the first piece, and of later ones as far as that is known. */
  pieces(pieces: Pieces, pieceBytes: number): ReadableStream<Uint8Array> | Refused {
    const { held, clock } = this.#o;
    const heldBytes = roomFor(pieceBytes);
    if (!held.takeResponse(heldBytes)) {
      void pieces.return();
      return NO_ROOM;
    }
    const stream = new Stream(pieces, heldBytes, {
      clock,
      resize: (from, to) => this.#resize(from, to, stream),
      onFailed: this.#o.onFailed,
      onClosed: (bytes) => {
        held.giveResponse(bytes);
        this.#open.delete(stream);
        if (this.#open.size > 0) return;
        this.#timer?.[Symbol.dispose]();
        this.#timer = null;
      },
    });
    this.#open.add(stream);
    this.#timer ??= clock.every(STUCK_LOOK_MS, () => this.#endStuck());
    return stream.body;
  }

  /** Waits for room. Gives back first, so that streams cannot wait for each other. @returns false if it was closed meanwhile. */
  async #resize(from: number, to: number, stream: Stream): Promise<boolean> {
    const { held, clock } = this.#o;
    held.giveResponse(from);
    if (held.takeResponse(to)) return true;
    if (this.#waiting >= WAITING_MAX) throw new Error("no room for the next part of a response");
    this.#waiting++;
    try {
      while (this.#open.has(stream)) {
        if (held.takeResponse(to)) return true;
        await clock.sleep(ROOM_LOOK_MS);
      }
      return false;
    } finally {
      this.#waiting--;
    }
  }

  #endStuck(): void {
    const beforeMs = this.#o.clock.monotonicMs() - STUCK_MS_MAX;
    for (const stream of [...this.#open]) {
      if (stream.takenMs >= beforeMs) continue;
      stream.end();
      this.#o.onStuck();
    }
  }
}

interface StreamOptions {
  readonly clock: Clock;
  readonly resize: (from: number, to: number) => Promise<boolean>;
  readonly onFailed: (thrown: unknown) => void;
  readonly onClosed: (heldBytes: number) => void;
}

class Stream {
  readonly body: ReadableStream<Uint8Array>;
  /** When the client took something last. */
  takenMs: number;
  readonly #o: StreamOptions;
  readonly #pieces: Pieces;
  #controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  readonly #heldBytesMin: number;
  #heldBytes: number;
  /** What is left of the newest piece. */
  #rest: Uint8Array = new Uint8Array(0);
  #closed = false;

  constructor(pieces: Pieces, heldBytes: number, options: StreamOptions) {
    this.#o = options;
    this.#pieces = pieces;
    this.#heldBytes = heldBytes;
    this.#heldBytesMin = Math.min(heldBytes, STREAM_BYTES);
    this.takenMs = options.clock.monotonicMs();
    this.body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#controller = controller;
        },
        pull: (controller) => this.#pull(controller),
        cancel: () => this.#close(),
      },
      { highWaterMark: 0 },
    );
  }

  /** Ends the connection, because the body cannot be completed. */
  end(): void {
    if (this.#closed) return;
    this.#close();
    this.#controller?.error(new Error("the client takes nothing"));
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    this.takenMs = this.#o.clock.monotonicMs();
    try {
      await this.#o.clock.nextTurn();
      if (this.#rest.byteLength === 0 && !this.#closed) await this.#next();
    } catch (thrown) {
      this.#close();
      this.#o.onFailed(thrown);
      throw thrown;
    }
    if (this.#closed) return;
    if (this.#rest.byteLength === 0) {
      this.#close();
      controller.close();
      return;
    }
    controller.enqueue(this.#rest.subarray(0, PART_BYTES));
    this.#rest = this.#rest.subarray(PART_BYTES);
  }

  async #next(): Promise<void> {
    const { done, value } = await this.#pieces.next();
    if (done === true || this.#closed) return;
    const bytes = Math.max(roomFor(value.byteLength), this.#heldBytesMin);
    if (bytes !== this.#heldBytes) {
      const from = this.#heldBytes;
      this.#heldBytes = 0;
      if (await this.#o.resize(from, bytes)) this.#heldBytes = bytes;
    }
    this.#rest = value;
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#o.onClosed(this.#heldBytes);
    this.#heldBytes = 0;
    void this.#pieces.return();
  }
}

/** A piece, and the copy of its part that waits for the socket. */
function roomFor(pieceBytes: number): number {
  return pieceBytes + Math.min(pieceBytes, PART_BYTES);
}

async function* once(bytes: Uint8Array): Pieces {
  yield bytes;
}
