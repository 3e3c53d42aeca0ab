/** Response bodies that are made while the client reads them. */
import { expect, test } from "bun:test";
import { inTurns } from "../../src/http/stream.ts";
import { FakeClock } from "../fake-clock.ts";

test("each piece is made in a turn of its own, and only when it is read", async () => {
  const steps: string[] = [];
  class NotingClock extends FakeClock {
    override nextTurn(): Promise<void> {
      steps.push("turn");
      return super.nextTurn();
    }
  }
  function* make(): Generator<Uint8Array, void> {
    for (const byte of [1, 2]) {
      steps.push(`made ${byte}`);
      yield Uint8Array.of(byte);
    }
  }
  const reader = (inTurns(make(), new NotingClock()) as ReadableStream<Uint8Array>).getReader();
  for (const byte of [1, 2]) {
    expect((await reader.read()).value).toEqual(Uint8Array.of(byte));
    steps.push(`read ${byte}`);
  }
  expect((await reader.read()).done).toBeTrue();
  const made = steps.filter((step) => step !== "turn" && !step.startsWith("read"));
  expect(made).toEqual(["made 1", "made 2"]);
  for (const step of made) expect(steps[steps.indexOf(step) - 1]).toBe("turn");
  expect(steps.filter((step) => step === "turn")).toHaveLength(3);
});
