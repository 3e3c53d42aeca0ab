/** Parts of the pipeline that stand for themselves; what it does as a whole is shown by test/e2e. */
import { describe, expect, test } from "bun:test";
import type { Ring, RingLabels } from "../collider.ts";
import { labelId, UNKNOWN_EVENT } from "../src/frame.ts";
import type { Journal, Label } from "../src/journal.ts";
import { type Entry, Labels } from "../src/pipeline-frames.ts";

const entry = (eventType: string | null, intent: string | null): Entry => ({
  frameId: 1,
  physics: new Uint8Array(112),
  vector: null,
  eventType,
  intent,
});

describe("labels", () => {
  function around(): { labels: Labels; kept: Label[]; shown: RingLabels[]; ring: Ring } {
    const kept: Label[] = [{ kind: "model", id: 9, label: "hashing", dim: 1024 }];
    const shown: RingLabels[] = [];
    const journal = { labels: () => kept, addLabels: (fresh: readonly Label[]) => kept.push(...fresh) };
    const ring = { setLabels: (labels: RingLabels) => shown.push(labels) } as unknown as Ring;
    return { labels: new Labels(journal as unknown as Journal), kept, shown, ring };
  }

  test("of frames that are not published yet are told, and still go into the file before their frames", () => {
    const { labels, kept, shown, ring } = around();
    const frames = [
      entry("Order", "Cancel"),
      entry("Order", null),
      entry(UNKNOWN_EVENT, null),
      entry(null, null),
    ];
    const told = labels.all(frames);
    expect(told).toEqual({
      intents: { [labelId("Cancel")]: "Cancel" },
      types: { [labelId("Order")]: "Order" },
      models: { 9: { name: "hashing", dim: 1024 } },
    });
    expect(labels.all([])).toEqual({ ...told, intents: {}, types: {} });
    labels.show(frames, ring);
    expect(shown).toEqual([told]);
    expect(kept.map(({ label }) => label)).toEqual(["hashing", "Order", "Cancel"]);
    expect(labels.all([])).toEqual(told);
  });
});
