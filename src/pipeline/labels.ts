/** The labels behind the ids in frames: the journal keeps them before it has a frame that uses them, and a file beside the ring shows them. */
import type { Ring } from "../../collider.ts";
import { labelId, UNKNOWN_EVENT } from "../frame.ts";
import type { DecidedFrame, Journal, Label } from "../journal/journal.ts";
import type { RingLabels } from "../ring/contract.ts";
import type { Embedded } from "./work.ts";

/** @bound labels of a kind | ids without a label */
const LABELS_PER_KIND_MAX = 10_000;

type RingWithLabels = Pick<Ring, "setLabels">;

/** A frame that is about to be decided, as far as its labels go. */
interface LabelledDraft {
  readonly decided: Pick<DecidedFrame, "eventType" | "intent">;
}

export class Labels {
  readonly #journal: Pick<Journal, "labels" | "addLabels">;
  readonly #intents = new Map<number, string>();
  readonly #types = new Map<number, string>();
  readonly #models = new Map<number, { name: string; dim: number }>();
  /** Labels that are noted and that the journal does not have yet. */
  #unkept: Label[] = [];
  #shownBeside: RingWithLabels | null = null;

  constructor(journal: Pick<Journal, "labels" | "addLabels">) {
    this.#journal = journal;
    for (const { kind, id, label, dim } of journal.labels()) {
      if (kind === "model") this.#models.set(id, { name: label, dim });
      else (kind === "intent" ? this.#intents : this.#types).set(id, label);
    }
  }

  /** Notes the model of these vectors. The next {@link keep} keeps it. */
  noteModel({ embedder, dim }: Pick<Embedded, "embedder" | "dim">): void {
    if (this.#models.has(embedder.modelId)) return;
    this.#models.set(embedder.modelId, { name: embedder.name, dim });
    this.#unkept.push({ kind: "model", id: embedder.modelId, label: embedder.name, dim });
  }

  /**
   * Keeps the labels of these frames, and whatever was not kept before, in the journal. Call it before their rows commit.
   * @throws GatewayError disk_full, journal_failed; then the next call tries again
   */
  keep(drafts: readonly LabelledDraft[]): void {
    for (const { decided } of drafts) {
      const { eventType, intent } = decided;
      if (eventType !== null && eventType !== UNKNOWN_EVENT) this.#note("type", this.#types, eventType);
      if (intent !== null) this.#note("intent", this.#intents, intent);
    }
    if (this.#unkept.length === 0) return;
    this.#journal.addLabels(this.#unkept);
    this.#unkept = [];
    this.#shownBeside = null;
  }

  /** Whether the journal has all labels of this frame, and the model of its vector. */
  has({ decided: { eventType, intent } }: LabelledDraft, modelId: number | null): boolean {
    if (this.#unkept.length > 0 || (modelId !== null && !this.#models.has(modelId))) return false;
    const typeKnown =
      eventType === null || eventType === UNKNOWN_EVENT || this.#types.has(labelId(eventType));
    return typeKnown && (intent === null || this.#intents.has(labelId(intent)));
  }

  /** Notes a label, unless it is known or the bound is reached. A frame is complete without its label, too. */
  #note(kind: "type" | "intent", known: Map<number, string>, label: string): void {
    const id = labelId(label);
    if (known.has(id) || known.size >= LABELS_PER_KIND_MAX) return;
    known.set(id, label);
    this.#unkept.push({ kind, id, label, dim: 0 });
  }

  /** Whether the file beside this ring was written with all labels that are kept. */
  isShown(ring: RingWithLabels): boolean {
    return this.#shownBeside === ring;
  }

  /** Writes all labels to the file beside the ring. */
  show(ring: RingWithLabels): void {
    ring.setLabels(this.all());
    this.#shownBeside = ring;
  }

  /** The labels of all decided frames. */
  all(): RingLabels {
    return {
      intents: Object.fromEntries(this.#intents),
      types: Object.fromEntries(this.#types),
      models: Object.fromEntries(this.#models),
    };
  }
}
