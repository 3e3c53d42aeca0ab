/** The newest frames that have a vector, as points on a plane. Vectors are kept only while the user looks at them. */
import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import { decodeFrame, decodePhysics, FLAG, FRAME_BYTES, PHYSICS_OFFSET } from "../frame.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { FramesRun } from "../pipeline/snapshot.ts";
import type { DashboardSnapshot, EventRow, Particle } from "../tui/model.ts";
import { type Decision, newest, type Update } from "./intake.ts";
import { Projection } from "./projection.ts";
import { rowOf } from "./rows.ts";

/** @bound particles | the oldest are dropped */
const PARTICLES_MAX = 512;
/** @bound new particles at once | only the newest frames become particles */
const LOOK_PARTICLES_MAX = 64;
/** How often the plane is computed again while particles are shown. */
const PROJECT_MS = 1000;

export interface ParticlesOptions {
  readonly clock: Clock;
  /** Frames with an id above `after`, ascending. */
  readonly frames: (after: number, limit: number) => Promise<FramesRun>;
  readonly nextFrameId: () => number;
  /** The event's row in the tail, if it is there. */
  readonly row: (seq: number) => EventRow | null;
  /** The event, if the journal still has it. */
  readonly journalEvent: (seq: number) => JournalEvent | null;
  readonly warn: (message: string) => void;
  readonly changed: () => void;
}

interface Point extends Omit<Particle, "x" | "y" | "intent" | "sentiment"> {
  readonly vector: Float32Array;
  readonly modelId: number;
  intent: string | null;
  sentiment: number | null;
  x: number;
  y: number;
  /** The projection's version that x and y belong to. */
  placed: number;
}

export class Particles {
  readonly #o: ParticlesOptions;
  readonly #projection = new Projection();
  /** Ascending by frame id. */
  #points: Point[] = [];
  #shown = false;
  /** Points came since the plane was computed. */
  #changed = false;
  #projectedMs = Number.NEGATIVE_INFINITY;

  constructor(options: ParticlesOptions) {
    this.#o = options;
  }

  show(): void {
    if (!this.#shown) void this.#load();
    this.#shown = true;
  }

  hide(): void {
    this.#points = [];
    this.#shown = false;
  }

  async #load(): Promise<void> {
    try {
      const after = Math.max(0, this.#o.nextFrameId() - 1 - PARTICLES_MAX);
      const { chunks, count } = await this.#o.frames(after, PARTICLES_MAX);
      const bytes = new Uint8Array(Buffer.concat(chunks));
      // Those that were decided meanwhile come after the ones that were read.
      const came = this.#points;
      const knownFrom = came[0]?.frameId ?? Number.POSITIVE_INFINITY;
      this.#points = [];
      for (let index = 0; index < count; index++) this.#addFrame(bytes, index * FRAME_BYTES, knownFrom);
      this.#points.push(...came);
      this.#points.splice(0, this.#points.length - PARTICLES_MAX);
    } catch (error) {
      this.#o.warn(`dashboard: reading the newest frames failed: ${messageOf(error)}`);
    }
    this.#o.changed();
  }

  #addFrame(bytes: Uint8Array, at: number, knownFrom: number): void {
    const { frame_id, flags, semantic, semantic_dim, event_seq } = decodeFrame(bytes, at);
    if ((flags & FLAG.semantic) === 0 || frame_id >= knownFrom) return;
    const row = this.#rowOf(Number(event_seq));
    this.#add(
      frame_id,
      bytes.subarray(at + PHYSICS_OFFSET, at + FRAME_BYTES),
      semantic.subarray(0, semantic_dim),
      {
        intent: row?.intent ?? null,
        conversation: row?.conversation ?? null,
        message: row?.message ?? "(the message is in the store; press Enter)",
      },
    );
  }

  #rowOf(seq: number): EventRow | null {
    const row = this.#o.row(seq);
    if (row !== null) return row;
    const event = this.#o.journalEvent(seq);
    return event === null ? null : rowOf(event);
  }

  /** Adds the newest of the frames that have a vector. */
  decided(decisions: readonly Decision[]): void {
    if (!this.#shown) return;
    const drafts = decisions.map(([firstFrameId, all]) =>
      all.slice(-LOOK_PARTICLES_MAX).map((draft, index, { length }) => ({
        frameId: firstFrameId + all.length - length + index,
        draft,
      })),
    );
    for (const { frameId, draft } of newest(drafts, LOOK_PARTICLES_MAX)) {
      const { event, decided, vector } = draft;
      if (vector === null || frameId <= (this.#points.at(-1)?.frameId ?? 0)) continue;
      this.#add(frameId, decided.physics, vector, {
        intent: decided.intent,
        conversation: event.conversationId,
        message: rowOf(event).message,
      });
    }
  }

  #add(
    frameId: number,
    physics: Uint8Array,
    vector: Float32Array,
    of: Pick<Particle, "intent" | "conversation" | "message">,
  ): void {
    const p = decodePhysics(physics);
    const spare = this.#points.length < PARTICLES_MAX ? null : (this.#points.shift()?.vector ?? null);
    this.#points.push({
      frameId,
      seq: Number(p.event_seq),
      timeUs: Number(p.timestamp_us),
      ...of,
      sentiment: (p.flags & FLAG.sentiment) === 0 ? null : p.sentiment,
      velocity: p.velocity,
      deltaSeconds: (p.flags & FLAG.first) === 0 ? Math.exp(p.delta_time) : null,
      interrupt: p.interrupt !== 0,
      // Copied, because the vector is a view of its whole batch.
      vector: copyInto(spare, vector),
      modelId: p.model_id,
      x: 0,
      y: 0,
      placed: -1,
    });
    this.#changed = true;
  }

  updated(updates: ReadonlyMap<number, Update>): void {
    if (updates.size === 0) return;
    for (const point of this.#points) {
      const update = updates.get(point.seq);
      if (update === undefined) continue;
      point.intent = update.intent;
      point.sentiment = update.sentiment;
    }
  }

  /** @param why what tells why there are no particles: the embedder's state, and the next frame's id */
  view(why: { readonly embedder: string; readonly nextFrameId: number }): DashboardSnapshot["particles"] {
    return {
      points: this.#shown ? this.#place() : [],
      none: whyNone(why.embedder, why.nextFrameId),
      explained: this.#projection.explained,
    };
  }

  #place(): readonly Point[] {
    const model = this.#points.at(-1)?.modelId;
    // Vectors of different models cannot be compared.
    const points = this.#points.filter(({ modelId }) => modelId === model).slice(-PARTICLES_MAX);
    const nowMs = this.#o.clock.monotonicMs();
    if (this.#changed && nowMs - this.#projectedMs >= PROJECT_MS) {
      this.#projection.update(points.map(({ vector }) => vector));
      this.#projectedMs = nowMs;
      this.#changed = false;
    }
    const { version } = this.#projection;
    for (const point of points) {
      if (point.placed === version) continue;
      [point.x, point.y] = this.#projection.place(point.vector);
      point.placed = version;
    }
    return points;
  }
}

function whyNone(embedder: string, nextFrameId: number): string {
  if (embedder === "off") return "No embeddings: the gateway runs with --embedder off";
  if (nextFrameId <= 1) return "No frames yet";
  return embedder === "ok" ? "No frame with an embedding yet" : `No embeddings: the embedder is ${embedder}`;
}

/** A copy of `vector`, in the memory of `spare` if that has the same length. */
function copyInto(spare: Float32Array | null, vector: Float32Array): Float32Array {
  if (spare?.length !== vector.length) return vector.slice();
  spare.set(vector);
  return spare;
}
