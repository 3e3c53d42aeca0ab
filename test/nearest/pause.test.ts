import { describe, expect, test } from "bun:test";
import { Outdated, slices } from "../../src/nearest/pause.ts";
import { FakeClock } from "../fake-clock.ts";

describe("a pause between slices", () => {
  test("is taken only after 5 ms of work, and gives the next slice as long", async () => {
    const clock = new FakeClock();
    const pause = slices(() => true, clock);
    await clock.advance(4.9);
    expect(pause()).toBeNull();
    await clock.advance(0.1);
    const paused = pause();
    expect(paused).not.toBeNull();
    await clock.advance(1);
    await paused;
    expect(pause()).toBeNull();
    await clock.advance(5);
    expect(pause()).not.toBeNull();
  });

  test("lets other work run before it ends", async () => {
    const clock = new FakeClock();
    const pause = slices(() => true, clock);
    await clock.advance(5);
    let ended = false;
    const paused = pause()?.then(() => {
      ended = true;
    });
    await new Promise((turn) => setImmediate(turn));
    expect(ended).toBe(false);
    await clock.advance(1);
    await paused;
    expect(ended).toBe(true);
  });

  test("rejects with Outdated if what is learned is no longer wanted", async () => {
    const clock = new FakeClock();
    let wanted = true;
    const pause = slices(() => wanted, clock);
    await clock.advance(5);
    const paused = pause()?.catch((error: unknown) => error);
    wanted = false;
    await clock.advance(1);
    expect(await paused).toBeInstanceOf(Outdated);
  });
});
