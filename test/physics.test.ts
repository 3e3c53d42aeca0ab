import { describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import fc from "fast-check";
import { Kinetics, spin } from "../src/physics.ts";

describe("kinetics", () => {
  const SECOND = 1_000_000;
  const at = (kinetics: Kinetics, seconds: number, conversationId: string | null = "c") =>
    kinetics.observe({ conversationId, timestampUs: seconds * SECOND, receivedUs: seconds * SECOND });

  test("an event without a conversation does not move", () => {
    const kinetics = new Kinetics({});
    const still = { delta_time: 0, velocity: 0, interrupt: 0, first: false, conversation_hash: 0n };
    expect(at(kinetics, 1, null)).toEqual(still);
    expect(at(kinetics, 2, null)).toEqual(still);
    expect(kinetics.size).toBe(0);
  });

  test("the first event of a conversation is marked as such and has the conversation's hash", () => {
    const digest = createHash("sha256").update("conversa é", "utf8").digest();
    expect(at(new Kinetics({}), 1, "conversa é")).toEqual({
      delta_time: 0,
      velocity: 1,
      interrupt: 0,
      first: true,
      conversation_hash: digest.readBigUInt64LE(0),
    });
  });

  test("delta_time is the logarithm of the seconds since the conversation's previous event, at least of a millisecond", () => {
    const kinetics = new Kinetics({});
    at(kinetics, 100);
    at(kinetics, 104, "another");
    expect(at(kinetics, 110).delta_time).toBe(Math.log(10));
    expect(at(kinetics, 110).delta_time).toBe(Math.log(0.001));
    expect(at(kinetics, 90).delta_time).toBe(Math.log(0.001));
    expect(at(kinetics, 91).delta_time).toBe(0);
  });

  test("velocity counts the events of the minute that ends with the event", () => {
    const seed = Date.now() % 2 ** 31;
    console.log(`      seed ${seed}`);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 30 }), { maxLength: 200 }), (gaps) => {
        const kinetics = new Kinetics({});
        const times: number[] = [];
        let now = 1000;
        for (const gap of gaps) {
          now += gap;
          times.push(now);
          const expected = times.filter((time) => time >= now - 60).length;
          expect(at(kinetics, now).velocity).toBe(expected);
        }
      }),
      { seed },
    );
  });

  test("an event whose clock is far ahead does not change the velocity of later events", () => {
    const kinetics = new Kinetics({});
    at(kinetics, 100);
    at(kinetics, 1e9);
    expect(at(kinetics, 101).velocity).toBe(1);
    expect(at(kinetics, 102).velocity).toBe(2);
  });

  test("velocity stays at 1,024 if more events come", () => {
    const kinetics = new Kinetics({});
    let velocity = 0;
    for (let n = 0; n < 3000; n++) velocity = at(kinetics, 100 + n / 1000).velocity;
    expect(velocity).toBe(1024);
  });

  test("interrupt is 1 if the event was received before the previous one was decided", () => {
    const kinetics = new Kinetics({});
    const event = (receivedUs: number) =>
      kinetics.observe({ conversationId: "c", timestampUs: 0, receivedUs }).interrupt;
    expect(event(10)).toBe(0);
    kinetics.decided("c", 20);
    expect(event(19)).toBe(1);
    kinetics.decided("c", 30);
    expect(event(30)).toBe(0);
    expect(event(31)).toBe(1);
  });

  test("an event that was received before its predecessor, because the clock was set back, does not interrupt it", () => {
    const kinetics = new Kinetics({});
    const event = (receivedUs: number) =>
      kinetics.observe({ conversationId: "c", timestampUs: receivedUs, receivedUs });
    event(3600e6);
    kinetics.decided("c", 3600e6 + 5);
    expect(event(10)).toMatchObject({ interrupt: 0, delta_time: Math.log(0.001), velocity: 1 });
    expect(event(11).interrupt).toBe(1);
  });

  test("the least recently seen conversation is forgotten first", () => {
    const kinetics = new Kinetics({ conversationsMax: 2 });
    at(kinetics, 1, "a");
    at(kinetics, 2, "b");
    at(kinetics, 3, "a");
    at(kinetics, 4, "c");
    expect(kinetics.size).toBe(2);
    expect(at(kinetics, 5, "a").first).toBe(false);
    expect(at(kinetics, 6, "b").first).toBe(true);
  });

  test("after any run of events, the conversations seen last are remembered", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 100 }), (names) => {
        const kinetics = new Kinetics({ conversationsMax: 4 });
        let seen: number[] = [];
        for (const name of names) {
          expect(at(kinetics, 1, `${name}`).first).toBe(!seen.includes(name));
          seen = [name, ...seen.filter((other) => other !== name)].slice(0, 4);
          expect(kinetics.size).toBe(seen.length);
        }
      }),
    );
  });

  test("the number of remembered timestamps is bounded", () => {
    const kinetics = new Kinetics({ timesMax: 10 });
    for (let n = 0; n < 8; n++) at(kinetics, n, "a");
    for (let n = 0; n < 2; n++) at(kinetics, n, "b");
    expect(kinetics.size).toBe(2);
    at(kinetics, 3, "b");
    expect(kinetics.size).toBe(1);
    expect(at(kinetics, 4, "b").velocity).toBe(4);
  });

  test("after a restore, motion is as if the process had never stopped", () => {
    const event = fc.record({ conversationId: fc.constantFrom("a", "b", "c"), gapUs: fc.nat(40 * SECOND) });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), fc.nat(60), (events, cut) => {
        const live = new Kinetics({});
        const later = new Kinetics({});
        const rows: { conversationId: string; timestampUs: number; decidedUs: number }[] = [];
        let now = 0;
        events.forEach(({ conversationId, gapUs }, index) => {
          now += gapUs;
          if (index === cut) later.restore(rows);
          const o = { conversationId, timestampUs: now, receivedUs: now };
          const motion = live.observe(o);
          if (index >= cut) expect(later.observe(o)).toEqual(motion);
          for (const kinetics of [live, later]) kinetics.decided(conversationId, now + 5);
          rows.push({ conversationId, timestampUs: now, decidedUs: now + 5 });
        });
      }),
    );
  });
});

test("a preview says what taking the event will say, and changes nothing", () => {
  const event = fc.record({
    conversationId: fc.constantFrom("a", "b", null),
    timestampUs: fc.nat(200_000_000),
    receivedUs: fc.nat(1000),
    decidedUs: fc.nat(1000),
  });
  fc.assert(
    fc.property(fc.array(event, { maxLength: 100 }), fc.boolean(), (events, crowded) => {
      const kinetics = new Kinetics({});
      if (crowded) {
        for (let n = 0; n < 1500; n++)
          kinetics.observe({ conversationId: "a", timestampUs: 100_000_000 + n, receivedUs: 0 });
      }
      for (const { decidedUs, ...one } of events) {
        const before = kinetics.preview(one);
        expect(kinetics.preview(one)).toEqual(before);
        expect(kinetics.observe(one)).toEqual(before);
        if (one.conversationId !== null) kinetics.decided(one.conversationId, decidedUs);
      }
    }),
  );
});

describe("spin", () => {
  // Reproduced in Python from the TSDoc of drawSigns, to the last bit.
  const GOLDEN = [-0.27774118651507484, -0.9212621689015178, 0.07022134248050863, -0.2630680758364744];
  const GOLDEN_SHORT = [-0.21673028727316543, -0.5302974993048744, -0.7147488139718786, -0.4011816019401697];

  test("of a known vector is the same as in every version", () => {
    const vector = Float32Array.from({ length: 1024 }, (_, index) =>
      Math.fround(((index * 37) % 101) / 101 - 0.5),
    );
    expect(spin(vector) as number[]).toEqual(GOLDEN);
    expect(spin(vector.subarray(0, 5)) as number[]).toEqual(GOLDEN_SHORT);
  });

  test("is the identity for null and for vectors without a direction", () => {
    expect(spin(null)).toEqual([1, 0, 0, 0]);
    expect(spin(new Float32Array(1024))).toEqual([1, 0, 0, 0]);
    expect(spin(new Float32Array(0))).toEqual([1, 0, 0, 0]);
  });

  test("is a unit quaternion that depends on the vector's direction only", () => {
    fc.assert(
      fc.property(
        fc.float32Array({ minLength: 8, maxLength: 64, noNaN: true, min: -1, max: 1 }),
        (vector) => {
          const turn = spin(vector);
          expect(Math.hypot(...turn)).toBeCloseTo(1, 12);
          const doubled = spin(vector.map((value) => 2 * value));
          if (vector.some((value) => Math.abs(value) > 1e-30)) expect(doubled).toEqual(turn);
        },
      ),
    );
  });
});
