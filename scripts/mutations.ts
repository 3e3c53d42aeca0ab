/**
 * Gateways that are wrong on purpose, for the tests that must catch them. Each replaces source text in a copy of the
 * sources, so that the product itself has no switch for them.
 */
import { StepError } from "./steps.ts";

interface Replacement {
  /** Path from the top of the repository. */
  readonly file: string;
  /** Must occur in the file exactly once. */
  readonly find: string;
  readonly replaceWith: string;
}

export const MUTATIONS: Readonly<Record<string, readonly Replacement[]>> = {
  /** Answers first and commits 50 ms later. */
  "ack-before-commit": [
    {
      file: "gateway.ts",
      find: "    journal,\n    events,\n",
      replaceWith: `    journal: {
      journalId: journal.journalId,
      headSeq: () => journal.headSeq(),
      append: async (parsed, options) => {
        setTimeout(() => void journal.append(parsed, options), 50);
        globalThis.nextSeq ??= journal.headSeq();
        return parsed.map((event) => ({ seq: ++globalThis.nextSeq, id: event.id ?? "", duplicate: false }));
      },
    },
    events,
`,
    },
  ],
  /** Shows readers frame ids that no committed row backs yet. */
  "publish-before-row": [
    {
      file: "src/pipeline/pipeline.ts",
      find: "    return this.#o.journal.decide(drafts.map(({ decided }) => decided));\n",
      replaceWith: `    const { ring } = this.#publisher;
    for (const { decided, vector } of drafts) ring?.publish(ring.head(), decided.physics, vector);
    return this.#o.clock.sleep(50).then(() => this.#o.journal.decide(drafts.map(({ decided }) => decided)));\n`,
    },
  ],
  /** Throws while the dashboard covers the terminal. */
  "crash-under-the-dashboard": [
    {
      file: "src/start/desk.ts",
      find: `    process.on("exit", () => {\n`,
      replaceWith: `    setTimeout(() => {
      throw new Error("a mutation of the tests");
    }, 1000);
    process.on("exit", () => {\n`,
    },
  ],
  /** Blocks the store's thread for ever at its second commit. */
  "store-blocks": [
    {
      file: "src/store/conductor.ts",
      find: "    this.#memory.begin();\n",
      replaceWith: "    if (this.#cursors.seq > 0) for (;;);\n    this.#memory.begin();\n",
    },
  ],
  /** Fills in checksums, as a gateway on a weakly ordered processor does. */
  checksums: [
    {
      file: "gateway.ts",
      find: `const CHECKSUMS = process.arch !== "x64";`,
      replaceWith: "const CHECKSUMS = true;",
    },
  ],
};

/**
 * The text of a source file in a mutated build.
 * @throws StepError if a text that is to be replaced does not occur exactly once.
 */
export function mutated(mutation: string, file: string, text: string): string {
  let result = text;
  for (const { find, replaceWith } of (MUTATIONS[mutation] ?? []).filter((entry) => entry.file === file)) {
    const found = result.split(find).length - 1;
    if (found !== 1) {
      throw new StepError(
        `build (mutation ${mutation})`,
        `${file}: the text that it replaces occurs ${found} times, not once:\n${find}`,
        "adapt the mutation in scripts/mutations.ts to the source",
      );
    }
    result = result.replace(find, () => replaceWith);
  }
  return result;
}
