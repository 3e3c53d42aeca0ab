/** Which decided frames stay in memory. */
import { expect, test } from "bun:test";
import { RecentFrames } from "../../src/pipeline/recent.ts";
import type { Draft } from "../../src/pipeline/work.ts";
import { FakeClock } from "../fake-clock.ts";
import { draftsOf } from "./fixtures.ts";

test("frames stay until ring and store have them", async () => {
  let takenBelow = 0;
  const recent = new RecentFrames({ nextFrameId: 5, takenBelow: () => takenBelow });
  const ids = (): number[] => recent.entries.map(({ frameId }) => frameId);
  expect([recent.next, ids()]).toEqual([5, []]);
  recent.add(5, await draftsOf(new FakeClock(), 1, 3));
  expect([recent.next, ids()]).toEqual([8, [5, 6, 7]]);
  takenBelow = 7;
  recent.forget();
  expect(ids()).toEqual([7]);
  takenBelow = 99;
  recent.forget();
  expect([recent.next, ids()]).toEqual([8, []]);
});

test("beyond 8,192 frames the oldest are dropped", async () => {
  const [draft] = await draftsOf(new FakeClock(), 1, 1);
  const recent = new RecentFrames({ nextFrameId: 1, takenBelow: () => 0 });
  recent.add(1, new Array<Draft>(8000).fill(draft as Draft));
  recent.add(8001, new Array<Draft>(200).fill(draft as Draft));
  expect([recent.entries.length, recent.entries[0]?.frameId, recent.next]).toEqual([8192, 9, 8201]);
});
