import { expect, test } from "bun:test";
import { Places } from "../../src/llm/places.ts";

const PATIENT = new AbortController().signal;

/** For each caller: true, false, or that it still waits. */
async function settled(entering: readonly Promise<boolean>[]): Promise<(boolean | "waits")[]> {
  return Promise.all(entering.map((one) => Promise.race([one, Promise.resolve("waits" as const)])));
}

test("two enter, and the others wait in order", async () => {
  const places = new Places();
  const entering = Array.from({ length: 4 }, () => places.enter(PATIENT));
  await entering[1];
  expect([await settled(entering), places.waiting]).toEqual([[true, true, "waits", "waits"], 2]);
  places.leave();
  await entering[2];
  expect([await settled(entering), places.waiting]).toEqual([[true, true, true, "waits"], 1]);
});

test("64 wait, and the next one is refused", async () => {
  const places = new Places();
  const entering = Array.from({ length: 67 }, () => places.enter(PATIENT));
  expect(await entering[66]).toBe(false);
  expect(places.waiting).toBe(64);
});

test("a caller whose signal aborts leaves the queue, and the one behind it moves up", async () => {
  const places = new Places();
  const asker = new AbortController();
  const entering = [
    places.enter(PATIENT),
    places.enter(PATIENT),
    places.enter(asker.signal),
    places.enter(PATIENT),
  ];
  asker.abort();
  expect([await entering[2], places.waiting]).toEqual([false, 1]);
  places.leave();
  expect(await entering[3]).toBe(true);
});

test("a place that its caller has left is free again", async () => {
  const places = new Places();
  for (let n = 0; n < 5; n++) {
    expect(await places.enter(PATIENT)).toBe(true);
    places.leave();
  }
  expect(places.waiting).toBe(0);
});
