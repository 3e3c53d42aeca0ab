import { expect, test } from "bun:test";
import { enrichmentOf, withUnderstanding } from "../../src/pipeline/frames.ts";
import { FakeClock } from "../fake-clock.ts";
import { draftsOf, UNKNOWN } from "./fixtures.ts";

test("an enrichment shows a number as it was given, not as the f32 that holds it", async () => {
  const clock = new FakeClock();
  const [draft] = await draftsOf(clock, 1, 1);
  if (draft === undefined) throw new Error("no draft");
  const said = {
    ...UNKNOWN,
    intent: "Cancel",
    intentFrom: "llm",
    confidence: 0.9,
    sentiment: -0.35,
    sentimentFrom: "llm",
  } as const;
  const { confidence, sentiment } = enrichmentOf(1, withUnderstanding(draft.decided, said, clock.nowUs()));
  expect([confidence, sentiment]).toEqual([0.9, -0.35]);
});
