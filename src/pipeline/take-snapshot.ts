/** Collects the state, counters and gauges of the pipeline's parts into one Snapshot. */
import type { LlmState } from "../llm/contract.ts";
import type { PatientEmbedder } from "./embedding.ts";
import type { Framer } from "./framer.ts";
import type { PipelineOptions } from "./options.ts";
import type { Pruner } from "./pruner.ts";
import type { Publisher } from "./publisher.ts";
import type { Questions } from "./questions.ts";
import type { RecentFrames } from "./recent.ts";
import type { Reembed } from "./reembed.ts";
import type { PartState, Snapshot } from "./snapshot.ts";
import type { StoreFeed } from "./store-feed.ts";
import type { Updates } from "./updates.ts";

type FromOptions = Pick<
  PipelineOptions,
  "version" | "journal" | "kinetics" | "schemas" | "brain" | "clock" | "otherMetrics"
>;

export interface Parts extends FromOptions {
  readonly startedUs: number;
  readonly framer: Framer;
  readonly recent: RecentFrames;
  readonly publisher: Publisher;
  readonly feed: StoreFeed;
  readonly pruner: Pruner;
  readonly questions: Questions;
  readonly updates: Updates;
  /** null while the embedder is being chosen. */
  readonly embedder: PatientEmbedder | null;
  /** null without --reembed. */
  readonly reembed: Reembed | null;
}

export function takeSnapshot(parts: Parts): Snapshot {
  const { embedder, publisher, feed, brain, clock } = parts;
  const choosing: PartState = { state: "starting", detail: "the embedder is being chosen" };
  const others = parts.otherMetrics();
  return {
    version: parts.version,
    startedUs: parts.startedUs,
    nowUs: clock.nowUs(),
    embedderName: embedder?.name ?? null,
    parts: {
      journal: journalPart(parts),
      store: feed.state,
      ring: publisher.state,
      embedder: embedder?.state ?? choosing,
      llm: partOf(brain.llm.state),
    },
    counters: {
      ...countersOf(parts),
      ...others.counters,
      dropped_events_total: parts.journal.dropped(),
      journal_damaged_rows_total: parts.journal.damage.rows,
    },
    gauges: { ...gaugesOf(parts), ...others.gauges },
    drift: parts.schemas.drift,
  };
}

function journalPart({ journal, framer }: Parts): PartState {
  const lost = journal.filesLost();
  if (lost !== null) return { state: "down", detail: lost.message };
  if (framer.state.state !== "ok") return framer.state;
  const { notice, damage } = journal;
  if (damage.first !== null) {
    const detail = `${damage.rows} damaged rows were passed over; the first: ${damage.first}`;
    return { state: "degraded", detail: notice === null ? detail : `${notice}; ${detail}` };
  }
  return notice === null ? framer.state : { state: "degraded", detail: notice };
}

function countersOf({ embedder, framer, publisher, feed, pruner, ...parts }: Parts): Snapshot["counters"] {
  return {
    ...framer.counters,
    ...publisher.counters,
    ...pruner.counters,
    ...feed.counters,
    ...embedder?.counters,
    ...parts.brain.llm.counters,
    ...parts.questions.counters,
    answers_total: parts.updates.written,
    ...parts.schemas.counters,
  };
}

function gaugesOf({ journal, recent, publisher, feed, questions, ...parts }: Parts): Snapshot["gauges"] {
  const backlog = journal.backlog();
  const headSeq = journal.headSeq();
  const stored = feed.store?.cursors ?? { seq: 0, frameId: 0 };
  const { ring } = publisher;
  return {
    journal_backlog_events: backlog.events,
    journal_bytes: bytesOf(backlog),
    lost_events: journal.gaps.lostEvents,
    head_seq: headSeq,
    next_frame_id: recent.next,
    unframed_events: parts.framer.unframed,
    store_lag_events: Math.max(0, headSeq - stored.seq),
    store_lag_frames: Math.max(0, recent.next - 1 - stored.frameId),
    store_memory_limit_bytes: feed.store?.memory.limitBytes ?? 0,
    ring_capacity_frames: ring?.capacity ?? 0,
    ring_head_frame_id: ring?.head() ?? 0,
    ring_tail_frame_id: ring?.tail() ?? 0,
    ring_reader_waiting: ring?.readerWaits() === true ? 1 : 0,
    embed_batch_ms: parts.embedder?.batchMs ?? 0,
    ...parts.brain.llm.gauges,
    llm_waiting_frames: questions.holds.frames,
    llm_late_events: questions.late,
    remembered_shapes: parts.brain.shapes,
    ...parts.reembed?.gauges,
    conversations: parts.kinetics.size,
    ...parts.schemas.gauges,
    resident_bytes: process.memoryUsage.rss(),
  };
}

/** NaN if the journal cannot be read: a snapshot of the other parts is wanted most then. */
function bytesOf(backlog: { readonly bytes: number }): number {
  try {
    return backlog.bytes;
  } catch {
    return Number.NaN;
  }
}

const LLM_PART: Readonly<Record<LlmState["name"], PartState["state"]>> = {
  off: "off",
  unknown: "starting",
  away: "down",
  ok: "ok",
  open: "degraded",
  "half-open": "degraded",
  budget: "degraded",
};

function partOf({ name, detail }: LlmState): PartState {
  return { state: LLM_PART[name], detail };
}
