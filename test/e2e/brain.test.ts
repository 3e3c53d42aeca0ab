/** The brain in the executable: understanding, frames that wait or do not wait, faults of the endpoint, restarts, --reembed. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import {
  apiFrames,
  duckRows,
  Gateway,
  ringFrames,
  ringHead,
  seededRandom,
  TempFolder,
  until,
} from "./gateway.ts";
import { LlmStub, type Mode } from "./llm-stub.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

let folder = new TempFolder();
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

async function stubIn(mode: Mode, port = 0): Promise<LlmStub> {
  const stub = await LlmStub.start(port);
  stub.mode = mode;
  open.push(stub);
  return stub;
}

async function gatewayWith(baseUrl: string, args: readonly string[] = []): Promise<Gateway> {
  const gateway = await Gateway.start(folder, {
    args: ["--llm-base-url", baseUrl, "--embedder", "hashing", ...args],
  });
  open.push(gateway);
  return gateway;
}

interface Enriched {
  seq: number;
  event_type: string;
  enrichment: null | {
    frame_id: number;
    intent: string | null;
    sentiment: number | null;
    confidence: number | null;
    provenance: Record<string, string | null>;
  };
}

async function enriched(gateway: Gateway, event: object): Promise<Enriched> {
  const response = await gateway.fetch("/ingest?wait=enriched", {
    method: "POST",
    body: JSON.stringify(event),
    headers: { "content-type": "application/json" },
  });
  expect(response.status).toBe(200);
  return (await response.json()) as Enriched;
}

async function llmState(gateway: Gateway): Promise<{ state: string; detail: string }> {
  const { parts } = await gateway.json<{ parts: { llm: { state: string; detail: string } } }>("/ready");
  return parts.llm;
}

const CAR = "Quero fazer um seguro pro meu carro";
const CANCEL = "Quero cancelar meu plano";

test("with a thinking model, two messages of one shape get different types, in frame and database", async () => {
  const stub = await stubIn("thinking");
  const db = folder.file("events.duckdb");
  const gateway = await gatewayWith(stub.baseUrl, ["--db-path", db, "--frame-wait", "60s"]);
  const car = await enriched(gateway, { message: CAR, conversation_id: "c" });
  expect(car).toEqual({
    ...{
      status: "received",
      seq: 1,
      id: expect.any(String),
      duplicate: false,
      event_type: "CarInsuranceRequest",
    },
    enrichment: {
      ...{ frame_id: 1, intent: "CarInsuranceRequest", sentiment: 0.25, confidence: expect.closeTo(0.9) },
      provenance: { type: "llm", intent: "llm", sentiment: "llm", embedder: "hashing-1024-v1" },
    },
  } as never);
  const cancel = await enriched(gateway, { message: CANCEL, conversation_id: "c" });
  expect([cancel.event_type, cancel.enrichment?.sentiment]).toEqual(["PlanCancellation", -0.5]);
  // The frames carry the types, because they waited for the model.
  await until("both frames are in the ring", () => ringHead(folder.ring)?.head === 3);
  const frames = ringFrames(folder.ring);
  const types = JSON.parse(readFileSync(`${folder.ring}.json`, "utf8")).types as Record<string, string>;
  expect(frames.map(({ bytes }) => types[new DataView(bytes.buffer).getInt32(4208, true)])).toEqual([
    "CarInsuranceRequest",
    "PlanCancellation",
  ]);
  expect(frames.map(({ flags }) => flags & 6)).toEqual([6, 6]);
  const page = await gateway.json<{ events: Enriched[] }>("/api/events?type=CarInsuranceRequest");
  expect(page.events.map(({ seq }) => seq)).toEqual([1]);
  await gateway.stop();
  expect(await duckRows(db, "SELECT event_type, intent FROM enriched_events ORDER BY seq")).toEqual([
    { event_type: "CarInsuranceRequest", intent: "CarInsuranceRequest" },
    { event_type: "PlanCancellation", intent: "PlanCancellation" },
  ]);
});

test("a model that is slower than --frame-wait does not hold the frame: its reply updates the event once, and ?wait=enriched gets it", async () => {
  const stub = await stubIn("well");
  stub.delayMs = 700;
  const db = folder.file("events.duckdb");
  const gateway = await gatewayWith(stub.baseUrl, ["--db-path", db, "--frame-wait", "100ms"]);
  const waited = enriched(gateway, { message: CAR });
  await until("the frame is in the ring", () => ringHead(folder.ring)?.head === 2);
  const [frame] = ringFrames(folder.ring);
  expect((frame?.flags ?? 0) & 6).toBe(0);
  expect(await waited).toMatchObject({
    event_type: "CarInsuranceRequest",
    enrichment: { frame_id: 1, sentiment: 0.25 },
  });
  await until("the update is in DuckDB", async () => {
    const event = await gateway.json<Enriched>("/api/events/1");
    return event.event_type === "CarInsuranceRequest" && event.enrichment?.intent === "CarInsuranceRequest";
  });
  // The frame itself never changes.
  const [kept] = await apiFrames(gateway);
  expect(Buffer.compare(kept ?? new Uint8Array(), frame?.bytes ?? new Uint8Array())).toBe(0);
  expect(await gateway.metrics()).toMatchObject({
    ...{ gateway_late_answers_total: 1, gateway_frame_waits_in_vain_total: 1, gateway_llm_calls_total: 1 },
  });
  await gateway.kill();
  // After a kill the update is still there, once, and the model is not asked again.
  const again = await gatewayWith(stub.baseUrl, ["--db-path", db]);
  expect((await again.json<Enriched>("/api/events/1")).enrichment?.intent).toBe("CarInsuranceRequest");
  expect((await enriched(again, { message: CANCEL })).event_type).toBe("PlanCancellation");
  expect(stub.calls).toBe(2);
  await again.stop();
  expect(await duckRows(db, "SELECT seq, intent, semantic IS NULL AS bare FROM answers")).toEqual([
    { seq: 1n, intent: "CarInsuranceRequest", bare: false },
  ]);
});

test("an event that waits for the model holds back its own conversation, in order, and no other", async () => {
  const stub = await stubIn("hang");
  // The frame wait is longer than this test takes, so the waiting frames go out only when the model replies.
  const gateway = await gatewayWith(stub.baseUrl, ["--frame-wait", "60s", "--llm-timeout", "10m"]);
  await until("the endpoint is found", async () => (await llmState(gateway)).state === "ok");
  await gateway.post({ message: "slow", conversation_id: "a" });
  await gateway.post({ type: "Given", conversation_id: "a" });
  await gateway.post({ type: "Given", conversation_id: "b" });
  await gateway.post({ type: "Given" });
  await until("the other events have their frames", () => (ringHead(folder.ring)?.head ?? 1) >= 3);
  const seqs = (): number[] => ringFrames(folder.ring).map(({ eventSeq }) => eventSeq);
  expect(seqs()).toEqual([3, 4]);
  stub.answerHanging();
  await until("all events have frames", () => ringHead(folder.ring)?.head === 5);
  expect(seqs()).toEqual([3, 4, 1, 2]);
});

test("at most 64 of many events wait for the model, and the others are updated later", async () => {
  const stub = await stubIn("well");
  stub.delayMs = 20;
  const gateway = await gatewayWith(stub.baseUrl, ["--frame-wait", "60s"]);
  await until("the endpoint is found", async () => (await llmState(gateway)).state === "ok");
  const lines = Array.from({ length: 200 }, (_, n) => JSON.stringify({ message: `${CAR} ${n}` })).join("\n");
  expect((await gateway.postLines(lines)).status).toBe(200);
  let mostWaiting = 0;
  await until("all events have their frames", async () => {
    mostWaiting = Math.max(mostWaiting, (await gateway.metrics()).gateway_llm_waiting_frames ?? 0);
    return ringHead(folder.ring)?.head === 201;
  });
  expect(mostWaiting).toBeLessThanOrEqual(64);
  const first = ringFrames(folder.ring).filter(({ flags }) => (flags & 6) === 6).length;
  expect(first).toBe(64);
  await until(
    "the other events are updated",
    async () => (await gateway.metrics()).gateway_late_answers_total === 136,
  );
  await until("DuckDB has every update", async () => {
    const { events } = await gateway.json<{ events: Enriched[] }>(
      "/api/events?limit=1000&intent=CarInsuranceRequest",
    );
    return events.length === 200;
  });
  expect(stub.atOnceMax).toBe(2);
});

test("the model is asked once per shape for the type of events without a message", async () => {
  const stub = await stubIn("well");
  const gateway = await gatewayWith(stub.baseUrl);
  const push = await enriched(gateway, { pusher: { name: "ana" }, ref: "main" });
  expect(push).toMatchObject({
    event_type: "GitHubPush",
    enrichment: { intent: null, provenance: { type: "llm" } },
  });
  expect((await enriched(gateway, { type: "Mine", paid: 3 })).event_type).toBe("Mine");
  expect((await enriched(gateway, { odd: 3 })).event_type).toBe("UnknownEvent");
  expect(stub.calls).toBe(2);
});

describe("a faulty endpoint costs no event, no frame and bounded memory, and the gateway recovers with it", () => {
  const faults: readonly Mode[] = [
    ...(["hang", "drip", "reset", "html", "half-json", "empty", "nan", "out-of-range", "no-name"] as const),
    ...(["storm", "unauthorized", "rate-limit", "huge"] as const),
  ];
  for (const mode of faults) {
    test(mode, async () => {
      const stub = await stubIn(mode);
      const gateway = await gatewayWith(stub.baseUrl, ["--frame-wait", "50ms", "--llm-timeout", "300ms"]);
      await until("the endpoint is found", async () => (await llmState(gateway)).state === "ok");
      const before = (await gateway.metrics()).gateway_resident_bytes ?? 0;
      let sent = 0;
      const send = async (): Promise<void> => {
        const lines = Array.from({ length: 20 }, () =>
          JSON.stringify({ message: `oi ${sent++}`, conversation_id: "c" }),
        );
        expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
      };
      await send();
      await until("the breaker opens", async () => {
        if (sent < 400) await send();
        return ((await gateway.metrics()).gateway_llm_breaker_opened_total ?? 0) > 0;
      });
      expect((await llmState(gateway)).state).toMatch(/degraded|down/);
      await until("every event has its frame", () => ringHead(folder.ring)?.head === sent + 1);
      const seqs = ringFrames(folder.ring).map(({ eventSeq }) => eventSeq);
      expect(seqs).toEqual(Array.from({ length: sent }, (_, index) => index + 1));
      const held = (await gateway.metrics()).gateway_resident_bytes ?? 0;
      expect(held - before).toBeLessThan(250_000_000);
      stub.mode = "well";
      await until("the breaker closes", async () => (await llmState(gateway)).state === "ok", 60_000);
      // On a busy machine even a good reply can miss the short --llm-timeout of this test.
      await until("the gateway uses the model's replies again", async () => {
        const { event_type, enrichment } = await enriched(gateway, { message: CAR, conversation_id: "c" });
        return event_type === "CarInsuranceRequest" && enrichment?.intent === "CarInsuranceRequest";
      });
    });
  }
});

test("nothing waits for an absent endpoint; one that appears later is found and asked about the events so far", async () => {
  const gone = await LlmStub.start();
  const { port } = gone;
  await gone[Symbol.asyncDispose]();
  const gateway = await gatewayWith(`http://127.0.0.1:${port}/v1`, ["--frame-wait", "60s"]);
  await until("the endpoint is reported as away", async () => (await llmState(gateway)).state === "down");
  const reply = await enriched(gateway, { message: CAR });
  expect(reply).toMatchObject({
    event_type: "UnknownEvent",
    enrichment: { frame_id: 1, intent: null, sentiment: null },
  });
  await stubIn("well", port);
  await until("the endpoint is found and has updated the event", async () => {
    return (await gateway.json<Enriched>("/api/events/1")).event_type === "CarInsuranceRequest";
  });
});

test("questions that were open at a kill are asked after the restart", async () => {
  const stub = await stubIn("hang");
  const db = folder.file("events.duckdb");
  const args = ["--db-path", db, "--frame-wait", "10ms"];
  const first = await gatewayWith(stub.baseUrl, args);
  for (const message of [CAR, CANCEL]) await first.post({ message });
  await until("both have their frames", () => ringHead(folder.ring)?.head === 3);
  await first.kill();
  stub.mode = "well";
  const second = await gatewayWith(stub.baseUrl, args);
  await until("both events are updated", async () => {
    const { events } = await second.json<{ events: Enriched[] }>("/api/events");
    return events.map(({ event_type }) => event_type).join() === "PlanCancellation,CarInsuranceRequest";
  });
  await second.stop();
  expect(await duckRows(db, "SELECT count(*)::INTEGER AS n FROM answers")).toEqual([{ n: 2 }]);
});

test("the model is also asked about events that have left the journal", async () => {
  const gone = await LlmStub.start();
  const { port } = gone;
  await gone[Symbol.asyncDispose]();
  const db = folder.file("events.duckdb");
  // At half of the backlog the gateway checkpoints, and events leave the journal.
  const gateway = await gatewayWith(`http://127.0.0.1:${port}/v1`, ["--db-path", db, "--max-backlog", "40"]);
  for (let n = 0; n < 30; n++) {
    const event = n % 2 === 0 ? { message: `${CAR} ${n}`, conversation_id: "c" } : { pusher: `u${n}`, n };
    expect((await gateway.post(event)).status).toBe(200);
  }
  await until(
    "some events have left the journal",
    async () => ((await gateway.metrics()).gateway_pruned_events_total ?? 0) >= 20,
  );
  await stubIn("well", port);
  await until("all events are updated", async () => {
    const { events } = await gateway.json<{ events: Enriched[] }>("/api/events?limit=100");
    return events.every(
      ({ event_type, seq }) => event_type === (seq % 2 === 1 ? "CarInsuranceRequest" : "GitHubPush"),
    );
  });
  await gateway.stop();
  // The update repeats the frame's vector and motion, and adds the type.
  const same = `SELECT count(*)::INTEGER AS n FROM answers a JOIN enrichments n USING (seq)
    WHERE a.semantic = n.semantic AND a.velocity = n.velocity AND a.spin = n.spin AND a.timestamp_us = n.timestamp_us
      AND a.conversation_hash = n.conversation_hash AND a.type_id <> n.type_id AND a.event_seq = n.seq`;
  expect(await duckRows(db, same)).toEqual([{ n: 30 }]);
});

test("kills while replies are late leave each event with one frame and at most one update", async () => {
  const { below } = seededRandom("kills with late answers");
  const stub = await stubIn("well");
  stub.delayMs = 30;
  const db = folder.file("events.duckdb");
  const args = ["--db-path", db, "--frame-wait", "40ms"];
  let sent = 0;
  for (let round = 0; round < 5; round++) {
    const gateway = await gatewayWith(stub.baseUrl, args);
    for (let n = 0; n < 15; n++) {
      const reply = await gateway.post({ message: `${CAR} ${sent}`, conversation_id: `c${sent % 3}` });
      expect(((await reply.json()) as Enriched).seq).toBe(++sent);
    }
    await Bun.sleep(below(400));
    await gateway.kill();
  }
  const last = await gatewayWith(stub.baseUrl, args);
  await until("all events are updated", async () => {
    const { events } = await last.json<{ events: Enriched[] }>("/api/events?limit=1000");
    return events.length === sent && events.every(({ event_type }) => event_type === "CarInsuranceRequest");
  });
  await last.stop();
  const rows = await duckRows(
    db,
    `SELECT count(*)::INTEGER AS frames, count(DISTINCT n.seq)::INTEGER AS seqs, max(frame_id)::INTEGER AS last,
      (SELECT max(c)::INTEGER FROM (SELECT count(*) AS c FROM answers GROUP BY seq)) AS most,
      (SELECT count(*)::INTEGER FROM answers a JOIN enrichments f USING (seq) WHERE f.intent IS NOT NULL) AS needless
     FROM enrichments n`,
  );
  expect(rows).toEqual([{ frames: sent, seqs: sent, last: sent, most: 1, needless: 0 }]);
  // Within each conversation, frames are in order of receipt.
  for (const { seqs } of await duckRows(
    db,
    "SELECT list(e.seq ORDER BY frame_id)::INTEGER[] AS seqs FROM enrichments n JOIN events e USING (seq) GROUP BY conversation_id",
  )) {
    const order = [...(seqs as { items: number[] }).items];
    expect(order).toEqual(order.toSorted((a, b) => a - b));
  }
});

test("the call budget survives a restart, and frames do not wait once it is used up", async () => {
  const stub = await stubIn("well");
  const args = ["--db-path", folder.file("events.duckdb"), "--llm-budget", "2"];
  const first = await gatewayWith(stub.baseUrl, args);
  expect((await enriched(first, { message: CAR })).event_type).toBe("CarInsuranceRequest");
  await first.kill();
  const second = await gatewayWith(stub.baseUrl, args);
  expect((await enriched(second, { message: `${CAR} novo` })).event_type).toBe("CarInsuranceRequest");
  expect((await enriched(second, { message: CANCEL })).event_type).toBe("UnknownEvent");
  expect(await llmState(second)).toMatchObject({
    state: "degraded",
    detail: expect.stringContaining("--llm-budget"),
  });
  expect((await second.metrics()).gateway_llm_budget_left_calls).toBe(0);
  expect(stub.calls).toBe(2);
});

describe("--reembed", () => {
  const DIM = 8;
  let paused = false;

  /** An embedding endpoint that can be paused. */
  function embedder(): Bun.Server<undefined> {
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      routes: {
        "/v1/models": () => Response.json({ data: [{ id: "embed-stub" }] }),
        "/v1/embeddings": async (request: Request) => {
          const { input } = (await request.json()) as { input: string[] };
          if (paused) return new Response("later", { status: 503 });
          const data = input.map((text, index) => ({
            index,
            embedding: Array.from({ length: DIM }, (_, at) => text.length + at),
          }));
          return Response.json({ data });
        },
      },
    });
    open.push({ [Symbol.asyncDispose]: async () => server.stop(true) });
    return server;
  }

  const counted = async (gateway: Gateway, name: string): Promise<number> =>
    (await gateway.metrics())[`gateway_${name}`] ?? -1;

  test("gives every older event one vector of the new model, across kills, and changes no frame", async () => {
    paused = false;
    const server = embedder();
    const db = folder.file("events.duckdb");
    const args = ["--db-path", db, "--llm-model", "none"];
    const first = await gatewayWith("off", args);
    const lines = Array.from({ length: 600 }, (_, n) =>
      JSON.stringify(
        n % 3 === 0
          ? { order: { name: `item ${n}` } }
          : n === 1
            ? { number: 1 }
            : { message: `mensagem ${n}` },
      ),
    );
    await first.postLines(lines.join("\n"));
    await until("all events have their frames", () => ringHead(folder.ring)?.head === 601);
    const framed = await apiFrames(first);
    await first.stop();

    const endpoint = `http://127.0.0.1:${server.port}/v1`;
    const remote = ["--llm-base-url", endpoint, "--embedder", "remote", "--embedding-model", "embed-stub"];
    const reembed = [...args, ...remote, "--reembed"];
    for (const least of [30, 300]) {
      const killed = await gatewayWith("off", reembed);
      await until(`${least} are done`, async () => (await counted(killed, "reembed_done_seq")) >= least);
      await killed.kill();
    }
    const last = await gatewayWith("off", reembed);
    await until("no event is left to embed", async () => (await counted(last, "reembed_running")) === 0);
    expect(await counted(last, "reembed_done_seq")).toBe(600);
    expect((await last.post({ message: "new" })).status).toBe(200);
    await until("the newest event has its frame", () => ringHead(folder.ring)?.head === 602);
    const after = await apiFrames(last);
    framed.forEach((frame, index) => {
      expect(Buffer.compare(frame.subarray(8), (after[index] ?? new Uint8Array(8)).subarray(8))).toBe(0);
    });
    await last.stop();

    const models = await duckRows(
      db,
      "SELECT model_id, count(*)::INTEGER AS n FROM enriched_events GROUP BY ALL ORDER BY n",
    );
    // The event without text has no vector at all.
    expect(models.map(({ n }) => n)).toEqual([1, 600]);
    const answers =
      "SELECT count(*)::INTEGER AS n, count(DISTINCT seq)::INTEGER AS seqs, count(semantic)::INTEGER AS v FROM answers";
    expect(await duckRows(db, answers)).toEqual([{ n: 599, seqs: 599, v: 599 }]);
    expect(await duckRows(db, "SELECT DISTINCT semantic_dim::INTEGER AS d FROM answers")).toEqual([
      { d: DIM },
    ]);
  });

  test("an embedder that is away pauses it, the log says why, and new events are framed", async () => {
    paused = false;
    const server = embedder();
    const db = folder.file("events.duckdb");
    const first = await gatewayWith("off", ["--db-path", db]);
    for (let n = 0; n < 20; n++) await first.post({ message: `mensagem ${n}` });
    await until("all events have their frames", () => ringHead(folder.ring)?.head === 21);
    await first.stop();
    const remote = ["--embedder", "remote", "--embedding-model", "embed-stub", "--reembed", "--db-path", db];
    paused = true;
    const second = await gatewayWith(`http://127.0.0.1:${server.port}/v1`, remote);
    await until("the log says what is wrong", () => /reembed: .*503/.test(second.log));
    expect((await second.post({ n: 1 })).status).toBe(200);
    await until("the event without text has its frame", () => ringHead(folder.ring)?.head === 22);
    paused = false;
    await until("re-embedding has finished", async () => (await counted(second, "reembed_running")) === 0);
    expect(await counted(second, "reembed_written_events")).toBe(20);
  });
});

test("a drain does not wait for the model", async () => {
  const stub = await stubIn("hang");
  const db = folder.file("events.duckdb");
  const gateway = await gatewayWith(stub.baseUrl, ["--db-path", db, "--frame-wait", "60s"]);
  await until("all parts are ready", async () => {
    const { parts } = await gateway.json<{ parts: Record<string, { state: string }> }>("/ready");
    return Object.values(parts).every(({ state }) => state === "ok");
  });
  for (let n = 0; n < 3; n++) await gateway.post({ message: `m${n}`, conversation_id: "c" });
  expect(await gateway.stop()).toBe(0);
  // If the drain waited for the model, its own bound of 10 s would end it before these frames.
  expect(await duckRows(db, "SELECT count(*)::INTEGER AS n FROM enrichments")).toEqual([{ n: 3 }]);
});
