/**
 * All sources of what is known of an event, together, through the executable: given, examples, remembered answers, the
 * model, shapes; in frames, labels, events, and the Python reader.
 */
import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { decodeFrame, FLAG, labelId } from "../../src/frame.ts";
import { Gateway, ringFrames, ringHead, TempFolder, until } from "./gateway.ts";
import { LlmStub } from "./llm-stub.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

let folder = new TempFolder();
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const thing of open.splice(0).reverse()) await thing[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

async function stubAt(port = 0): Promise<LlmStub> {
  const stub = await LlmStub.start(port);
  open.push(stub);
  return stub;
}

async function start(args: readonly string[], baseUrl = "off"): Promise<Gateway> {
  const gateway = await Gateway.start(folder, {
    // Long enough that every frame waits for the stub, even on a busy machine.
    args: ["--embedder", "hashing", "--frame-wait", "30s", "--llm-base-url", baseUrl, ...args],
  });
  open.push(gateway);
  return gateway;
}

const CANCEL = ["quero cancelar meu plano", "cancelar plano agora", "como cancelo o plano?"];
const CARD = ["meu cartão não chegou", "onde está meu cartão", "o cartão ainda não chegou"];

async function putExamples(gateway: Gateway, label: string, examples: readonly string[]): Promise<void> {
  const init = { method: "PUT", headers: { "content-type": "application/json" } };
  const path = `/api/intents/${encodeURIComponent(label)}`;
  await until("the embedder is ready", async () => {
    return (await gateway.json<{ state: string }>("/api/intents")).state === "ready";
  });
  const kept = await gateway.fetch(path, { ...init, body: JSON.stringify({ examples }) });
  expect([kept.status, ((await kept.json()) as { in_force: boolean }).in_force]).toEqual([200, true]);
}

interface Said {
  readonly type: string;
  readonly intent: string | null;
  readonly sentiment: number | null;
  readonly from: { type: string | null; intent: string | null; sentiment: string | null };
}

/** One event as a reader of ring and labels sees its frame, and as the API returns it. */
async function say(gateway: Gateway, event: object): Promise<{ said: Said; confidence: number }> {
  const { seq } = (await (await gateway.post(event)).json()) as { seq: number };
  await until(`event ${seq} has its frame`, () => (ringHead(folder.ring)?.head ?? 0) > seq);
  const bytes = ringFrames(folder.ring).find((frame) => frame.eventSeq === seq)?.bytes;
  const frame = decodeFrame(bytes ?? new Uint8Array());
  const labels = JSON.parse(readFileSync(`${folder.ring}.json`, "utf8")) as Record<
    "types" | "intents",
    Record<string, string>
  >;
  const known = (flag: number): boolean => (frame.flags & flag) !== 0;
  // An unknown value is marked twice: by its flag, and by a value outside the valid range.
  expect(frame.intent_id === -1).toBe(!known(FLAG.intent));
  if (!known(FLAG.sentiment)) expect(frame.sentiment).toBe(0);
  const inFrame = {
    type: frame.type_id === -1 ? "UnknownEvent" : (labels.types[frame.type_id] ?? "(no label)"),
    intent: known(FLAG.intent) ? (labels.intents[frame.intent_id] ?? "(no label)") : null,
    sentiment: known(FLAG.sentiment) ? frame.sentiment : null,
  };
  interface Shown {
    event_type: string;
    enrichment: null | {
      intent: string | null;
      sentiment: number | null;
      confidence: number | null;
      provenance: Said["from"];
    };
  }
  let shown: Shown | null = null;
  await until(`event ${seq} is in /api/events`, async () => {
    const response = await gateway.fetch(`/api/events/${seq}`);
    if (response.status === 200) shown = (await response.json()) as Shown;
    return shown !== null && shown.enrichment !== null;
  });
  const { event_type, enrichment } = shown as unknown as Shown;
  const { intent, sentiment, confidence, provenance } = enrichment as NonNullable<Shown["enrichment"]>;
  expect({ type: event_type, intent, sentiment }).toEqual(inFrame);
  if (intent !== null) expect(frame.intent_id).toBe(labelId(intent));
  // Shown with the precision of a float32.
  expect(confidence === null ? null : Math.fround(confidence)).toBe(
    known(FLAG.intent) ? frame.confidence : null,
  );
  const from = { type: provenance.type, intent: provenance.intent, sentiment: provenance.sentiment };
  return { said: { ...inFrame, from }, confidence: frame.confidence };
}

const sources = (type: string | null, intent: string | null, sentiment: string | null): Said["from"] => {
  return { type, intent, sentiment };
};
const NOTHING: Said = {
  ...{ type: "UnknownEvent", intent: null, sentiment: null },
  from: sources(null, null, null),
};

test("examples alone put label, flag and confidence into the frame, leave distant messages unknown, and Python sees both", async () => {
  const gateway = await start([]);
  expect(await say(gateway, { message: CANCEL[0] })).toEqual({ said: NOTHING, confidence: 0 });
  expect((await say(gateway, { pusher: "ana" })).said).toEqual(NOTHING);
  await putExamples(gateway, "Cancelar plano", CANCEL);
  await putExamples(gateway, "CardArrival", CARD);
  const { said, confidence } = await say(gateway, { message: "quero cancelar o meu plano agora" });
  expect(said).toEqual({
    ...{ type: "Cancelar plano", intent: "Cancelar plano", sentiment: null },
    from: sources("examples", "examples", null),
  });
  expect(confidence).toBeGreaterThan(0.5);
  expect(confidence).toBeLessThanOrEqual(1);
  expect((await say(gateway, { message: "que horas abre a loja do centro" })).said).toEqual(NOTHING);
  // The sender's own type is kept.
  expect((await say(gateway, { type: "Chat", message: "cadê meu cartão, não chegou" })).said).toEqual({
    ...{ type: "Chat", intent: "CardArrival", sentiment: null },
    from: sources("given", "examples", null),
  });
  const root = resolve(import.meta.dir, "../..");
  const python = Bun.spawn(
    [resolve(root, ".venv/bin/python"), resolve(root, "consumer.py"), "--batch", "5", "--json"],
    {
      cwd: folder.path,
      env: { CS_PHYSICS_PATH: folder.ring, PYTHONDONTWRITEBYTECODE: "1" },
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  const lines = (await new Response(python.stdout).text()).trim().split("\n");
  expect(lines.map((line) => (JSON.parse(line) as { intent_label: string | null }).intent_label)).toEqual([
    null,
    null,
    "Cancelar plano",
    null,
    "CardArrival",
  ]);
});

test("a remembered reply serves nearly identical messages without a call, also after a restart and without the model", async () => {
  const stub = await stubAt();
  const args = ["--db-path", folder.file("events.duckdb")];
  const first = await start(args, stub.baseUrl);
  const answer = { type: "CarInsuranceRequest", intent: "CarInsuranceRequest", sentiment: 0.25 };
  expect((await say(first, { message: "Quero fazer um seguro pro meu carro" })).said).toEqual({
    ...answer,
    from: sources("llm", "llm", "llm"),
  });
  const again = {
    said: { ...answer, from: sources("cache", "cache", "cache") },
    confidence: Math.fround(0.9),
  };
  expect(await say(first, { message: "quero fazer um SEGURO, pro meu carro!" })).toEqual(again);
  expect(stub.calls).toBe(1);
  expect((await first.metrics()).gateway_remembered_answers_hits_total).toBe(1);
  await first.stop();
  const second = await start(args, stub.baseUrl);
  expect(await say(second, { message: "Quero fazer um seguro, pro meu carro." })).toEqual(again);
  expect(stub.calls).toBe(1);
  // One more word makes a different text.
  expect((await say(second, { message: "Não quero fazer um seguro pro meu carro" })).said.from.intent).toBe(
    "llm",
  );
  expect(stub.calls).toBe(2);
  await second.stop();
  const alone = await start(args);
  expect(await say(alone, { message: "quero fazer um seguro pro meu carro" })).toEqual(again);
});

test("for each value, given beats examples, examples beat remembered replies, and these beat the model", async () => {
  const stub = await stubAt();
  const gateway = await start([], stub.baseUrl);
  const message = CANCEL[0];
  // The model is asked, and its reply is remembered.
  expect((await say(gateway, { message })).said).toEqual({
    ...{ type: "PlanCancellation", intent: "PlanCancellation", sentiment: -0.5 },
    from: sources("llm", "llm", "llm"),
  });
  await putExamples(gateway, "Cancelar plano", CANCEL);
  await putExamples(gateway, "CardArrival", CARD);
  expect((await say(gateway, { message })).said).toEqual({
    ...{ type: "Cancelar plano", intent: "Cancelar plano", sentiment: -0.5 },
    from: sources("examples", "examples", "cache"),
  });
  expect(await say(gateway, { message, intent: "Mine" })).toEqual({
    said: { type: "Mine", intent: "Mine", sentiment: -0.5, from: sources("given", "given", "cache") },
    confidence: 1,
  });
  expect((await say(gateway, { message, intent: "Mine", sentiment: 1, type: "Chat" })).said).toEqual({
    ...{ type: "Chat", intent: "Mine", sentiment: 1 },
    from: sources("given", "given", "given"),
  });
  expect(stub.calls).toBe(1);
  // Examples have no sentiment, so the model is asked for it; its intent is ignored.
  expect((await say(gateway, { message: "cancelar o plano agora mesmo" })).said).toEqual({
    ...{ type: "Cancelar plano", intent: "Cancelar plano", sentiment: -0.5 },
    from: sources("examples", "examples", "llm"),
  });
  expect(stub.calls).toBe(2);
});

test("after one question, events without a message get their type by shape, also across a kill and without the model", async () => {
  const stub = await stubAt();
  const args = ["--db-path", folder.file("events.duckdb")];
  const push = (name: string, id: number): object => ({ pusher: { name }, ref: "main", id });
  const first = await start(args, stub.baseUrl);
  const pushed = { type: "GitHubPush", intent: null, sentiment: null };
  expect((await say(first, push("ana", 1))).said).toEqual({ ...pushed, from: sources("llm", null, null) });
  expect((await say(first, push("rui", 2))).said).toEqual({ ...pushed, from: sources("shape", null, null) });
  await first.kill();
  const second = await start(args);
  expect((await say(second, push("eva", 3))).said).toEqual({ ...pushed, from: sources("shape", null, null) });
  expect((await say(second, { paid: 3 })).said).toEqual(NOTHING);
  expect(stub.calls).toBe(1);
});

test("events that waited in the journal are framed after a restart with the examples in force", async () => {
  const args = ["--db-path", folder.file("events.duckdb")];
  const first = await start(args);
  const many = Array.from({ length: 400 }, (_, n) => `outra coisa número ${n} qualquer`);
  await putExamples(first, "Outra", many);
  await putExamples(first, "Cancelar plano", CANCEL);
  await first.kill();
  const second = await start(args);
  // Sent before any example is learned.
  expect((await say(second, { message: CANCEL[0] })).said.from.intent).toBe("examples");
});

test("a PUT of examples that waits for an endpoint does not delay a drain", async () => {
  const held = Promise.withResolvers<void>();
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    routes: {
      "/v1/models": () => Response.json({ data: [{ id: "embed-stub" }] }),
      // The endpoint never replies to the example, but it replies to the requests of the start.
      "/v1/embeddings": async (request: Request) => {
        const { input } = (await request.json()) as { input: string[] };
        const data = input.map((_, index) => ({ index, embedding: [1, 2, 3] }));
        if (!input.includes("held")) return Response.json({ data });
        held.resolve();
        await new Promise(() => {});
        return new Response();
      },
    },
  });
  open.push({ [Symbol.asyncDispose]: () => server.stop(true) });
  const remote = ["--embedder", "remote", "--embedding-model", "embed-stub", "--llm-model", "none"];
  const gateway = await start(remote, `http://127.0.0.1:${server.port}/v1`);
  await until("the embedder is ready", async () => {
    return (await gateway.json<{ state: string }>("/api/intents")).state === "ready";
  });
  const put = gateway.fetch("/api/intents/A", {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: '{"examples":["held"]}',
  });
  await held.promise;
  expect(await gateway.stop()).toBe(0);
  const answer = await put;
  expect([answer.status, await answer.json()]).toEqual([
    202,
    { label: "A", examples: 1, in_force: false, threshold: null },
  ]);
});
