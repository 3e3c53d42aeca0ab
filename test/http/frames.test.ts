/** GET /api/frames and GET /api/labels. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { encodeFrame, encodePhysics, FRAME_BYTES, FRAME_FIELDS, type Physics } from "../../src/frame.ts";
import { get, problem, start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("reads of frames", () => {
  test("frames are JSON with every field, or the bytes of the ring", async () => {
    await using http = start();
    const physics: Physics = {
      delta_time: -6.9077554,
      duration_ms: 1.5,
      velocity: 2,
      interrupt: 0,
      timestamp_us: 1_700_000_000_123_456,
      conversation_hash: 0xfedcba9876543210n,
      workflow_node: -1,
      case_status: 4,
      lead_status: 3,
      fill_rate: 0.25,
      actor_type: 1,
      intent_id: 2147483647,
      sentiment: -0,
      confidence: 0.1,
      spin: [1, -0, 0, 0.5],
      event_seq: 12,
      semantic_dim: 3,
      flags: 41,
      model_id: 4294967295,
      type_id: -1,
      journal_id: 3000000000,
      checksum: 0n,
    };
    const vector = Float32Array.of(0.6, -0.8, -0);
    const bytes = new Uint8Array(40 * FRAME_BYTES);
    for (let n = 0; n < 40; n++) {
      encodeFrame(bytes, n * FRAME_BYTES, {
        frameId: 100 + n,
        capacity: 16,
        physics: encodePhysics(physics),
        vector,
      });
    }
    http.pipeline.frameBytes = bytes;
    const answer = await get(`${http.url}/api/frames?after=99&limit=40`);
    expect(answer.headers.get("content-type")).toBe("application/json");
    // biome-ignore lint/suspicious/noExplicitAny: each member that matters is checked below.
    const body = (await answer.json()) as { next: string; frames: any[] };
    expect(body.next).toBe("139");
    expect(body.frames).toHaveLength(40);
    const [first] = body.frames;
    expect(Object.keys(first)).toEqual(FRAME_FIELDS.map(({ name }) => name));
    expect(first).toMatchObject({
      sequence: "14",
      frame_id: "100",
      conversation_hash: "18364758544493064720",
    });
    expect(first).toMatchObject({
      timestamp_us: "1700000000123456",
      event_seq: "12",
      checksum: "0",
      model_id: 4294967295,
    });
    expect(first.confidence).toBe(Math.fround(0.1));
    expect(Object.is(first.sentiment, -0)).toBeTrue();
    expect(first.semantic).toHaveLength(1024);
    expect(Float32Array.from(first.semantic).slice(0, 3)).toEqual(vector);
    const raw = await get(`${http.url}/api/frames`, { accept: "application/vnd.cs-physics.frames" });
    expect(raw.headers.get("content-type")).toBe("application/vnd.cs-physics.frames");
    expect(raw.headers.get("x-frames-count")).toBe("40");
    expect(raw.headers.get("x-next")).toBe("139");
    expect(await raw.bytes()).toEqual(bytes);
    for (const { headers } of [answer, raw]) {
      expect([headers.get("x-frames-head"), headers.get("x-journal-id")]).toEqual(["140", "3000000000"]);
    }
    await get(`${http.url}/api/frames?limit=10000`, { accept: "application/vnd.cs-physics.frames" });
    expect(http.pipeline.asked).toEqual([
      { after: 99, limit: 40 },
      { after: null, limit: 1000 },
      { after: null, limit: 10_000 },
    ]);
    http.pipeline.frameBytes = new Uint8Array(0);
    expect(await (await get(`${http.url}/api/frames`)).text()).toBe('{"frames":[],"next":null}');
  });

  test("many frames come in pieces of whole frames, a few with a Content-Length", async () => {
    await using http = start();
    const bytes = new Uint8Array(601 * FRAME_BYTES);
    const view = new DataView(bytes.buffer);
    for (let n = 0; n < 601; n++) {
      view.setBigUint64(n * FRAME_BYTES + 8, BigInt(n + 1), true);
      view.setFloat32((n + 1) * FRAME_BYTES - 112, n, true);
    }
    http.pipeline.frameBytes = bytes;
    const accept = "application/vnd.cs-physics.frames";
    const many = await get(`${http.url}/api/frames?limit=10000`, { accept });
    expect(many.headers.get("x-next")).toBe("601");
    expect(await many.bytes()).toEqual(bytes);
    const json = (await (await get(`${http.url}/api/frames`)).json()) as { frames: { frame_id: string }[] };
    expect(json.frames.map((frame) => Number(frame.frame_id))).toEqual(
      Array.from({ length: 601 }, (_, n) => n + 1),
    );
    http.pipeline.frameBytes = bytes.subarray(0, FRAME_BYTES);
    const few = await get(`${http.url}/api/frames`, { accept });
    expect(few.headers.get("content-length")).toBe(String(FRAME_BYTES));
  });

  test("an empty run has the head and the journal id in its headers, in both forms", async () => {
    await using http = start();
    http.pipeline.next = 2 ** 32 + 5;
    for (const accept of ["application/json", "application/vnd.cs-physics.frames"]) {
      const { headers } = await get(`${http.url}/api/frames?after=${2 ** 32 + 4}`, { accept });
      expect(headers.get("x-frames-count")).toBe("0");
      expect(headers.get("x-frames-head")).toBe("4294967301");
      expect(headers.get("x-journal-id")).toBe("3000000000");
      expect(headers.get("x-next")).toBeNull();
    }
  });

  test("labels are the content of the file beside the ring, and need the token", async () => {
    await using open = start();
    const answer = await get(`${open.url}/api/labels`);
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await answer.json()).toEqual(open.pipeline.shownLabels);
    await problem(await get(`${open.url}/api/labels?kind=intent`), 400, "bad_parameter");
    await using closed = start({ token: "secret" });
    await problem(await get(`${closed.url}/api/labels`), 401, "unauthorized");
    const allowed = await get(`${closed.url}/api/labels`, { authorization: "Bearer secret" });
    expect(await allowed.json()).toEqual(closed.pipeline.shownLabels);
  });
});
