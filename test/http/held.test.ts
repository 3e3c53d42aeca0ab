/** The bytes that are held for clients: who gets room, who waits for it, and who is refused. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { BUSY, TOO_SLOW } from "../../src/http/body.ts";
import { HeldBytes, Hold } from "../../src/http/held.ts";
import { LineRoom } from "../../src/http/line-room.ts";
import { FakeClock } from "../fake-clock.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

const MIB = 1024 * 1024;
const KIB = 1024;

function around() {
  const clock = new FakeClock();
  return { clock, held: new HeldBytes(clock) };
}

describe("room", () => {
  test("is shared by requests and responses, which have at most 64 MiB of 160", () => {
    const { held } = around();
    expect([held.takeResponse(64 * MIB), held.takeResponse(1)]).toEqual([true, false]);
    expect([held.takeRequest(96 * MIB), held.takeRequest(1)]).toEqual([true, false]);
    held.giveResponse(MIB);
    expect([held.takeRequest(MIB), held.takeResponse(1)]).toEqual([true, false]);
    held.giveRequest(97 * MIB);
    expect([held.takeResponse(MIB), held.requests, held.responses]).toEqual([true, 0, 64 * MIB]);
  });

  test("is waited for; a small body overtakes a large one that does not fit yet", async () => {
    const { clock, held } = around();
    held.takeRequest(150 * MIB);
    const order: string[] = [];
    const wait = (name: string, bytes: number) =>
      held.waitRequest(bytes).then((has) => order.push(`${name} ${has}`));
    const waits = [wait("large", 60 * MIB), wait("small", 20 * MIB)];
    held.giveRequest(10 * MIB);
    await clock.settle();
    expect(order).toEqual(["small true"]);
    held.giveRequest(140 * MIB);
    await Promise.all(waits);
    expect(order).toEqual(["small true", "large true"]);
    expect([held.requests, clock.pending]).toEqual([80 * MIB, 0]);
  });

  test("is refused after 10 s, at once if the wait cannot help, and to all that wait when a drain begins", async () => {
    const { clock, held } = around();
    expect(await held.waitRequest(161 * MIB)).toBeFalse();
    held.takeRequest(160 * MIB);
    let has: boolean | null = null;
    const waiting = held.waitRequest(1).then((value) => {
      has = value;
    });
    await clock.advance(9999);
    expect(has).toBeNull();
    await clock.advance(1);
    await waiting;
    expect(has as unknown).toBe(false);
    const drained = held.waitRequest(1);
    held.refuseWaiting();
    expect(await drained).toBeFalse();
    const many = Array.from({ length: 256 }, () => held.waitRequest(1));
    expect(await held.waitRequest(1)).toBeFalse();
    held.giveRequest(160 * MIB);
    expect(await Promise.all(many)).toEqual(new Array(256).fill(true));
    expect(held.requests).toBe(256);
  });

  test("of a request is kept while it waits for more, and given back by itself", async () => {
    const { held } = around();
    {
      using hold = new Hold(held);
      expect([hold.add(5), await hold.grow(3), held.requests]).toEqual([true, true, 5]);
      hold.shrink(3);
      hold.shrink(4);
      held.takeRequest(160 * MIB - 3);
      const waiting = hold.grow(4);
      expect([hold.bytes, held.requests]).toEqual([3, 160 * MIB]);
      held.giveRequest(160 * MIB - 3);
      expect([await waiting, held.requests]).toEqual([true, 4]);
    }
    expect(held.requests).toBe(0);
  });
});

describe("an NDJSON body", () => {
  function lines() {
    const { clock, held } = around();
    const hold = new Hold(held);
    const timeouts: number[] = [];
    const room = new LineRoom({
      hold,
      keepOpen: (seconds) => timeouts.push(seconds),
      clock,
      lineBytesMax: 8 * MIB,
    });
    return { clock, held, room, timeouts };
  }

  test("holds nothing for short lines in small chunks, and a large chunk only while it is read", async () => {
    const { held, room, timeouts } = lines();
    expect([await room.before(10, 60 * KIB), held.requests]).toEqual([null, 0]);
    room.after(64 * KIB);
    expect([await room.before(64 * KIB, MIB), held.requests]).toEqual([null, 2 * (MIB + 64 * KIB)]);
    room.after(3);
    expect([held.requests, timeouts]).toEqual([0, []]);
  });

  test("holds 4 MiB for a line of 1 MiB, room for the longest one if it grows, and must go on within 30 s there", async () => {
    const { held, room, timeouts } = lines();
    await room.before(0, 100 * KIB);
    room.after(100 * KIB);
    expect([held.requests, timeouts]).toEqual([200 * KIB, [30]]);
    expect([await room.before(100 * KIB, MIB), held.requests]).toEqual([null, 4 * MIB]);
    room.after(MIB);
    expect([await room.before(MIB, MIB), held.requests]).toEqual([null, 4 * MIB]);
    room.after(2 * MIB);
    expect([await room.before(2 * MIB, KIB), held.requests]).toEqual([null, 16 * MIB + KIB]);
    room.after(2 * MIB);
    expect(held.requests).toBe(16 * MIB + KIB);
    room.after(500 * KIB);
    expect([held.requests, timeouts]).toEqual([4 * MIB, [30]]);
    room.after(0);
    expect([held.requests, timeouts]).toEqual([0, [30, 300]]);
  });

  test("long lines that follow each other for minutes are not too slow, because each of them is fast", async () => {
    const { clock, room } = lines();
    for (let line = 0; line < 60; line++) {
      for (let lineKib = 100; lineKib < 1000; lineKib += 300) {
        expect(await room.before(lineKib * KIB, 300 * KIB)).toBeNull();
        room.after((lineKib === 700 ? 100 : lineKib + 300) * KIB);
        await clock.advance(1000);
      }
    }
  });

  test("is refused if there is no room, or if its long line arrives too slowly", async () => {
    const { clock, held, room } = lines();
    held.takeRequest(160 * MIB);
    const refused = room.before(0, MIB);
    await clock.advance(10_000);
    expect(await refused).toBe(BUSY);
    held.giveRequest(160 * MIB);
    await room.before(0, 100 * KIB);
    room.after(100 * KIB);
    await clock.advance(60_000);
    expect(await room.before(100 * KIB, 500 * KIB)).toBeNull();
    await clock.advance(60_000);
    expect(await room.before(600 * KIB, KIB)).toBe(TOO_SLOW);
  });
});
