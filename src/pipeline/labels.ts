/** The labels behind the ids in frames: the journal keeps them, and a file beside the ring shows them before a frame uses them. */
import type { Ring } from "../../collider.ts";
import { labelId, UNKNOWN_EVENT } from "../frame.ts";
import type { Journal, Label } from "../journal/journal.ts";
import type { RingLabels } from "../ring/contract.ts";
import type { Embedded, Entry } from "./work.ts";

/** @bound labels of a kind | ids without a label */
const LABELS_PER_KIND_MAX = 10_000;

type RingWithLabels = Pick<Ring, "setLabels">;

export class Labels {
  readonly #journal: Pick<Journal, "labels" | "addLabels">;
  readonly #intents = new Map<number, string>();
  readonly #types = new Map<number, string>();
  readonly #models = new Map<number, { name: string; dim: number }>();
  #shownBeside: RingWithLabels | null = null;

  constructor(journal: Pick<Journal, "labels" | "addLabels">) {
    this.#journal = journal;
    for (const { kind, id, label, dim } of journal.labels()) {
      if (kind === "model") this.#models.set(id, { name: label, dim });
      else (kind === "intent" ? this.#intents : this.#types).set(id, label);
    }
  }

  /** Notes the model of these vectors before its first frame. */
  noteModel({ embedder, dim }: Pick<Embedded, "embedder" | "dim">): void {
    if (this.#models.has(embedder.modelId)) return;
    this.#models.set(embedder.modelId, { name: embedder.name, dim });
    this.#journal.addLabels([{ kind: "model", id: embedder.modelId, label: embedder.name, dim }]);
    this.#shownBeside = null;
  }

  /** Keeps the labels of these frames in the journal. Call it before they are published. */
  keep(entries: readonly Entry[]): void {
    const fresh: Label[] = [];
    for (const { eventType, intent } of entries) {
      if (eventType !== null && eventType !== UNKNOWN_EVENT) note(fresh, "type", this.#types, eventType);
      if (intent !== null) note(fresh, "intent", this.#intents, intent);
    }
    if (fresh.length === 0) return;
    this.#journal.addLabels(fresh);
    this.#shownBeside = null;
  }

  /** Whether the file beside this ring was written with all labels that are kept. */
  isShown(ring: RingWithLabels): boolean {
    return this.#shownBeside === ring;
  }

  /** Writes all labels to the file beside the ring. */
  show(ring: RingWithLabels): void {
    ring.setLabels(this.all([]));
    this.#shownBeside = ring;
  }

  /** Returns the labels shown so far, and those of `entries`, which may not have been shown yet. */
  all(entries: readonly Entry[]): RingLabels {
    const intents = new Map(this.#intents);
    const types = new Map(this.#types);
    // Many frames share few labels, so each id, which is a hash, is computed once.
    for (const label of new Set(entries.map(({ intent }) => intent))) {
      if (label !== null) note([], "intent", intents, label);
    }
    for (const label of new Set(entries.map(({ eventType }) => eventType))) {
      if (label !== null && label !== UNKNOWN_EVENT) note([], "type", types, label);
    }
    return {
      intents: Object.fromEntries(intents),
      types: Object.fromEntries(types),
      models: Object.fromEntries(this.#models),
    };
  }
}

/** Notes a label, unless it is known or the bound is reached. A frame is complete without its label, too. */
function note(fresh: Label[], kind: "type" | "intent", known: Map<number, string>, label: string): void {
  const id = labelId(label);
  if (known.has(id) || known.size >= LABELS_PER_KIND_MAX) return;
  known.set(id, label);
  fresh.push({ kind, id, label, dim: 0 });
}
