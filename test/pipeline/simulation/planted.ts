/**
 * Pipelines with a planted fault, to show that the simulation sees it. Each replaces source text that must occur exactly
 * once; all other rooms are those of the product.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { MUTATIONS } from "../../../scripts/mutations.ts";
import type { Pipeline } from "../../../src/pipeline/pipeline.ts";

export interface Fault {
  /** In src/pipeline/. */
  readonly file: string;
  readonly find: string;
  readonly replaceWith: string;
}

const ROOM = join(import.meta.dir, "../../../src/pipeline");

/** By what the pipeline then does wrong. */
export const PLANTED: Readonly<Record<string, readonly Fault[]>> = {
  "publishes a frame before its row has committed": (MUTATIONS["publish-before-row"] ?? []).map((fault) => ({
    ...fault,
    file: fault.file.replace("src/pipeline/", ""),
  })),
  "prunes what no checkpoint holds": [
    {
      file: "store-feed.ts",
      find: "    store.onCursors = () => {\n",
      replaceWith: "    store.onCursors = (cursors) => {\n      this.#o.onCheckpoint(cursors);\n",
    },
  ],
  "prunes what the ring has not shown": [
    {
      file: "pruner.ts",
      find: "frameId: Math.min(frameId, published())",
      replaceWith: "frameId",
    },
  ],
  "skips a frame when it feeds the store": [
    {
      file: "store-feed.ts",
      find: "        this.#offered = start + entries.length - 1;\n",
      replaceWith: "        this.#offered = start + entries.length;\n",
    },
  ],
  "does not offer again what a failed store has lost": [
    {
      file: "store-feed.ts",
      find: "      this.#offered = cursors.frameId;\n      void this.feed();\n",
      replaceWith: "      void this.feed();\n",
    },
  ],
  "lets an event pass those of its conversation that wait": [
    {
      file: "holds.ts",
      find: "    if (line === undefined && !waits) {\n",
      replaceWith: "    if (!waits) {\n",
    },
  ],
  "holds every conversation back for one": [
    {
      file: "holds.ts",
      find: "const key = item.event.conversationId ?? item.event.seq;",
      replaceWith: 'const key = "all";',
    },
  ],
  "waits for the language model for twice the time": [
    {
      file: "holds.ts",
      find: "this.#o.clock.monotonicMs() + this.#o.frameWaitMs",
      replaceWith: "this.#o.clock.monotonicMs() + 2 * this.#o.frameWaitMs",
    },
  ],
  "takes events beyond the bound of the backlog": [
    {
      file: "admission.ts",
      find: "    if (backlog < maxBacklogEvents) return null;\n",
      replaceWith: "    if (backlog <= maxBacklogEvents + 1) return null;\n",
    },
  ],
  "takes events with a full disk": [
    {
      file: "admission.ts",
      find: "    if (this.#disk !== null) return this.#disk;\n",
      replaceWith: "",
    },
  ],
  "never asks for a checkpoint": [
    {
      file: "pipeline.ts",
      find: "    if (this.#admission.checkpointDue) this.#feed.checkpoint();\n",
      replaceWith: "",
    },
  ],
  "forgets an event that comes while the intake has a gap": [
    {
      file: "intake.ts",
      find: "      if (full || event.seq !== this.#taken + 1) return;\n",
      replaceWith: "      if (full) return;\n",
    },
  ],
  "writes updates side by side": [
    {
      file: "updates.ts",
      find: "const turn = this.#turn.then(work);",
      replaceWith: "const turn = work();",
    },
  ],
  "asks again about what was answered": [
    {
      file: "questions.ts",
      find: "      this.counters.late_answers_total++;\n",
      replaceWith:
        "      this.counters.late_answers_total++;\n      if (this.counters.late_answers_total % 3 === 0) this.#askLater(seq);\n",
    },
  ],
  "gives the vectors of a batch to the wrong events": [
    {
      file: "embedding.ts",
      find: "rows.set(result.row, index * dim);",
      replaceWith: "rows.set(result.row, (texts.length - 1 - index) * dim);",
    },
  ],
  "publishes frames whose labels do not stand beside the ring": [
    {
      file: "publisher.ts",
      find: "        if (this.#labelsFailure === null && !labels.isShown(ring)) this.#showLabels(ring);\n",
      replaceWith: "",
    },
  ],
  "leaves a removed ring as it is": [
    {
      file: "publisher.ts",
      find: '    this.#ring = null;\n    ring.close("superseded");\n    void this.open();\n',
      replaceWith: '    ring.close("superseded");\n',
    },
  ],
};

/** The sources that differ, by path. @throws Error if a text does not occur exactly once */
function plant(faults: readonly Fault[]): Map<string, string> {
  const changed = new Map<string, string>();
  for (const { file, find, replaceWith } of faults) {
    const path = join(ROOM, file);
    const source = changed.get(path) ?? readFileSync(path, "utf8");
    const found = source.split(find).length - 1;
    if (found !== 1) throw new Error(`${file} has ${found} times, not once: ${find}`);
    changed.set(
      path,
      source.replace(find, () => replaceWith),
    );
  }
  return changed;
}

/** The pipeline of the product with these faults. @throws Error if a text does not occur exactly once */
export async function pipelineWith(faults: readonly Fault[]): Promise<typeof Pipeline> {
  const changed = plant(faults);
  const built = await Bun.build({
    entrypoints: [join(ROOM, "pipeline.ts")],
    target: "bun",
    plugins: [
      {
        name: "planted faults",
        setup(build) {
          // Other rooms, GatewayError above all, must be the same as the test's.
          build.onResolve({ filter: /^\.\.\// }, ({ path, importer }) => ({
            path: join(dirname(importer), path),
            external: true,
          }));
          build.onLoad({ filter: /\/src\/pipeline\/[^/]*\.ts$/ }, ({ path }) => ({
            contents: changed.get(path) ?? readFileSync(path, "utf8"),
            loader: "ts",
          }));
        },
      },
    ],
  });
  const folder = mkdtempSync(join(tmpdir(), "planted-"));
  try {
    const path = join(folder, "pipeline.js");
    writeFileSync(path, (await built.outputs[0]?.text()) ?? "");
    return (await import(path)).Pipeline;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
