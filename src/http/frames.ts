/** GET /api/frames and GET /api/labels: frames as they are in the ring or as JSON, and the texts behind their ids. */
import { GatewayError } from "../errors.ts";
import { FRAME_BYTES, frameJson, OFFSET } from "../frame.ts";
import type { FramesExtent, FramesRun } from "../pipeline/snapshot.ts";
import type { Handled, Pieces, RouteRequest } from "./contract.ts";
import { integerOf, POSITION, parameterless, parametersOf } from "./parameters.ts";

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
/** 270 KB. @bound frames of a response in memory at once | the next ones are read when the client has taken them */
const SLICE_FRAMES = 64;
/** About as much as a frame has as JSON. */
const FRAME_JSON_BYTES = 20 * 1024;
const RAW_FRAMES_TYPE = "application/vnd.cs-physics.frames";

export interface FrameReadsOptions {
  readonly pipeline: {
    frames(after: number | null, limit: number): Promise<FramesRun>;
    /** Which frames that would be; null: none. */
    framesExtent(after: number | null, limit: number): Promise<FramesExtent | null>;
    /** The frame_id that is decided next. */
    nextFrameId(): number;
    /** The content of the file beside the ring. */
    labels(): unknown;
  };
  readonly journalId: number;
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
    const { pipeline, journalId } = this.#o;
    const extent = await pipeline.framesExtent(after, limit);
    const next = extent === null ? null : String(extent.first + extent.count - 1);
    const headers = {
      // Read after the extent, so that it is above every frame of the run.
      "x-frames-head": String(pipeline.nextFrameId()),
      "x-journal-id": String(journalId),
      "x-frames-count": String(extent?.count ?? 0),
      ...(next === null ? {} : { "x-next": next }),
      vary: "Accept",
    };
    const count = extent?.count ?? 0;
    const slices = this.#slices(extent);
    const pieces = raw ? slices : framesJson(slices, next);
    // A few frames are one piece, so that the response has a Content-Length.
    const body = count <= (raw ? SLICE_FRAMES : FRAMES_A_TURN) ? await wholeOf(pieces) : pieces;
    const pieceBytes = raw ? SLICE_FRAMES * FRAME_BYTES : FRAMES_A_TURN * FRAME_JSON_BYTES;
    return { ...(raw ? { type: RAW_FRAMES_TYPE } : {}), headers, body, pieceBytes };
  }

  /** The frames' bytes. A slice is read when the one before was taken. */
  async *#slices(extent: FramesExtent | null): Pieces {
    if (extent === null) return;
    const end = extent.first + extent.count;
    for (let next = extent.first; next < end; ) {
      const { chunks, count } = await this.#o.pipeline.frames(next - 1, Math.min(SLICE_FRAMES, end - next));
      const [first] = chunks;
      if (first === undefined || frameIdAt(first, 0) !== next) throw noLonger(next);
      yield* chunks;
      next += count;
    }
  }

  labels({ query }: RouteRequest): Handled {
    return parameterless(query) ?? { body: JSON.stringify(this.#o.pipeline.labels()) };
  }
}

function frameIdAt(bytes: Uint8Array, at: number): number {
  return Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at + OFFSET.frame_id, true));
}

function noLonger(frameId: number): GatewayError {
  return new GatewayError({
    code: "store_unavailable",
    operation: "http: read",
    object: `frame ${frameId}`,
    detail: "it was kept when the response began and is not any more",
  });
}

async function wholeOf(pieces: Pieces): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of pieces) parts.push(part);
  return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
}

/** `{"frames":[…],"next":…}`, a few frames at a time. */
async function* framesJson(slices: Pieces, next: string | null): Pieces {
  const encoder = new TextEncoder();
  let before = '{"frames":[';
  for await (const slice of slices) {
    const view = new DataView(slice.buffer, slice.byteOffset, slice.byteLength);
    for (let from = 0; from < slice.byteLength; from += FRAMES_A_TURN * FRAME_BYTES) {
      const to = Math.min(slice.byteLength, from + FRAMES_A_TURN * FRAME_BYTES);
      let text = "";
      for (let at = from; at < to; at += FRAME_BYTES) {
        text += before + frameJson(view, at);
        before = ",";
      }
      yield encoder.encode(text);
    }
  }
  yield encoder.encode(`${next === null ? before : ""}],"next":${next === null ? "null" : `"${next}"`}}`);
}
