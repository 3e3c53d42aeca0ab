/**
 * The whole pipeline under seeded traffic, bad weather and restarts: no promise of DESIGN.md may be broken at any step.
 *
 *   SIM_SEEDS=100000 bun test ./test/pipeline/simulation.test.ts    more seeds
 *   SIM_SEED=17 …                                                    one seed, with every step and log line
 */
import { expect, test } from "bun:test";
import { Pipeline } from "../../src/pipeline/pipeline.ts";
import { PLANTED, pipelineWith } from "./simulation/planted.ts";
import { type Report, type SimulationOptions, simulate } from "./simulation/simulate.ts";

const SEEDS_MAX = 1000;
const seeds = Number(process.env.SIM_SEEDS ?? SEEDS_MAX);
const onlySeed = process.env.SIM_SEED === undefined ? null : Number(process.env.SIM_SEED);
const TIMEOUT_MS = 600_000 + 1000 * seeds;

/** Runs a seed; a failure names it. */
async function run(seed: number, options: SimulationOptions): Promise<Report> {
  try {
    return await simulate(seed, options);
  } catch (error) {
    const how = `SIM_SEED=${seed} bun test ./test/pipeline/simulation.test.ts`;
    throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : error}\n  ${how}`, {
      cause: error,
    });
  }
}

if (onlySeed !== null) {
  test(
    `seed ${onlySeed} breaks no promise`,
    () => run(onlySeed, { Pipeline, trace: console.log }),
    TIMEOUT_MS,
  );
} else {
  test(
    `${seeds} seeded runs break no promise`,
    async () => {
      const total: Record<string, number> = {};
      for (let seed = 1; seed <= seeds; seed++) {
        for (const [name, count] of Object.entries(await run(seed, { Pipeline })))
          total[name] = (total[name] ?? 0) + count;
      }
      console.log(`seeds 1 to ${seeds}: ${JSON.stringify(total)}`);
      // Each kind of thing happens often enough.
      expect(Object.entries(total).filter(([, count]) => count < seeds / 20)).toEqual([]);
    },
    TIMEOUT_MS,
  );

  test("a seed is the same run every time", async () => {
    const traceOf = async (seed: number): Promise<string[]> => {
      const lines: string[] = [];
      await simulate(seed, { Pipeline, trace: (line) => lines.push(line.replaceAll(/simulation-\w+/g, "")) });
      return lines;
    };
    for (const seed of [3, 14, 15, 92]) expect(await traceOf(seed)).toEqual(await traceOf(seed));
  }, 60_000);

  for (const [fault, replacements] of Object.entries(PLANTED)) {
    test(
      `the simulation catches a pipeline that ${fault}`,
      async () => {
        const Wrong = await pipelineWith(replacements);
        for (let seed = 1; seed <= SEEDS_MAX; seed++) {
          const caught = await simulate(seed, { Pipeline: Wrong }).catch((error: unknown) => error);
          if (caught instanceof Error) return console.log(`seed ${seed}: ${caught.message.slice(0, 120)}`);
        }
        throw new Error(`not caught within ${SEEDS_MAX} seeds`);
      },
      TIMEOUT_MS,
    );
  }

  test("a planted fault whose text is missing, or occurs twice, is refused", async () => {
    const fault = { file: "holds.ts", find: "no such text", replaceWith: "" };
    await expect(pipelineWith([fault])).rejects.toThrow("0 times");
    await expect(pipelineWith([{ ...fault, find: "const" }])).rejects.toThrow("times, not once");
  });
}
