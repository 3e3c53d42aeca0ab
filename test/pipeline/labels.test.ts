/** Labels by themselves: kept in the journal before a frame uses them, and beside the ring. */
import { expect, test } from "bun:test";
import { labelId, UNKNOWN_EVENT } from "../../src/frame.ts";
import type { Label } from "../../src/journal/journal.ts";
import { Labels } from "../../src/pipeline/labels.ts";
import type { Embedded } from "../../src/pipeline/work.ts";
import type { RingLabels } from "../../src/ring/contract.ts";

const LIMIT_MS = 60_000;

type Drafts = Parameters<Labels["keep"]>[0];

function draft(eventType: string | null, intent: string | null): Drafts[number] {
  return { decided: { eventType, intent } };
}

function setup(kept: Label[] = []) {
  /** What happened, in order. */
  const steps: string[] = [];
  const shown: RingLabels[] = [];
  let failure: Error | null = null;
  const journal = {
    labels: () => kept,
    addLabels: (fresh: readonly Label[]) => {
      if (failure !== null) throw failure;
      steps.push(`keep ${fresh.map(({ label }) => label).join(" ")}`);
      kept.push(...fresh);
    },
  };
  const ring = () => ({
    setLabels: (labels: RingLabels) => {
      steps.push("show");
      shown.push(labels);
    },
  });
  const fail = (error: Error | null): void => {
    failure = error;
  };
  const labels = new Labels(journal);
  /** What happens before these frames are published. */
  const show = (drafts: Drafts, beside: ReturnType<typeof ring>): void => {
    labels.keep(drafts);
    if (!labels.isShown(beside)) labels.show(beside);
  };
  return { labels, show, kept, steps, shown, ring, fail };
}

function embedded(modelId: number, name: string): Pick<Embedded, "embedder" | "dim"> {
  return { embedder: { modelId, name } as Embedded["embedder"], dim: 3 };
}

test(
  "a new label is kept in the journal first and then shown beside the ring, once",
  () => {
    const { show, steps, shown, ring } = setup();
    const one = ring();
    show([draft("Order", "Cancel"), draft("Order", "Cancel")], one);
    show([draft("Order", "Cancel")], one);
    expect(steps).toEqual(["keep Order Cancel", "show"]);
    show([draft("Invoice", null)], one);
    expect(steps.slice(2)).toEqual(["keep Invoice", "show"]);
    expect(shown[1]?.types).toEqual({ [labelId("Order")]: "Order", [labelId("Invoice")]: "Invoice" });
  },
  LIMIT_MS,
);

test(
  "a replaced ring gets all labels, with those that an earlier process kept",
  () => {
    const { show, steps, shown, ring } = setup([
      { kind: "model", id: 9, label: "hashing", dim: 1024 },
      { kind: "intent", id: 5, label: "Greet", dim: 0 },
      { kind: "type", id: 6, label: "Order", dim: 0 },
    ]);
    show([], ring());
    show([], ring());
    expect(steps).toEqual(["show", "show"]);
    const all = {
      intents: { 5: "Greet" },
      types: { 6: "Order" },
      models: { 9: { name: "hashing", dim: 1024 } },
    };
    expect(shown).toEqual([all, all]);
  },
  LIMIT_MS,
);

test(
  "a model is kept once, and shown before the next frames",
  () => {
    const { labels, show, kept, steps, shown, ring } = setup();
    const one = ring();
    show([], one);
    labels.noteModel(embedded(7, "bge-m3"));
    labels.noteModel(embedded(7, "bge-m3"));
    show([], one);
    expect(steps).toEqual(["show", "keep bge-m3", "show"]);
    expect(kept).toEqual([{ kind: "model", id: 7, label: "bge-m3", dim: 3 }]);
    expect(shown[1]?.models).toEqual({ 7: { name: "bge-m3", dim: 3 } });
  },
  LIMIT_MS,
);

test(
  "an unknown type and a missing intent are no labels",
  () => {
    const { labels, show, steps, ring } = setup();
    show([draft(UNKNOWN_EVENT, null), draft(null, null)], ring());
    expect(steps).toEqual(["show"]);
    expect(labels.all()).toEqual({ intents: {}, types: {}, models: {} });
  },
  LIMIT_MS,
);

test(
  "what the journal could not keep is kept by the next call, with everything that was noted since",
  () => {
    const { labels, show, steps, kept, ring, fail } = setup();
    const one = ring();
    fail(new Error("disk full"));
    labels.noteModel(embedded(7, "bge-m3"));
    expect(() => show([draft("Order", null)], one)).toThrow("disk full");
    expect(() => show([draft("Order", null)], one)).toThrow("disk full");
    expect(steps).toEqual([]);
    fail(null);
    show([draft("Order", "Cancel")], one);
    show([draft("Order", "Cancel")], one);
    expect(steps).toEqual(["keep bge-m3 Order Cancel", "show"]);
    expect(kept.map(({ kind }) => kind)).toEqual(["model", "type", "intent"]);
  },
  LIMIT_MS,
);

test(
  "beyond 10,000 labels of a kind an id has no label, and other kinds still have room",
  () => {
    const { labels, show, kept, ring } = setup();
    const many = Array.from({ length: 10_001 }, (_, index) => draft(null, `intent ${index}`));
    show([...many, draft("Order", null)], ring());
    const { intents, types } = labels.all();
    expect(intents[labelId("intent 9999")]).toBe("intent 9999");
    expect(intents[labelId("intent 10000")]).toBeUndefined();
    expect(types).toEqual({ [labelId("Order")]: "Order" });
    expect(kept.filter(({ kind }) => kind === "intent")).toHaveLength(Object.keys(intents).length);
  },
  LIMIT_MS,
);
