/**
 * The table of metrics: /metrics takes HELP and TYPE from it, and docs/METRICS.md is generated from it. A test holds it
 * against what a running gateway counts, both ways.
 */

export interface Metric {
  readonly type: "counter" | "gauge" | "histogram";
  /** What the values count or measure, as in the name; empty for metrics that are 1 or 0. */
  readonly unit: string;
  readonly help: string;
  readonly labels?: readonly string[];
}

function counter(unit: string, help: string, labels: readonly string[] = []): Metric {
  return { type: "counter", unit, help, labels };
}

function gauge(unit: string, help: string, labels: readonly string[] = []): Metric {
  return { type: "gauge", unit, help, labels };
}

/** By name without the prefix `gateway_`, in the order of the documentation. */
export const METRICS = {
  info: gauge("", "Always 1; the labels say what is running.", ["version", "embedder"]),
  start_time_seconds: gauge("seconds", "Start of the process, Unix time."),
  part_state: gauge("", "1 for the state that each part is in.", ["part", "state"]),
  resident_bytes: gauge("bytes", "Resident memory of the process, mapped pages of the ring included."),

  accepted_events_total: counter("events", "Events acknowledged as new."),
  duplicate_events_total: counter("events", "Repeats, which were answered with the seq of the first event."),
  rejected_events_total: counter("events", "Events that were refused, batch elements and lines included."),
  ignored_fields_total: counter(
    "fields",
    "Understood fields that were ignored because their type or range was not the expected one.",
  ),
  ack_seconds: {
    type: "histogram",
    unit: "seconds",
    help: "From the head of a single event's request to its acknowledgement.",
  },
  http_requests_total: counter("requests", "Responses by route and class of status.", ["route", "status"]),
  refusals_total: counter("requests", "Requests that were refused, by error code.", ["code"]),
  http_body_bytes_total: counter("bytes", "Bytes of request bodies that were read."),
  http_aborted_requests_total: counter(
    "requests",
    "Requests whose client closed the connection before the response.",
  ),
  http_stuck_clients_total: counter(
    "requests",
    "Responses that were ended because their client took nothing for 60 s.",
  ),
  http_descriptor_exhaustions_total: counter(
    "times",
    "How often connections had taken all file descriptors, so that the idle ones were closed.",
  ),
  http_bodies_in_flight_bytes: gauge(
    "bytes",
    "Bytes of request bodies over 16 KiB that are being read or parsed.",
  ),
  http_responses_in_flight_bytes: gauge("bytes", "Bytes kept for large responses that clients are reading."),
  http_pending_requests: gauge("requests", "Requests that are being answered, this one included."),

  head_seq: gauge("seq", "Number of the newest acknowledged event."),
  journal_backlog_events: gauge(
    "events",
    "Events that the journal still holds, because DuckDB's last checkpoint does not.",
  ),
  journal_bytes: gauge("bytes", "Bytes of the journal's pages in use."),
  lost_events: gauge(
    "events",
    "Acknowledged events that are known to be lost, because files of the journal were deleted or an older copy was put back.",
  ),
  pruned_events_total: counter(
    "events",
    "Events that left the journal because a checkpoint of DuckDB holds them.",
  ),
  journal_damaged_rows_total: counter(
    "rows",
    "Damaged rows of the journal that were passed over since the start. The log names them.",
  ),
  dropped_events_total: counter(
    "events",
    "Events that left a full temporary folder before they had a frame (without --db-path only).",
  ),

  frames_total: counter("frames", "Frames decided: their rows are committed."),
  frames_without_vector_total: counter("frames", "Frames among them that have no vector."),
  next_frame_id: gauge("frame_id", "The frame_id that is decided next."),
  unframed_events: gauge("events", "Events whose frame is not decided yet."),
  conversations: gauge("conversations", "Conversations whose motion is remembered."),

  published_frames_total: counter("frames", "Frames published in the ring."),
  refilled_frames_total: counter("frames", "Older frames that were written into a new ring."),
  rings_replaced_total: counter(
    "rings",
    "Rings that were replaced because their file was removed, replaced or damaged.",
  ),
  ring_capacity_frames: gauge("frames", "Frames that the ring holds; 0 while there is no ring."),
  ring_head_frame_id: gauge("frame_id", "The frame_id after the newest frame in the ring."),
  ring_tail_frame_id: gauge("frame_id", "The frame_id of the oldest frame that may be read from the ring."),
  ring_reader_waiting: gauge("", "1 while a reader of the ring sleeps until the next frame."),

  store_lag_events: gauge("events", "Acknowledged events that DuckDB has not committed yet."),
  store_lag_frames: gauge("frames", "Decided frames that DuckDB has not committed yet."),
  store_failures_total: counter("failures", "Failures of DuckDB, after each of which it is opened again."),
  store_memory_limit_bytes: gauge(
    "bytes",
    "DuckDB's memory limit: `--memory-limit`, or more after it has run out of memory. 0 until DuckDB is open.",
  ),

  embed_batches_total: counter("batches", "Batches of texts that were embedded."),
  embed_batch_ms: gauge("ms", "How long the newest batch took."),
  embed_failures_total: counter(
    "failures",
    "Requests in which the embedder failed; what is not refused is tried again.",
  ),
  embed_refused_texts_total: counter("texts", "Texts that the embedder refused while it took others."),
  reembed_running: gauge("", "1 while --reembed computes vectors of older events, else 0."),
  reembed_done_seq: gauge("seq", "How far --reembed has come: the newest event that it has looked at."),
  reembed_to_seq: gauge("seq", "How far --reembed goes: the newest event at the start."),
  reembed_written_events: gauge("events", "Events that --reembed gave a new vector since the start."),

  llm_calls_total: counter("calls", "Calls of the language model's endpoint."),
  llm_answers_total: counter("replies", "Replies of the language model that could be used."),
  llm_corrections_total: counter("replies", "Usable replies that needed a second attempt."),
  llm_failures_total: counter(
    "failures",
    "Questions and chat turns that the language model failed, for any reason.",
  ),
  llm_failed_REASON_total: counter(
    "failures",
    "The same by reason: budget, cancelled, cut, invalid, no_completion, not_found, rate_limited, refused, server_error, " +
      "stopped, timeout, too_large, too_long, unauthorized or unreachable. Absent until the first one.",
  ),
  llm_breaker_opened_total: counter(
    "times",
    "How often the breaker opened, so that the endpoint was left alone for a while.",
  ),
  llm_breaker_open: gauge("", "1 while the breaker is open or tries one call, else 0."),
  llm_latency_p50_ms: gauge("ms", "Median time to a usable reply, of the newest 64."),
  llm_latency_max_ms: gauge("ms", "Longest time to a usable reply, of the newest 64."),
  llm_queue_calls: gauge("calls", "Calls that wait because others are under way."),
  llm_budget_left_calls: gauge("calls", "Calls left of today's --llm-budget; absent without one."),
  llm_waiting_frames: gauge("frames", "Frames that wait for the language model."),
  frame_waits_in_vain_total: counter(
    "frames",
    "Frames that waited --frame-wait and went out without a reply.",
  ),
  llm_late_events: gauge("events", "Events that the language model is to be asked about after their frame."),
  llm_forgotten_total: counter("events", "Events that the language model will not be asked about any more."),
  late_answers_total: counter("updates", "Updates by the language model: replies that came after the frame."),
  answers_total: counter("updates", "Updates of all kinds, those of --reembed included."),
  remembered_answers: gauge("texts", "Texts whose reply from the language model is remembered."),
  remembered_answers_hits_total: counter("texts", "Texts that were answered from there."),
  remembered_shapes: gauge("shapes", "Shapes of bodies whose event type is remembered."),

  intent_labels: gauge("labels", "Labels that have examples."),
  intent_examples: gauge("examples", "Labelled examples of all labels."),
  intent_threshold: gauge(
    "score",
    "Least score that gives a label, learned from the examples; 0 without any.",
  ),

  schema_types: gauge("types", "Event types with a learned schema."),
  schema_fields: gauge("fields", "Fields of all of them."),
  schema_events_total: counter("events", "Events that schemas were learned from."),
  schema_unread_events_total: counter(
    "events",
    "Events whose body the schemas could not read, which is a fault of the gateway.",
  ),
  schema_new_fields_total: counter("fields", "Fields that came to a type after its first 50 events."),
  schema_type_changes_total: counter("fields", "Fields that came with another JSON type than before."),
  schema_gone_fields_total: counter("fields", "Fields that stopped coming."),
  schema_skipped_fields_total: counter("fields", "Keys that were not learned because a bound is reached."),
  schema_dropped_types_total: counter("types", "Event types that were forgotten to make room for others."),
  schema_write_failures_total: counter("failures", "Failed writes of learned schemas; each is tried again."),

  chat_turns_total: counter("turns", "Turns of chat that were answered."),
  chat_failed_turns_total: counter(
    "turns",
    "Turns of chat that were not: no model, a failure, or the client closed the connection.",
  ),
  chat_sessions: gauge("sessions", "Conversations of chat that are remembered."),
  chat_busy_turns: gauge("turns", "Turns of chat that are being answered."),
  chat_forgotten_sessions_total: counter(
    "sessions",
    "Conversations of chat that made room for others before they expired.",
  ),
} as const satisfies Readonly<Record<string, Metric>>;

/** Rows that stand for a family of names: what is upper-case in theirs is lower-case text in the names. */
const FAMILIES = Object.entries(METRICS)
  .filter(([name]) => /[A-Z]/.test(name))
  .map(([name, metric]) => ({ pattern: new RegExp(`^${name.replace(/[A-Z]+/, "[a-z_]+")}$`), metric }));

/** The row of a name without the prefix; null if the table lacks it. */
export function metricOf(name: string): Metric | null {
  if (Object.hasOwn(METRICS, name)) return METRICS[name as keyof typeof METRICS];
  return FAMILIES.find(({ pattern }) => pattern.test(name))?.metric ?? null;
}
