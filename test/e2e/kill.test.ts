import { expect, setDefaultTimeout, test } from "bun:test";
import { damageScenario } from "./damage-scenario.ts";
import { BINARY, mutatedBuild, seededRandom } from "./gateway.ts";
import { killScenario } from "./kill-scenario.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const LONG = process.env.LONG === "1";
const ROUNDS = LONG ? 200 : 10;
const DAMAGE_ROUNDS = LONG ? 200 : 10;

function say(what: string, report: Awaited<ReturnType<typeof killScenario>>): void {
  const ready = report.readyMs.map((ms) => Math.round(ms)).join(" ");
  console.log(
    `${what}: ${report.restarts} kills, ${report.acknowledged} acknowledged, ${report.framesSeen} frames seen by a reader, ` +
      `${report.checkpointRounds} with a checkpoint, ${report.refusals} refused; ready after ms: ${ready}`,
  );
}

test(
  `${ROUNDS} SIGKILLs at random instants lose nothing, repeat nothing and rename nothing`,
  async () => {
    const report = await killScenario({ binary: BINARY, rounds: ROUNDS, random: seededRandom("kill") });
    say("as built", report);
    expect(report.violations.slice(0, 10)).toEqual([]);
    expect(report.acknowledged).toBeGreaterThan(ROUNDS * 10);
    expect(report.framesSeen).toBeGreaterThan(ROUNDS * 10);
  },
  LONG ? 3_600_000 : 300_000,
);

test(
  `after each of ${DAMAGE_ROUNDS} damages while it was down, nothing acknowledged later is lost and no number has two meanings`,
  async () => {
    const lines: string[] = [];
    const random = seededRandom("damage");
    const report = await damageScenario({
      binary: BINARY,
      rounds: DAMAGE_ROUNDS,
      random,
      say: (line) => lines.push(line),
    });
    const { acknowledged, refused, said } = report;
    console.log(
      `damage: ${acknowledged} acknowledged, ${refused} refused to start, ${said} said what is missing`,
    );
    expect(report.violations.length === 0 ? [] : [...report.violations.slice(0, 10), ...lines]).toEqual([]);
    expect(acknowledged).toBeGreaterThan(DAMAGE_ROUNDS * 5);
  },
  LONG ? 3_600_000 : 300_000,
);

for (const mutation of ["ack-before-commit", "publish-before-row"]) {
  test(`the scenario catches a build with ${mutation}`, async () => {
    const binary = await mutatedBuild(mutation);
    const report = await killScenario({
      binary,
      // A loss ends the scenario at once. Frames that a reader saw too early are found only at the end.
      rounds: mutation === "ack-before-commit" ? 30 : 12,
      random: seededRandom(mutation),
      stopEarly: true,
    });
    say(mutation, report);
    expect(report.violations.length).toBeGreaterThan(0);
  }, 300_000);
}
