import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { openHashing } from "../../src/embed/embed.ts";
import { HASHING_NAME, hashingEmbed } from "../../src/embed/hashing.ts";
import { modelId } from "../../src/frame.ts";
import { described, PATIENCE_MS, row, WORKER } from "./embedders.ts";

setDefaultTimeout(PATIENCE_MS);

describe("the hashing embedder in its worker", () => {
  test("returns the vectors of the pure function, and zeros for a text without features", async () => {
    await using embedder = openHashing(WORKER);
    const texts = ["Olá, mundo", "", "?!", "second 👍"];
    const rows = await embedder.embed(texts);
    const expected = new Float32Array(texts.length * embedder.dim);
    texts.forEach((text, at) => {
      hashingEmbed(text, expected, at * embedder.dim);
    });
    expect(rows).toEqual(expected);
    expect({ ...described(embedder), recomputed: embedder.recomputed }).toEqual({
      kind: "hashing",
      name: HASHING_NAME,
      dim: 1024,
      modelId: modelId(HASHING_NAME),
      recomputed: true,
    });
  });

  test("returns to each of many concurrent calls its own rows", async () => {
    await using embedder = openHashing(WORKER);
    const texts = Array.from({ length: 200 }, (_, at) => `message number ${at}`);
    const together = await embedder.embed(texts);
    const apart = await Promise.all(texts.map((text) => embedder.embed([text])));
    apart.forEach((vector, at) => {
      expect(vector).toEqual(row(embedder, together, at));
    });
  });

  test.skipIf(process.platform !== "linux")(
    "runs at a lower priority than the rest of the process",
    async () => {
      await using embedder = openHashing(WORKER);
      await embedder.embed(["a"]);
      // Fields of stat after the name in brackets; nice is the 19th field.
      const nices = readdirSync("/proc/self/task").map((task) =>
        Number(readFileSync(`/proc/self/task/${task}/stat`, "utf8").split(") ")[1]?.split(" ")[16]),
      );
      expect(nices).toContain(10);
      expect(Math.min(...nices)).toBeLessThan(10);
    },
  );

  test("returns no rows for no texts", async () => {
    await using embedder = openHashing(WORKER);
    expect((await embedder.embed([])).length).toBe(0);
  });
});
