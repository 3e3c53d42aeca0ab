import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type ChooseOptions,
  chooseEmbedder,
  openHashing,
  openModel,
  type RecordedEmbedder,
} from "../../src/embed/embed.ts";
import type { Embedder } from "../../src/embed/embedder.ts";
import { HASHING_NAME, hashingEmbed } from "../../src/embed/hashing.ts";
import { RecentVectors } from "../../src/embed/recent.ts";
import { GatewayError } from "../../src/errors.ts";
import { modelId } from "../../src/frame.ts";

const WORKER = new URL("../../src/embed/embed.worker.ts", import.meta.url);
const FIXTURE = join(import.meta.dir, "../fixtures/tiny-xlmr");
const LOCAL_NAME = "tiny-xlmr@int8+cls";
const folder = mkdtempSync(join(tmpdir(), "gateway-embed-"));
const modelsDir = join(folder, "models");
const emptyDir = join(folder, "none");

beforeAll(() => cpSync(FIXTURE, join(modelsDir, "tiny-xlmr"), { recursive: true }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function options(given: Partial<ChooseOptions>): ChooseOptions {
  return {
    choice: "auto",
    recorded: null,
    modelsDir: emptyDir,
    embeddingModel: null,
    baseUrl: null,
    apiKey: null,
    workerUrl: WORKER,
    log: () => {},
    ...given,
  };
}

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, at) => sum + value * (b[at] as number), 0);
}

function row(embedder: Embedder, rows: Float32Array, at: number): Float32Array {
  return rows.subarray(at * embedder.dim, (at + 1) * embedder.dim);
}

async function refusal(promise: Promise<unknown>): Promise<GatewayError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof GatewayError)) throw new Error(`expected a refusal, got ${String(error)}`);
  return error;
}

describe("the hashing embedder in its worker", () => {
  test("gives what the pure function gives, zeros where there is nothing", async () => {
    await using embedder = openHashing(WORKER);
    const texts = ["Olá, mundo", "", "?!", "second 👍"];
    const rows = await embedder.embed(texts);
    const expected = new Float32Array(texts.length * embedder.dim);
    texts.forEach((text, at) => {
      hashingEmbed(text, expected, at * embedder.dim);
    });
    expect(rows).toEqual(expected);
    expect({ ...described(embedder), recomputed: embedder.recomputed }).toEqual({
      kind: "hashing",
      name: HASHING_NAME,
      dim: 1024,
      modelId: modelId(HASHING_NAME),
      recomputed: true,
    });
  });

  test("answers many calls at once, each with its own rows", async () => {
    await using embedder = openHashing(WORKER);
    const texts = Array.from({ length: 200 }, (_, at) => `message number ${at}`);
    const together = await embedder.embed(texts);
    const apart = await Promise.all(texts.map((text) => embedder.embed([text])));
    apart.forEach((vector, at) => {
      expect(vector).toEqual(row(embedder, together, at));
    });
  });

  test.skipIf(process.platform !== "linux")(
    "runs at a lower priority than the rest of the process",
    async () => {
      await using embedder = openHashing(WORKER);
      await embedder.embed(["a"]);
      // The fields of stat behind the name in brackets; nice is the 19th of all.
      const nices = readdirSync("/proc/self/task").map((task) =>
        Number(readFileSync(`/proc/self/task/${task}/stat`, "utf8").split(") ")[1]?.split(" ")[16]),
      );
      expect(nices).toContain(10);
      expect(Math.min(...nices)).toBeLessThan(10);
    },
  );

  test("gives no rows for no texts", async () => {
    await using embedder = openHashing(WORKER);
    expect((await embedder.embed([])).length).toBe(0);
  });
});

function described(embedder: Embedder) {
  const { kind, name, dim } = embedder;
  return { kind, name, dim, modelId: embedder.modelId };
}

describe("a local model", () => {
  test("gives the vectors of Python's onnxruntime and tokenizers, alone and in padded batches", async () => {
    const reference: { texts: string[]; batches: number[][] } = await Bun.file(
      join(FIXTURE, "reference.json"),
    ).json();
    const vectors = new Float32Array(await Bun.file(join(FIXTURE, "reference.f32")).arrayBuffer());
    let at = 0;
    for (const batch of reference.batches) {
      // Opened anew for each: int8 rounds by the batch, and a text that came before would not be embedded again.
      await using embedder = await openModel(FIXTURE, WORKER);
      const rows = await embedder.embed(batch.map((index) => reference.texts[index] as string));
      batch.forEach((index, position) => {
        const cosine = dot(row(embedder, rows, position), vectors.subarray(1024 * at, 1024 * (at + 1)));
        const text = (reference.texts[index] as string).slice(0, 40);
        // More than four of very different lengths are not padded to one, as Python's are, and int8 rounds otherwise.
        const least = batch.length > 4 ? 0.999 : 0.9999;
        expect({ batch, text, near: cosine >= least ? `≥ ${least}` : cosine }).toEqual({
          batch,
          text,
          near: `≥ ${least}`,
        });
        at += 1;
      });
    }
    expect(at * 1024).toBe(vectors.length);
  });

  test("is named with its precision and pooling", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const expected = { kind: "local", name: LOCAL_NAME, dim: 1024, modelId: modelId(LOCAL_NAME) } as const;
    expect(described(embedder)).toEqual(expected);
    expect(embedder.recomputed).toBe(false);
  });

  test("gives rows of length 1, zeros for white space, and keeps the order of the texts", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const texts = ["a rather long text that stands before shorter ones", "", "x", " \n ", "meu cartão"];
    const rows = await embedder.embed(texts);
    expect(
      texts.map((_, at) => Math.round(1e5 * dot(row(embedder, rows, at), row(embedder, rows, at))) / 1e5),
    ).toEqual([1, 0, 1, 0, 1]);
    for (const at of [0, 2, 4]) {
      const alone = await embedder.embed([texts[at] as string]);
      expect(dot(alone, row(embedder, rows, at))).toBeGreaterThan(0.99);
    }
  });

  test("cuts a text where its manifest says and keeps the closing token, which its name then tells", async () => {
    const short = join(folder, "short");
    cpSync(FIXTURE, short, { recursive: true });
    const manifest = {
      name: "short",
      pooling: "cls",
      precision: "int8",
      dim: 1024,
      max_tokens: 8,
      prefix: "",
      source: "",
      files: [],
    };
    writeFileSync(join(short, "gateway-model.json"), JSON.stringify(manifest));
    await using embedder = await openModel(short, WORKER);
    expect(embedder.name).toBe("short@int8+cls+8t");
    // Six pieces, and the two special ones: ▁M y ▁card ▁ ha s.
    const whole = await embedder.embed(["My card has"]);
    expect(await embedder.embed(["My card has not arrived yet"])).toEqual(whole);
    expect(await embedder.embed(["My card"])).not.toEqual(whole);
  });

  test("puts the manifest's prefix before every text, and its name tells", async () => {
    const prefixed = join(folder, "prefixed");
    cpSync(FIXTURE, prefixed, { recursive: true });
    const manifest = {
      name: "e5",
      pooling: "mean",
      precision: "int8",
      dim: 1024,
      max_tokens: 128,
      prefix: "query: ",
      source: "",
      files: [],
    };
    writeFileSync(join(prefixed, "gateway-model.json"), JSON.stringify(manifest));
    await using embedder = await openModel(prefixed, WORKER);
    writeFileSync(join(prefixed, "gateway-model.json"), JSON.stringify({ ...manifest, prefix: "" }));
    await using plain = await openModel(prefixed, WORKER);
    expect([embedder.name, plain.name]).toEqual(["e5@int8+mean+query:", "e5@int8+mean"]);
    expect(await embedder.embed(["My card"])).toEqual(await plain.embed(["query: My card"]));
  });

  test("leaves the process free to end, with its runtime loaded", async () => {
    const code = `
      const { openModel } = await import(${JSON.stringify(join(import.meta.dir, "../../src/embed/embed.ts"))});
      const embedder = await openModel(${JSON.stringify(FIXTURE)}, ${JSON.stringify(WORKER.href)});
      console.log((await embedder.embed(["a"])).length);`;
    const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", stderr: "pipe" });
    const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect([output, errors, await child.exited]).toEqual(["1024\n", "", 0]);
  });

  test("takes a batch that needs several runs, and texts longer than it can read", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const long = "Quero aumentar o limite do cartão. ".repeat(240);
    const texts = Array.from({ length: 40 }, (_, at) => (at % 2 === 0 ? long : `texto ${at}`));
    const rows = await embedder.embed(texts);
    expect(rows.length).toBe(40 * 1024);
    expect(dot(row(embedder, rows, 0), row(embedder, rows, 38))).toBeGreaterThan(0.99);
  });

  test("two can be open at once, and one is gone after its end", async () => {
    await using first = await openModel(FIXTURE, WORKER);
    const second = await openModel(FIXTURE, WORKER);
    await second[Symbol.asyncDispose]();
    expect((await first.embed(["a"])).length).toBe(1024);
  });

  test("that is broken is refused by name", async () => {
    const broken = join(folder, "broken");
    cpSync(FIXTURE, broken, { recursive: true });
    writeFileSync(join(broken, "onnx", "model_quantized.onnx"), "this is no graph");
    const error = await refusal(openModel(broken, WORKER));
    expect(error.code).toBe("model_invalid");
    expect(error.message).toContain(broken);
    rmSync(join(broken, "tokenizer.json"));
    expect((await refusal(openModel(broken, WORKER))).code).toBe("model_missing");
  });
});

// --- an endpoint with faults ------------------------------------------------------------------

interface Asked {
  readonly model: string;
  readonly input: string[];
  readonly encoding_format: string;
}

type Answer = (asked: Asked, request: Request) => unknown;

class Endpoint implements Disposable {
  readonly asked: Asked[] = [];
  models: string[] | Response = [];
  answer: Answer = (asked) => vectors(asked.input.map((_, at) => [at + 1, 0, 1]));
  readonly #server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    fetch: (request) => this.#serve(request),
  });

  get baseUrl(): string {
    return `http://127.0.0.1:${this.#server.port}/v1`;
  }

  async #serve(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname === "/v1/models") {
      if (this.models instanceof Response) return this.models.clone() as Response;
      return Response.json({ object: "list", data: this.models.map((id) => ({ id, object: "model" })) });
    }
    if (pathname !== "/v1/embeddings") return new Response("no", { status: 404 });
    const asked = (await request.json()) as Asked;
    this.asked.push(asked);
    const answer = await this.answer(asked, request);
    return answer instanceof Response ? answer : Response.json(answer);
  }

  [Symbol.dispose](): void {
    this.#server.stop(true);
  }
}

function vectors(rows: unknown[]): { data: { index: number; embedding: unknown }[] } {
  return { data: rows.map((embedding, index) => ({ index, embedding })) };
}

const RECORDED: RecordedEmbedder = { kind: "remote", name: "bge-m3", dim: 3 };

async function remote(endpoint: Endpoint, given: Partial<ChooseOptions> = {}): Promise<Embedder> {
  const chosen = await chooseEmbedder(options({ recorded: RECORDED, baseUrl: endpoint.baseUrl, ...given }));
  return chosen.embedder;
}

describe("an embedder at an endpoint", () => {
  test("asks for floats, at most 64 texts at a time, and gives rows of length 1 in the order of the texts", async () => {
    using endpoint = new Endpoint();
    await using embedder = await remote(endpoint);
    endpoint.answer = ({ input }) => vectors(input.map((text) => [Number(text.slice(1)), 0, 4]));
    const rows = await embedder.embed(Array.from({ length: 150 }, (_, at) => `t${at}`));
    expect(endpoint.asked.map((asked) => [asked.model, asked.encoding_format, asked.input.length])).toEqual([
      ["bge-m3", "float", 64],
      ["bge-m3", "float", 64],
      ["bge-m3", "float", 22],
    ]);
    expect([...row(embedder, rows, 3)]).toEqual([Math.fround(0.6), 0, Math.fround(0.8)]);
    expect(row(embedder, rows, 149)[0]).toBeCloseTo(149 / Math.hypot(149, 4), 6);
  });

  test("puts vectors that come in another order where their index says", async () => {
    using endpoint = new Endpoint();
    await using embedder = await remote(endpoint);
    endpoint.answer = () => ({
      data: [
        { index: 1, embedding: [0, 1, 0] },
        { index: 0, embedding: [1, 0, 0] },
      ],
    });
    expect([...(await embedder.embed(["a", "b"]))]).toEqual([1, 0, 0, 0, 1, 0]);
  });

  test("does not send empty texts and gives zeros for them", async () => {
    using endpoint = new Endpoint();
    await using embedder = await remote(endpoint);
    endpoint.answer = ({ input }) => vectors(input.map(() => [0, 1, 0]));
    expect([...(await embedder.embed(["", "b", "  "]))]).toEqual([0, 0, 0, 0, 1, 0, 0, 0, 0]);
    expect(endpoint.asked.map((asked) => asked.input)).toEqual([["b"]]);
  });

  const invalid: Record<string, Answer> = {
    "a vector too few": () => vectors([[1, 2, 3]]),
    "a vector too many": () =>
      vectors([
        [1, 2, 3],
        [1, 2, 3],
        [1, 2, 3],
      ]),
    "an index twice": () => ({
      data: [
        { index: 0, embedding: [1, 2, 3] },
        { index: 0, embedding: [1, 2, 3] },
      ],
    }),
    "an index out of range": () => ({
      data: [
        { index: 0, embedding: [1, 2, 3] },
        { index: 2, embedding: [1, 2, 3] },
      ],
    }),
    NaN: () =>
      new Response('{"data":[{"embedding":[1,NaN,3]},{"embedding":[1,2,3]}]}', {
        headers: { "content-type": "application/json" },
      }),
    "an infinite number": () =>
      new Response('{"data":[{"embedding":[1,1e999,3]},{"embedding":[1,2,3]}]}', {
        headers: { "content-type": "application/json" },
      }),
    "null in a vector": () =>
      vectors([
        [1, null, 3],
        [1, 2, 3],
      ]),
    "null for a vector": () => vectors([null, [1, 2, 3]]),
    base64: () => vectors([Buffer.from(new Float32Array([1, 2, 3]).buffer).toString("base64"), [1, 2, 3]]),
    zeros: () =>
      vectors([
        [0, 0, 0],
        [1, 2, 3],
      ]),
    "two dimensions in one answer": () =>
      vectors([
        [1, 2, 3],
        [1, 2],
      ]),
    "another dimension than before": () =>
      vectors([
        [1, 2],
        [1, 2],
      ]),
    "no dimension at all": () => vectors([[], []]),
    "an HTML page": () => new Response("<html>Welcome</html>", { headers: { "content-type": "text/html" } }),
    "HTML that claims to be JSON": () =>
      new Response("<html>", { headers: { "content-type": "application/json" } }),
    "an empty body": () => new Response("", { headers: { "content-type": "application/json" } }),
    "an error as a success": () => ({ error: { message: "no such model" } }),
    "400": () => Response.json({ error: { message: "input too long" } }, { status: 400 }),
  };
  for (const [fault, answer] of Object.entries(invalid)) {
    test(`refuses ${fault} as embedder_invalid`, async () => {
      using endpoint = new Endpoint();
      await using embedder = await remote(endpoint);
      endpoint.answer = answer;
      const error = await refusal(embedder.embed(["a", "b"]));
      expect(error.code).toBe("embedder_invalid");
      expect(error.message).toContain("bge-m3 at http://127.0.0.1");
      // One question, no retry: the pipeline decides about that.
      expect(endpoint.asked.length).toBe(1);
    });
  }

  const unavailable: Record<string, Answer> = {
    "500": () => new Response("oops", { status: 500 }),
    "503": () => new Response("loading", { status: 503 }),
    "401": () => Response.json({ error: { message: "bad key" } }, { status: 401 }),
    "404": () => Response.json({ error: { message: "model not loaded" } }, { status: 404 }),
    "an answer that does not come": () => new Promise<Response>(() => {}),
    "an answer that stops half way": () =>
      new Response(
        new ReadableStream({
          start: (controller) => controller.enqueue(new TextEncoder().encode('{"data":[')),
        }),
        { headers: { "content-type": "application/json" } },
      ),
  };
  for (const [fault, answer] of Object.entries(unavailable)) {
    test(`says embedder_unavailable for ${fault}, and works again afterwards`, async () => {
      using endpoint = new Endpoint();
      await using embedder = await remote(endpoint, { timeoutMs: 200 });
      const works = endpoint.answer;
      endpoint.answer = answer;
      expect((await refusal(embedder.embed(["a", "b"]))).code).toBe("embedder_unavailable");
      endpoint.answer = works;
      expect((await embedder.embed(["a", "b"])).length).toBe(6);
    });
  }

  test("keeps what Retry-After says", async () => {
    using endpoint = new Endpoint();
    await using embedder = await remote(endpoint);
    endpoint.answer = () => new Response("slow down", { status: 429, headers: { "retry-after": "7" } });
    const error = await refusal(embedder.embed(["a"]));
    expect([error.code, error.retryAfterMs]).toEqual(["embedder_unavailable", 7000]);
  });

  test("refuses vectors longer than a frame can carry by name", async () => {
    using endpoint = new Endpoint();
    await using embedder = await remote(endpoint, { recorded: { ...RECORDED, dim: 0 } });
    endpoint.answer = () => vectors([Array.from({ length: 1536 }, () => 1)]);
    const error = await refusal(embedder.embed(["a"]));
    expect(error.code).toBe("embedder_invalid");
    expect(error.detail).toContain("1536");
  });

  test("sends the key only where there is one, and shows no secret in an error", async () => {
    using endpoint = new Endpoint();
    const keys: (string | null)[] = [];
    endpoint.answer = (_, request) => {
      keys.push(request.headers.get("authorization"));
      return new Response("no", { status: 500 });
    };
    const address = endpoint.baseUrl.replace("http://", "http://user:hidden@");
    await using open = await remote(endpoint, { baseUrl: address });
    await using keyed = await remote(endpoint, { apiKey: "sk-hidden" });
    const errors = [await refusal(open.embed(["a"])), await refusal(keyed.embed(["a"]))];
    expect(keys[1]).toBe("Bearer sk-hidden");
    expect(keys[0]?.startsWith("Bearer ") ?? false).toBe(false);
    for (const error of errors) expect(error.message).not.toContain("hidden");
  });

  test("stops waiting when it is disposed of", async () => {
    using endpoint = new Endpoint();
    const embedder = await remote(endpoint);
    const arrived = Promise.withResolvers<void>();
    endpoint.answer = () => {
      arrived.resolve();
      return new Promise<Response>(() => {});
    };
    const waiting = refusal(embedder.embed(["a"]));
    await arrived.promise;
    await embedder[Symbol.asyncDispose]();
    expect((await waiting).code).toBe("embedder_unavailable");
  });
});

// --- the choice -------------------------------------------------------------------------------

describe("auto, for a database that has not decided", () => {
  test("takes a model in --models-dir before anything else", async () => {
    using endpoint = new Endpoint();
    endpoint.models = ["text-embedding-bge-m3@f16"];
    const chosen = await chooseEmbedder(options({ modelsDir, baseUrl: endpoint.baseUrl }));
    await using embedder = chosen.embedder;
    expect(described(embedder).name).toBe(LOCAL_NAME);
    expect([chosen.record, chosen.advice]).toEqual([{ kind: "local", name: LOCAL_NAME, dim: 1024 }, null]);
  });

  test("takes an endpoint's embedding model next and learns its dimension", async () => {
    using endpoint = new Endpoint();
    endpoint.models = ["qwen3-8b", "nomic-embed-text", "text-embedding-bge-m3@f16"];
    const chosen = await chooseEmbedder(options({ baseUrl: endpoint.baseUrl }));
    expect(chosen.record).toEqual({ kind: "remote", name: "text-embedding-bge-m3@f16", dim: 3 });
    endpoint.models = ["qwen3-8b", "nomic-embed-text"];
    expect((await chooseEmbedder(options({ baseUrl: endpoint.baseUrl }))).record.name).toBe(
      "nomic-embed-text",
    );
    const named = options({ baseUrl: endpoint.baseUrl, embeddingModel: "qwen3-8b" });
    expect((await chooseEmbedder(named)).record.name).toBe("qwen3-8b");
  });

  test("takes hashing where there is neither, and says that it is lexical", async () => {
    using endpoint = new Endpoint();
    for (const models of [["qwen3-8b"], new Response("<html>"), new Response("no", { status: 500 })]) {
      endpoint.models = models;
      const chosen = await chooseEmbedder(options({ baseUrl: endpoint.baseUrl }));
      expect(chosen.record).toEqual({ kind: "hashing", name: HASHING_NAME, dim: 1024 });
      expect(chosen.advice).toContain("lexical");
    }
    for (const baseUrl of [null, "off", "http://127.0.0.1:1/v1", "not an address"]) {
      expect((await chooseEmbedder(options({ baseUrl }))).record.kind).toBe("hashing");
    }
  });

  test("waits for an endpoint no longer than it may", async () => {
    using silent = Bun.serve({ port: 0, idleTimeout: 0, fetch: () => new Promise<Response>(() => {}) });
    const startedMs = performance.now();
    const chosen = await chooseEmbedder(
      options({ baseUrl: `http://127.0.0.1:${silent.port}/v1`, probeTimeoutMs: 100 }),
    );
    expect(chosen.record.kind).toBe("hashing");
    expect(performance.now() - startedMs).toBeLessThan(1000);
    silent.stop(true);
  });

  test("does not take an endpoint whose vectors no frame can carry", async () => {
    using endpoint = new Endpoint();
    endpoint.models = ["text-embedding-3-large"];
    endpoint.answer = () => vectors([Array.from({ length: 3072 }, () => 1)]);
    const chosen = await chooseEmbedder(options({ baseUrl: endpoint.baseUrl }));
    expect(chosen.record.kind).toBe("hashing");
    expect(chosen.advice).toContain("3072");
  });
});

describe("auto, for a database that has decided", () => {
  test("keeps an endpoint that is away, never hashing, and works when it comes back", async () => {
    using endpoint = new Endpoint();
    let away = true;
    const gate = (async (...given: Parameters<typeof fetch>) => {
      if (away) throw new TypeError("connection refused");
      return fetch(...given);
    }) as typeof fetch;
    const chosen = await chooseEmbedder(
      options({ recorded: RECORDED, baseUrl: endpoint.baseUrl, fetch: gate }),
    );
    await using embedder = chosen.embedder;
    expect(chosen.record).toEqual(RECORDED);
    expect((await refusal(embedder.embed(["a"]))).code).toBe("embedder_unavailable");
    away = false;
    expect((await embedder.embed(["a"])).length).toBe(3);
  });

  test("keeps an endpoint even where the address was taken away or a local model has come", async () => {
    const chosen = await chooseEmbedder(options({ recorded: RECORDED, modelsDir }));
    expect(chosen.record).toEqual(RECORDED);
    expect((await refusal(chosen.embedder.embed(["a"]))).code).toBe("embedder_unavailable");
  });

  test("keeps a local model whose folder is gone, and works when it is back", async () => {
    const dir = join(folder, "moved");
    cpSync(FIXTURE, join(dir, "tiny-xlmr"), { recursive: true });
    renameSync(join(dir, "tiny-xlmr"), join(dir, ".away"));
    const recorded = { kind: "local", name: LOCAL_NAME, dim: 1024 } as const;
    const warned: string[] = [];
    const chosen = await chooseEmbedder(
      options({
        recorded,
        modelsDir: dir,
        log: (level, message) => level === "warn" && warned.push(message),
      }),
    );
    await using embedder = chosen.embedder;
    expect([chosen.record, warned.length]).toEqual([recorded, 1]);
    expect((await refusal(embedder.embed(["a"]))).code).toBe("embedder_unavailable");
    renameSync(join(dir, ".away"), join(dir, "tiny-xlmr"));
    expect((await embedder.embed(["a"])).length).toBe(1024);
  });

  test("keeps hashing, and points out a real one where there is one", async () => {
    const recorded = { kind: "hashing", name: HASHING_NAME, dim: 1024 } as const;
    using endpoint = new Endpoint();
    endpoint.models = ["bge-m3"];
    const local = await chooseEmbedder(options({ recorded, modelsDir, baseUrl: endpoint.baseUrl }));
    expect([local.record, local.advice?.includes("--embedder local")]).toEqual([recorded, true]);
    const near = await chooseEmbedder(options({ recorded, baseUrl: endpoint.baseUrl }));
    expect([near.record, near.advice?.includes("--embedder remote")]).toEqual([recorded, true]);
    expect((await chooseEmbedder(options({ recorded }))).advice).toBeNull();
  });
});

describe("an explicit --embedder", () => {
  test("switches whatever was recorded, and says so", async () => {
    const recorded = { kind: "hashing", name: HASHING_NAME, dim: 1024 } as const;
    const chosen = await chooseEmbedder(options({ choice: "local", recorded, modelsDir }));
    expect(chosen.record.name).toBe(LOCAL_NAME);
    expect(chosen.advice).toContain(HASHING_NAME);
    const off = await chooseEmbedder(options({ choice: "off", recorded: RECORDED }));
    expect([off.record, off.embedder.modelId]).toEqual([{ kind: "off", name: "off", dim: 0 }, 0]);
    expect((await off.embedder.embed(["a"])).length).toBe(0);
    expect((await chooseEmbedder(options({ choice: "hashing", recorded: RECORDED }))).record.kind).toBe(
      "hashing",
    );
  });

  test("local without a model, or with another name, is refused by name", async () => {
    const error = await refusal(chooseEmbedder(options({ choice: "local" })));
    expect([error.code, error.message.includes(emptyDir)]).toEqual(["model_missing", true]);
    const named = await refusal(
      chooseEmbedder(options({ choice: "local", modelsDir, embeddingModel: "bge-m3" })),
    );
    expect([named.code, named.message.includes("bge-m3")]).toEqual(["model_missing", true]);
  });

  test("remote without an endpoint is a usage error; with one that is away it waits", async () => {
    expect((await refusal(chooseEmbedder(options({ choice: "remote" })))).code).toBe("usage");
    const away = await chooseEmbedder(options({ choice: "remote", baseUrl: "http://127.0.0.1:1/v1" }));
    expect(away.record).toEqual({ kind: "remote", name: "text-embedding-bge-m3@f16", dim: 0 });
    expect((await refusal(away.embedder.embed(["a"]))).code).toBe("embedder_unavailable");
  });

  test("remote with vectors that no frame can carry says so, and every call is refused by name", async () => {
    using endpoint = new Endpoint();
    endpoint.answer = () => vectors([Array.from({ length: 2048 }, () => 1)]);
    const said: string[] = [];
    const log = (level: string, message: string): number => said.push(`${level} ${message}`);
    const { embedder } = await chooseEmbedder(options({ choice: "remote", baseUrl: endpoint.baseUrl, log }));
    expect(said.join("\n")).toMatch(/^error .*2048/);
    expect((await refusal(embedder.embed(["a"]))).code).toBe("embedder_invalid");
  });
});

describe("texts that were embedded a moment ago", () => {
  const vectorOf = (text: string): number[] => [text.length, text.charCodeAt(0)];
  const counting = () => {
    const asked: string[] = [];
    const embed = async (texts: readonly string[]) => {
      asked.push(...texts);
      return new Float32Array(texts.flatMap(vectorOf));
    };
    return { asked, embed };
  };
  const dim = () => 2;

  test("are not embedded again, and every row stands where its text does", async () => {
    const recent = new RecentVectors();
    const { asked, embed } = counting();
    for (const texts of [["a", "bb"], ["bb", "ccc", "ccc", "a"], [], ["ccc"]]) {
      const rows = await recent.fill(texts, dim, embed);
      expect([...rows]).toEqual(texts.flatMap(vectorOf));
    }
    expect(asked).toEqual(["a", "bb", "ccc"]);
    expect(recent.hits).toBe(3);
  });

  test("are bounded in number and length, and the least recently used go first", async () => {
    const recent = new RecentVectors();
    const { asked, embed } = counting();
    const texts = Array.from({ length: 4096 }, (_, at) => `text ${at}`);
    await recent.fill(texts, dim, embed);
    await recent.fill(["text 0", "one more", "x".repeat(513)], dim, embed);
    expect(recent.size).toBe(4096);
    asked.length = 0;
    await recent.fill(["text 0", "one more", "text 1", "x".repeat(513)], dim, embed);
    expect(asked).toEqual(["text 1", "x".repeat(513)]);
  });

  test("are not kept where embedding failed", async () => {
    const recent = new RecentVectors();
    const failing = recent.fill(["a"], dim, () => Promise.reject(new Error("away")));
    expect(await failing.catch((error: Error) => error.message)).toBe("away");
    expect(recent.size).toBe(0);
  });

  test("a local model gives the same vector again", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const first = await embedder.embed(["Quero cancelar meu plano"]);
    const again = await embedder.embed(["oi", "Quero cancelar meu plano", "bom dia a todos"]);
    // To the last bit: int8 would round it by its batch.
    expect(row(embedder, again, 1)).toEqual(first);
  });
});

describe("the nearest examples", () => {
  const labels = ["cancelar meu plano", "meu cartão não chegou"];
  const set = async (embedder: Embedder) => {
    const rows = (await embedder.embed(labels)).slice() as Float32Array<ArrayBuffer>;
    const { dim } = embedder;
    return embedder.setExamples({ dim, labels: labels.map((label) => ({ label, count: 1 })), rows });
  };
  const ask = async (embedder: Embedder) => {
    const texts = ["cancelar meu plano", "meu cartão não chegou", "cancelar meu plano", "…"];
    const { rows, nearest } = await embedder.embedNearest(texts, [true, true, false, true]);
    expect(rows.length).toBe(texts.length * embedder.dim);
    return nearest.map((one) => one?.label ?? null);
  };

  test("come with the vectors, for the texts that want them, of hashing", async () => {
    await using embedder = openHashing(WORKER);
    expect(await ask(embedder)).toEqual([null, null, null, null]);
    expect((await set(embedder))?.threshold).toBeGreaterThanOrEqual(0.95);
    expect(await ask(embedder)).toEqual([...labels, null, null]);
    expect(await embedder.setExamples({ dim: 1024, labels: [], rows: new Float32Array(0) })).toBeNull();
    expect(await ask(embedder)).toEqual([null, null, null, null]);
  });

  test("come with the vectors of a local model, and are its own", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    await using other = await openModel(FIXTURE, WORKER);
    await set(embedder);
    expect((await ask(embedder)).slice(0, 3)).toEqual([...labels, null]);
    expect(await ask(other)).toEqual([null, null, null, null]);
  });

  test("of an endpoint's vectors are found in the Worker", async () => {
    using server = Bun.serve({
      port: 0,
      async fetch(request) {
        const { input } = (await request.json()) as { input: string[] };
        const data = input.map((text, index) => {
          const embedding = [text.includes("plano") ? 1 : 0, text.includes("cartão") ? 1 : 0, 0.1];
          return { index, embedding };
        });
        return Response.json({ data });
      },
    });
    const { embedder } = await chooseEmbedder(
      options({ choice: "remote", embeddingModel: "m", baseUrl: `http://127.0.0.1:${server.port}/v1` }),
    );
    await using remote = embedder;
    await set(remote);
    expect((await ask(remote)).slice(0, 3)).toEqual([...labels, null]);
  });

  test("examples that were set last count, however long those before take to learn", async () => {
    await using embedder = openHashing(WORKER);
    const many = Array.from({ length: 3000 }, (_, at) => `a text number ${at}`);
    const slow = (await embedder.embed(many)).slice() as Float32Array<ArrayBuffer>;
    const learning = embedder.setExamples({
      dim: 1024,
      labels: [{ label: "slow", count: 3000 }],
      rows: slow,
    });
    await set(embedder);
    expect(await learning).toBeNull();
    expect((await ask(embedder)).slice(0, 2)).toEqual(labels);
  });
});
