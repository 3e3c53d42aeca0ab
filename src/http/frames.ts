/** GET /api/frames and GET /api/labels: frames as they are in the ring or as JSON, and the texts behind their ids. */
import type { Clock } from "../clock.ts";
import { FRAME_BYTES, frameJson, OFFSET } from "../frame.ts";
import type { FramesRun } from "../pipeline/snapshot.ts";
import type { Handled, RouteRequest } from "./contract.ts";
import { integerOf, POSITION, parameterless, parametersOf } from "./parameters.ts";
import { inTurns } from "./stream.ts";

const FRAMES_LIMIT_DEFAULT = 1000;
/** @bound a run of frames as JSON | 400; the next run begins `after` this one */
const FRAMES_LIMIT_MAX = 1000;
/** @bound a run of frames as bytes | 400; the next run begins `after` this one */
const FRAMES_RAW_LIMIT_MAX = 10_000;
/**
 * About 3 ms of work.
 * @bound frames made JSON before other work has a turn | the run goes on after that
 */
const FRAMES_A_TURN = 16;
/**
 * 0.5 MB, less than 1 ms of work.
 * @bound frames sent as bytes before other work has a turn | the run goes on after that
 */
const RAW_FRAMES_A_TURN = 128;
const RAW_FRAMES_TYPE = "application/vnd.cs-physics.frames";

export interface FrameReadsOptions {
  readonly pipeline: {
    frames(after: number | null, limit: number): Promise<FramesRun>;
    /** The frame_id that is decided next. */
    nextFrameId(): number;
    /** The content of the file beside the ring. */
    labels(): unknown;
  };
  readonly journalId: number;
  readonly clock: Clock;
}

export class FrameReads {
  readonly #o: FrameReadsOptions;

  constructor(options: FrameReadsOptions) {
    this.#o = options;
  }

  /** `next` is the last frame_id of the run, for use as `after`. It is null only if the run is empty. */
  async run({ query, accept }: RouteRequest): Promise<Handled> {
    const raw = accept.includes(RAW_FRAMES_TYPE);
    const parameters = parametersOf(query, ["after", "limit"]);
    if ("code" in parameters) return parameters;
    const after = integerOf(parameters, "after", POSITION) ?? null;
    if (typeof after === "object" && after !== null) return after;
    const max = raw ? FRAMES_RAW_LIMIT_MAX : FRAMES_LIMIT_MAX;
    const limit = integerOf(parameters, "limit", { min: 1, max }) ?? FRAMES_LIMIT_DEFAULT;
    if (typeof limit === "object") return limit;
    const { pipeline, journalId, clock } = this.#o;
    const { chunks, count } = await pipeline.frames(after, limit);
    const next = lastFrameId(chunks);
    const headers = {
      // Read after the run, so that it is above every frame of the run.
      "x-frames-head": String(pipeline.nextFrameId()),
      "x-journal-id": String(journalId),
      "x-frames-count": String(count),
      ...(next === null ? {} : { "x-next": next }),
      vary: "Accept",
    };
    if (raw) return { type: RAW_FRAMES_TYPE, headers, body: framesRaw(chunks, count, clock) };
    return { headers, body: inTurns(framesJson(chunks), clock) };
  }

  labels({ query }: RouteRequest): Handled {
    return parameterless(query) ?? { body: JSON.stringify(this.#o.pipeline.labels()) };
  }
}

function lastFrameId(chunks: readonly Uint8Array[]): string | null {
  const bytes = chunks.at(-1);
  if (bytes === undefined || bytes.byteLength === 0) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getBigUint64(bytes.byteLength - FRAME_BYTES + OFFSET.frame_id, true).toString();
}

/** The same frames in pieces of at most `framesMax`. Copies nothing. */
function* pieces(chunks: readonly Uint8Array[], framesMax: number): Generator<Uint8Array, void> {
  for (const chunk of chunks) {
    const step = framesMax * FRAME_BYTES;
    for (let at = 0; at < chunk.byteLength; at += step) yield chunk.subarray(at, at + step);
  }
}

/** `{"frames":[…],"next":…}`, a few frames at a time. */
function* framesJson(chunks: readonly Uint8Array[]): Generator<Uint8Array, void> {
  const encoder = new TextEncoder();
  const next = lastFrameId(chunks);
  let before = '{"frames":[';
  for (const bytes of pieces(chunks, FRAMES_A_TURN)) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let text = "";
    for (let at = 0; at < bytes.byteLength; at += FRAME_BYTES) {
      text += before + frameJson(view, at);
      before = ",";
    }
    yield encoder.encode(text);
  }
  yield encoder.encode(`${next === null ? before : ""}],"next":${next === null ? "null" : `"${next}"`}}`);
}

/** The frames' bytes. A few frames are one piece, so that the response has a Content-Length. */
function framesRaw(
  chunks: readonly Uint8Array[],
  count: number,
  clock: Clock,
): Uint8Array | ReadableStream<Uint8Array> {
  if (count === 0) return new Uint8Array(0);
  const [only] = chunks;
  if (only !== undefined && chunks.length === 1 && count <= RAW_FRAMES_A_TURN) return only;
  return inTurns(pieces(chunks, RAW_FRAMES_A_TURN), clock);
}
