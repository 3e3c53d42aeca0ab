/** The figures that the dashboard keeps as a series and shows as a panel of the tab of metrics, in their order. */

interface Panel {
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  /** How the seconds of one column become one value: the highest, or the mean. */
  readonly join: "max" | "mean";
  /** A place in the terminal's palette. */
  readonly color: number;
  /** The upper end of the scale; null: the highest value shown. */
  readonly top: number | null;
}

export const PANELS = [
  { name: "ingest_rate", title: "ingest", unit: "/s", join: "mean", color: 6, top: null },
  { name: "frames_rate", title: "frames", unit: "/s", join: "mean", color: 6, top: null },
  { name: "ack_p50_ms", title: "ack p50", unit: " ms", join: "max", color: 2, top: null },
  { name: "ack_p99_ms", title: "ack p99", unit: " ms", join: "max", color: 3, top: null },
  { name: "unframed_events", title: "unframed", unit: "", join: "max", color: 5, top: null },
  { name: "store_lag_events", title: "unstored", unit: "", join: "max", color: 5, top: null },
  { name: "ring_fill", title: "ring fill", unit: "%", join: "max", color: 12, top: 100 },
  { name: "embed_batch", title: "embed batch", unit: "", join: "mean", color: 12, top: null },
  { name: "embed_ms", title: "embed latency", unit: " ms", join: "max", color: 12, top: null },
  { name: "resident_bytes", title: "memory", unit: "B", join: "max", color: 2, top: null },
  { name: "llm_rate", title: "LLM calls", unit: "/s", join: "mean", color: 5, top: null },
  { name: "refusals_rate", title: "refusals", unit: "/s", join: "mean", color: 1, top: null },
] as const satisfies readonly Panel[];
