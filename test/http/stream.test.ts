/** Response bodies that are made while the client reads them, within the bound of what is held for clients. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect, type Socket } from "node:net";
import { encodeFrame, FRAME_BYTES, PHYSICS_BYTES } from "../../src/frame.ts";
import type { Pieces } from "../../src/http/contract.ts";
import { HeldBytes } from "../../src/http/held.ts";
import { Streams } from "../../src/http/stream.ts";
import { FakeClock } from "../fake-clock.ts";
import { get, type Harness, problem, type StubStore, start, until } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

const MIB = 1024 * 1024;

function around() {
  const clock = new FakeClock();
  const held = new HeldBytes(clock);
  const seen = { stuck: 0, failed: [] as unknown[], made: 0, returned: 0 };
  const streams = new Streams({
    held,
    clock,
    onStuck: () => {
      seen.stuck++;
    },
    onFailed: (thrown) => seen.failed.push(thrown),
  });
  async function* make(...sizes: (number | Error)[]): Pieces {
    try {
      for (const size of sizes) {
        if (size instanceof Error) throw size;
        seen.made++;
        yield new Uint8Array(size).fill(seen.made);
      }
    } finally {
      seen.returned++;
    }
  }
  const open = (pieceBytes: number, ...sizes: (number | Error)[]) => {
    const body = streams.pieces(make(...sizes), pieceBytes);
    return "code" in body ? null : body.getReader();
  };
  return { clock, held, seen, streams, open };
}

describe("a stream", () => {
  test("makes a piece when it is read, gives the socket 256 KiB at once, and gives its room back at its end", async () => {
    const { held, seen, open } = around();
    const reader = open(MIB, MIB, 3);
    expect([seen.made, held.responses]).toEqual([0, MIB + MIB / 4]);
    const parts: number[][] = [];
    for (let step = await reader?.read(); step?.done === false; step = await reader?.read())
      parts.push([step.value.byteLength, step.value[0] ?? 0, seen.made]);
    expect(parts).toEqual([...new Array(4).fill([MIB / 4, 1, 1]), [3, 2, 2]]);
    expect([held.responses, seen.returned, seen.failed]).toEqual([0, 1, []]);
  });

  test("gives its room back when the client leaves", async () => {
    const { held, seen, open, clock } = around();
    const reader = open(MIB, MIB, MIB);
    await reader?.read();
    await reader?.cancel();
    await clock.settle();
    expect([held.responses, seen.returned, clock.pending]).toEqual([0, 1, 0]);
  });

  test("ends with an error, which is told, if a piece cannot be made", async () => {
    const { held, seen, open } = around();
    const failure = new Error("gone");
    const reader = open(10, 10, failure);
    await reader?.read();
    expect(await reader?.read().catch((thrown: unknown) => thrown)).toBe(failure);
    expect([held.responses, seen.failed]).toEqual([0, [failure]]);
  });

  test("is ended if the client takes nothing for 60 s, and lives as long as it takes something", async () => {
    const { held, seen, open, clock } = around();
    const slow = open(10, ...new Array(9).fill(10));
    const stuck = open(10, 10, 10);
    for (let n = 0; n < 3; n++) {
      await slow?.read();
      await clock.advance(30_000);
    }
    expect(seen.stuck).toBe(1);
    expect(await stuck?.read().catch((thrown: unknown) => String(thrown))).toContain("takes nothing");
    expect((await slow?.read())?.done).toBeFalse();
    expect(held.responses).toBe(20);
    await slow?.cancel();
    expect([held.responses, clock.pending]).toEqual([0, 0]);
  });

  test("waits with a large piece until there is room for it", async () => {
    const { held, open, clock } = around();
    const large = open(10, 10, 30 * MIB);
    await large?.read();
    const other = open(40 * MIB, 1);
    let got = 0;
    const read = large?.read().then(({ value }) => {
      got = value?.byteLength ?? 0;
    });
    await clock.advance(10_000);
    expect(got).toBe(0);
    await other?.cancel();
    await clock.advance(100);
    await read;
    expect([got, held.responses]).toEqual([MIB / 4, 30.25 * MIB]);
  });
});

describe("a body in one piece", () => {
  test("is no stream if it is small, and holds its size if it is large", async () => {
    const { streams, held } = around();
    expect(streams.whole("x".repeat(256 * 1024))).toHaveLength(256 * 1024);
    const body = streams.whole("ã".repeat(MIB));
    expect(held.responses).toBe(2.25 * MIB);
    if (!(body instanceof ReadableStream)) throw new Error("expected a stream");
    expect(await new Response(body).text()).toBe("ã".repeat(MIB));
    expect(held.responses).toBe(0);
  });
});

/** Sends requests and reads nothing of the responses. */
function unread(http: Harness, path: string, count: number): Socket[] {
  return Array.from({ length: count }, () => {
    const socket = connect(http.server.port, "127.0.0.1");
    socket.pause();
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/vnd.cs-physics.frames\r\n\r\n`,
    );
    return socket;
  });
}

async function heldNow(http: Harness): Promise<number> {
  const response = await get(`${http.url}/metrics`, { accept: "application/json" });
  const { gauges } = (await response.json()) as { gauges: Record<string, number> };
  return gauges.http_responses_in_flight_bytes ?? Number.NaN;
}

async function allGivenBack(http: Harness): Promise<void> {
  const endMs = performance.now() + 30_000;
  while ((await heldNow(http)) > 0) {
    if (performance.now() > endMs) throw new Error("room is still held");
    await Bun.sleep(5);
  }
}

describe("clients that do not read", () => {
  test("40 of them hold a few slices of frames, not their 42 MB, and others are served", async () => {
    await using http = start();
    const bytes = new Uint8Array(10_000 * FRAME_BYTES);
    const physics = new Uint8Array(PHYSICS_BYTES);
    for (let n = 0; n < 10_000; n++)
      encodeFrame(bytes, n * FRAME_BYTES, { frameId: n + 1, capacity: 20_000, physics, vector: null });
    http.pipeline.frameBytes = bytes;
    const sockets = unread(http, "/api/frames?limit=10000", 40);
    await until("all have begun", () => http.pipeline.asked.length === 40);
    const accept = "application/vnd.cs-physics.frames";
    expect(await (await get(`${http.url}/api/frames?limit=10000`, { accept })).bytes()).toEqual(bytes);
    // The sockets' own buffers take some MB of each.
    expect(http.pipeline.framesRead).toBeLessThan(10_000 + 40 * 2500);
    expect(await heldNow(http)).toBeLessThanOrEqual(40 * (64 * FRAME_BYTES + 256 * 1024));
    for (const socket of sockets) socket.destroy();
    await allGivenBack(http);
  });

  test("more of them than there is room for are refused, and a HEAD holds nothing", async () => {
    await using http = start();
    const store = http.store as StubStore;
    store.kept = Array.from({ length: 40 }, (_, n) => `{"seq":${n + 1},"payload":"${"x".repeat(MIB)}"}`);
    for (let n = 0; n < 100; n++) {
      const head = await fetch(`${http.url}/api/events?limit=100`, { method: "HEAD" });
      expect(head.status).toBe(200);
    }
    await allGivenBack(http);
    const sockets = unread(http, "/api/events?limit=100", 60);
    await until("all have begun", () => store.queries.length >= 160);
    const refused = await get(`${http.url}/api/events?limit=100`);
    await problem(refused, 503, "overloaded");
    expect(await heldNow(http)).toBeLessThanOrEqual(64 * MIB);
    for (const socket of sockets) socket.destroy();
    await allGivenBack(http);
    expect((await get(`${http.url}/api/events?limit=100`)).status).toBe(200);
  });
});
