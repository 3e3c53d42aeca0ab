import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ChooseOptions, chooseEmbedder, type RecordedEmbedder } from "../../src/embed/embed.ts";
import { HASHING_NAME } from "../../src/embed/hashing.ts";
import type { EndpointOptions } from "../../src/llm/endpoint.ts";
import { openEndpoint } from "../../src/llm/llm.ts";
import { FakeClock } from "../fake-clock.ts";
import { described, FIXTURE, LOCAL_NAME, PATIENCE_MS, refusal, until, WORKER } from "./embedders.ts";
import { EmbeddingsEndpoint, vectors } from "./embeddings-endpoint.ts";

setDefaultTimeout(PATIENCE_MS);

const RECORDED: RecordedEmbedder = { kind: "remote", name: "bge-m3", dim: 3 };
const folder = mkdtempSync(join(tmpdir(), "gateway-embed-"));
const modelsDir = join(folder, "models");
const emptyDir = join(folder, "none");

beforeAll(() => cpSync(FIXTURE, join(modelsDir, "tiny-xlmr"), { recursive: true }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function at(baseUrl: string, given: Partial<EndpointOptions> = {}) {
  return openEndpoint({ baseUrl, apiKey: null, clock: new FakeClock(), ...given });
}

function options(given: Partial<ChooseOptions>): ChooseOptions {
  return {
    choice: "auto",
    recorded: null,
    modelsDir: emptyDir,
    embeddingModel: null,
    endpoint: null,
    workerUrl: WORKER,
    log: () => {},
    ...given,
  };
}

describe("auto, for a database without a record", () => {
  test("prefers a model in --models-dir", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["text-embedding-bge-m3@f16"];
    const chosen = await chooseEmbedder(options({ modelsDir, endpoint: at(endpoint.baseUrl) }));
    await using embedder = chosen.embedder;
    expect(described(embedder).name).toBe(LOCAL_NAME);
    expect([chosen.record, chosen.advice]).toEqual([{ kind: "local", name: LOCAL_NAME, dim: 1024 }, null]);
  });

  test("takes an endpoint's embedding model next, and learns its dimension", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["qwen3-8b", "nomic-embed-text", "text-embedding-bge-m3@f16"];
    const chosen = await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }));
    expect(chosen.record).toEqual({ kind: "remote", name: "text-embedding-bge-m3@f16", dim: 3 });
    endpoint.models = ["qwen3-8b", "nomic-embed-text"];
    expect((await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }))).record?.name).toBe(
      "nomic-embed-text",
    );
    const named = options({ endpoint: at(endpoint.baseUrl), embeddingModel: "qwen3-8b" });
    expect((await chooseEmbedder(named)).record?.name).toBe("qwen3-8b");
  });

  test("takes only the model of an endpoint that the user named", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["nomic-embed-text", "text-embedding-bge-m3@f16"];
    const named = options({ endpoint: at(endpoint.baseUrl), embeddingModel: "mine" });
    expect((await chooseEmbedder(named)).record?.kind).toBe("hashing");
  });

  test("takes hashing if there is neither, and says that it is lexical", async () => {
    using endpoint = new EmbeddingsEndpoint();
    for (const models of [["qwen3-8b"], new Response("<html>"), new Response("no", { status: 404 })]) {
      endpoint.models = models;
      const chosen = await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }));
      expect(chosen.record).toEqual({ kind: "hashing", name: HASHING_NAME, dim: 1024 });
      expect(chosen.advice).toContain("lexical");
    }
    for (const none of [null, at("http://127.0.0.1:1/v1"), at("not an address")]) {
      expect((await chooseEmbedder(options({ endpoint: none }))).record?.kind).toBe("hashing");
    }
  });

  test("waits a second at most for an endpoint's list of models", async () => {
    const arrived = Promise.withResolvers<void>();
    using silent = Bun.serve({
      port: 0,
      idleTimeout: 0,
      fetch: () => {
        arrived.resolve();
        return new Promise<Response>(() => {});
      },
    });
    const clock = new FakeClock();
    const choosing = chooseEmbedder(
      options({ endpoint: at(`http://127.0.0.1:${silent.port}/v1`, { clock }) }),
    );
    await arrived.promise;
    await clock.advance(1000);
    const { embedder, record } = await choosing;
    expect([embedder.kind, record]).toEqual(["hashing", null]);
    silent.stop(true);
  });

  test("does not take an endpoint whose vectors are too long for a frame", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["text-embedding-3-large"];
    endpoint.answer = () => vectors([Array.from({ length: 3072 }, () => 1)]);
    const chosen = await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }));
    expect(chosen.record?.kind).toBe("hashing");
    expect(chosen.advice).toContain("3072");
  });
});

describe("auto, for a database without a record, by what the endpoint does", () => {
  const cannot = () => Response.json({ error: { message: "no embeddings here" } }, { status: 501 });

  test("a model whose name deceives is not taken, and the next one that works is", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["bge-chat-7b", "nomic-embed-text"];
    const works = endpoint.answer;
    endpoint.answer = (asked, request) => (asked.model === "bge-chat-7b" ? cannot() : works(asked, request));
    const { record } = await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }));
    expect(record).toEqual({ kind: "remote", name: "nomic-embed-text", dim: 3 });
    endpoint.models = ["bge-chat-7b"];
    const none = await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }));
    expect([none.record?.kind, none.advice]).toEqual([
      "hashing",
      expect.stringContaining("no embeddings here"),
    ]);
  });

  const loading: readonly (readonly [string, () => Response])[] = [
    ["503", () => Response.json({ error: { message: "Loading model" } }, { status: 503 })],
    ["a 200 that says so", () => Response.json({ status: "loading model" })],
  ];
  for (const [how, answer] of loading) {
    test(`an endpoint that is loading (${how}) is waited for`, async () => {
      using endpoint = new EmbeddingsEndpoint();
      endpoint.models = answer();
      const clock = new FakeClock();
      const said: string[] = [];
      const log = (_: string, line: string): number => said.push(line);
      const choosing = chooseEmbedder(options({ endpoint: at(endpoint.baseUrl), clock, log }));
      await until(() => clock.pending > 0);
      expect(said.join()).toMatch(/loading model.*waiting up to 30 s/i);
      endpoint.models = ["bge-m3"];
      await clock.advance(1000);
      expect((await choosing).record).toEqual({ kind: "remote", name: "bge-m3", dim: 3 });
    });
  }

  test("an endpoint that loads for longer decides nothing: hashing serves until the next start", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = new Response("loading", { status: 503 });
    const clock = new FakeClock();
    const choosing = chooseEmbedder(options({ endpoint: at(endpoint.baseUrl), clock }));
    let chosen: Awaited<typeof choosing> | null = null;
    void choosing.then((made) => {
      chosen = made;
    });
    await until(() => {
      void clock.advance(250);
      return chosen !== null;
    });
    const { embedder, record, advice } = await choosing;
    expect([embedder.kind, record]).toEqual(["hashing", null]);
    expect(advice).toMatch(/503 loading; the next start looks again/);
    expect(clock.monotonicMs()).toBeGreaterThanOrEqual(30_000);
  });

  test("an endpoint that the user named is waited for while nothing listens, and the default one is not", async () => {
    const clock = new FakeClock();
    let away = true;
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["bge-m3"];
    const gate = (async (...given: Parameters<typeof fetch>) => {
      if (away) throw new TypeError("connection refused");
      return fetch(...given);
    }) as typeof fetch;
    const around = options({ endpoint: at(endpoint.baseUrl, { fetch: gate }), clock });
    expect((await chooseEmbedder(around)).record?.kind).toBe("hashing");
    const choosing = chooseEmbedder({ ...around, expected: true });
    await until(() => clock.pending > 0);
    away = false;
    await clock.advance(1000);
    expect((await choosing).record?.kind).toBe("remote");
  });

  test("an endpoint that fails otherwise decides nothing", async () => {
    using endpoint = new EmbeddingsEndpoint();
    for (const status of [500, 401, 429]) {
      endpoint.models = new Response("no", { status });
      const { embedder, record } = await chooseEmbedder(options({ endpoint: at(endpoint.baseUrl) }));
      expect([status, embedder.kind, record]).toEqual([status, "hashing", null]);
    }
  });
});

describe("auto, for a database with a record", () => {
  test("keeps an endpoint that is away, and works when it comes back", async () => {
    using endpoint = new EmbeddingsEndpoint();
    let away = true;
    const gate = (async (...given: Parameters<typeof fetch>) => {
      if (away) throw new TypeError("connection refused");
      return fetch(...given);
    }) as typeof fetch;
    const chosen = await chooseEmbedder(
      options({ recorded: RECORDED, endpoint: at(endpoint.baseUrl, { fetch: gate }) }),
    );
    await using embedder = chosen.embedder;
    expect(chosen.record).toEqual(RECORDED);
    expect((await refusal(embedder.embed(["a"]))).code).toBe("embedder_unavailable");
    away = false;
    expect((await embedder.embed(["a"])).length).toBe(3);
  });

  test("keeps an endpoint even if its address is gone or a local model was installed", async () => {
    const chosen = await chooseEmbedder(options({ recorded: RECORDED, modelsDir }));
    expect(chosen.record).toEqual(RECORDED);
    expect((await refusal(chosen.embedder.embed(["a"]))).code).toBe("embedder_unavailable");
  });

  test("keeps a local model whose folder is missing, and works when it is back", async () => {
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

  test("keeps hashing, and points out a semantic embedder if there is one", async () => {
    const recorded = { kind: "hashing", name: HASHING_NAME, dim: 1024 } as const;
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = ["bge-m3"];
    const local = await chooseEmbedder(options({ recorded, modelsDir, endpoint: at(endpoint.baseUrl) }));
    expect([local.record, local.advice?.includes("--embedder local")]).toEqual([recorded, true]);
    const near = await chooseEmbedder(options({ recorded, endpoint: at(endpoint.baseUrl) }));
    expect([near.record, near.advice?.includes("--embedder remote")]).toEqual([recorded, true]);
    expect((await chooseEmbedder(options({ recorded }))).advice).toBeNull();
  });
});

describe("an explicit --embedder", () => {
  test("replaces whatever was recorded, and says so", async () => {
    const recorded = { kind: "hashing", name: HASHING_NAME, dim: 1024 } as const;
    const chosen = await chooseEmbedder(options({ choice: "local", recorded, modelsDir }));
    expect(chosen.record?.name).toBe(LOCAL_NAME);
    expect(chosen.advice).toContain(HASHING_NAME);
    const off = await chooseEmbedder(options({ choice: "off", recorded: RECORDED }));
    expect([off.record, off.embedder.modelId]).toEqual([{ kind: "off", name: "off", dim: 0 }, 0]);
    expect((await off.embedder.embed(["a"])).length).toBe(0);
    expect((await chooseEmbedder(options({ choice: "hashing", recorded: RECORDED }))).record?.kind).toBe(
      "hashing",
    );
  });

  test("local is refused if the model is missing, and the error names it", async () => {
    const error = await refusal(chooseEmbedder(options({ choice: "local" })));
    expect([error.code, error.message.includes(emptyDir)]).toEqual(["model_missing", true]);
    const named = await refusal(
      chooseEmbedder(options({ choice: "local", modelsDir, embeddingModel: "bge-m3" })),
    );
    expect([named.code, named.message.includes("bge-m3")]).toEqual(["model_missing", true]);
  });

  test("remote is a usage error without an endpoint, and waits for one that is away", async () => {
    expect((await refusal(chooseEmbedder(options({ choice: "remote" })))).code).toBe("usage");
    const clock = new FakeClock();
    const choosing = chooseEmbedder(
      options({ choice: "remote", endpoint: at("http://127.0.0.1:1/v1"), clock }),
    );
    let waits = true;
    void choosing.finally(() => {
      waits = false;
    });
    await until(() => {
      if (waits) void clock.advance(250);
      return !waits;
    });
    const away = await choosing;
    expect(clock.monotonicMs()).toBeGreaterThanOrEqual(10_000);
    // Nothing is recorded that was not seen to work.
    expect([away.record, away.embedder.name]).toEqual([null, "text-embedding-bge-m3@f16"]);
    expect((await refusal(away.embedder.embed(["a"]))).code).toBe("embedder_unavailable");
  });

  test("remote takes the model of an endpoint that is loading, and asks for a named one at once", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.models = new Response("loading", { status: 503 });
    const clock = new FakeClock();
    const around = options({ choice: "remote", endpoint: at(endpoint.baseUrl), clock });
    const named = await chooseEmbedder({ ...around, embeddingModel: "mine" });
    expect(named.record).toEqual({ kind: "remote", name: "mine", dim: 3 });
    const choosing = chooseEmbedder(around);
    await until(() => clock.pending > 0);
    endpoint.models = ["qwen3-8b", "nomic-embed-text"];
    await clock.advance(1000);
    expect((await choosing).record?.name).toBe("nomic-embed-text");
  });

  test("remote logs vectors that are too long for a frame, and refuses every call", async () => {
    using endpoint = new EmbeddingsEndpoint();
    endpoint.answer = () => vectors([Array.from({ length: 2048 }, () => 1)]);
    const said: string[] = [];
    const log = (level: string, message: string): number => said.push(`${level} ${message}`);
    const { embedder } = await chooseEmbedder(
      options({ choice: "remote", endpoint: at(endpoint.baseUrl), log }),
    );
    expect(said.join("\n")).toMatch(/^error .*2048/);
    expect((await refusal(embedder.embed(["a"]))).code).toBe("embedder_invalid");
  });
});
