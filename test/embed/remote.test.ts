import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { RemoteEmbedder } from "../../src/embed/remote.ts";
import type { EndpointOptions } from "../../src/llm/endpoint.ts";
import type { Endpoint } from "../../src/llm/endpoint-contract.ts";
import { openEndpoint } from "../../src/llm/llm.ts";
import { FakeClock } from "../fake-clock.ts";
import { PATIENCE_MS, refusal, row } from "./embedders.ts";
import { type Answer, EmbeddingsEndpoint, vectors } from "./embeddings-endpoint.ts";

setDefaultTimeout(PATIENCE_MS);

function noWorker(): never {
  throw new Error("no example is set, so no worker is needed");
}

/** Time stands still for the embedder unless the test moves `clock`. */
function remote(
  { baseUrl }: EmbeddingsEndpoint,
  { dim = 3, ...given }: Partial<EndpointOptions> & { dim?: number } = {},
): RemoteEmbedder {
  const endpoint = openEndpoint({ baseUrl, apiKey: null, clock: new FakeClock(), ...given });
  return new RemoteEmbedder({ endpoint, name: "bge-m3", dim, worker: noWorker });
}

describe("an embedder at an endpoint", () => {
  test("sends at most 64 texts per request, asks for floats, and returns rows of length 1 in the order of the texts", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint);
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

  test("puts vectors in the order of their indices", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint);
    endpoint.answer = () => ({
      data: [
        { index: 1, embedding: [0, 1, 0] },
        { index: 0, embedding: [1, 0, 0] },
      ],
    });
    expect([...(await embedder.embed(["a", "b"]))]).toEqual([1, 0, 0, 0, 1, 0]);
  });

  test("sends no empty texts and returns zeros for them", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint);
    endpoint.answer = ({ input }) => vectors(input.map(() => [0, 1, 0]));
    expect([...(await embedder.embed(["", "b", "  "]))]).toEqual([0, 0, 0, 0, 1, 0, 0, 0, 0]);
    expect(endpoint.asked.map((asked) => asked.input)).toEqual([["b"]]);
  });

  const invalid: Record<string, Answer> = {
    "a vector too few": () => vectors([[1, 2, 3]]),
    NaN: () =>
      new Response('{"data":[{"embedding":[1,NaN,3]},{"embedding":[1,2,3]}]}', {
        headers: { "content-type": "application/json" },
      }),
    "an infinite number": () =>
      new Response('{"data":[{"embedding":[1,1e999,3]},{"embedding":[1,2,3]}]}', {
        headers: { "content-type": "application/json" },
      }),
    "an HTML page": () => new Response("<html>Welcome</html>", { headers: { "content-type": "text/html" } }),
    "HTML that claims to be JSON": () =>
      new Response("<html>", { headers: { "content-type": "application/json" } }),
    "an empty body": () => new Response("", { headers: { "content-type": "application/json" } }),
    "an error with a success status": () => ({ error: { message: "no such model" } }),
    "404": () => Response.json({ error: { message: "no such model" } }, { status: 404 }),
    "501": () => Response.json({ error: { message: "no support for embeddings" } }, { status: 501 }),
    "400": () => Response.json({ error: { message: "input too long" } }, { status: 400 }),
  };
  for (const [fault, answer] of Object.entries(invalid)) {
    test(`refuses ${fault} as embedder_invalid`, async () => {
      using endpoint = new EmbeddingsEndpoint();
      await using embedder = remote(endpoint);
      endpoint.answer = answer;
      const error = await refusal(embedder.embed(["a", "b"]));
      expect(error.code).toBe("embedder_invalid");
      expect(error.message).toContain("bge-m3 at http://127.0.0.1");
      // One request: the pipeline decides about retries.
      expect(endpoint.asked.length).toBe(1);
    });
  }

  const unavailable: Record<string, Answer> = {
    "500": () => new Response("oops", { status: 500 }),
    "503": () => new Response("loading", { status: 503 }),
    "401": () => Response.json({ error: { message: "bad key" } }, { status: 401 }),
    "a limit that a success status tells": () => ({ error: { message: "rate limit", code: 429 } }),
    "a reply that does not come": () => new Promise<Response>(() => {}),
    "a reply that stops half way": () =>
      new Response(
        new ReadableStream({
          start: (controller) => controller.enqueue(new TextEncoder().encode('{"data":[')),
        }),
        { headers: { "content-type": "application/json" } },
      ),
  };
  for (const [fault, answer] of Object.entries(unavailable)) {
    test(`says embedder_unavailable for ${fault}, and works again afterwards`, async () => {
      using endpoint = new EmbeddingsEndpoint();
      const clock = new FakeClock();
      await using embedder = remote(endpoint, { clock });
      const works = endpoint.answer;
      const arrived = Promise.withResolvers<void>();
      endpoint.answer = (...given) => {
        arrived.resolve();
        return answer(...given);
      };
      const failing = refusal(embedder.embed(["a", "b"]));
      await arrived.promise;
      if (fault.includes("reply")) await clock.advance(30_000);
      const { code, detail } = await failing;
      expect([code, fault.includes("reply") ? detail : ""]).toEqual([
        "embedder_unavailable",
        fault.includes("reply") ? "no reply within 30 s" : "",
      ]);
      endpoint.answer = works;
      expect((await embedder.embed(["a", "b"])).length).toBe(6);
    });
  }

  test("passes Retry-After on, up to an hour", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint);
    const waits: (number | null)[] = [];
    for (const header of ["7", "86400", "soon"]) {
      endpoint.answer = () => new Response("slow down", { status: 429, headers: { "retry-after": header } });
      const error = await refusal(embedder.embed(["a"]));
      expect(error.code).toBe("embedder_unavailable");
      waits.push(error.retryAfterMs);
    }
    expect(waits).toEqual([7000, 3_600_000, null]);
  });

  test("is unavailable without an endpoint, and names the option", async () => {
    await using embedder = new RemoteEmbedder({ endpoint: null, name: "bge-m3", dim: 3, worker: noWorker });
    const error = await refusal(embedder.embed(["a"]));
    expect([error.code, error.object, error.hint]).toEqual([
      "embedder_unavailable",
      "bge-m3",
      "pass --llm-base-url URL",
    ]);
    expect([...(await embedder.embed([" "]))]).toEqual([0, 0, 0]);
  });

  test("learns the dimension from a probe, which takes no longer than it may", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint, { dim: 0 });
    expect([await embedder.probe(1000), embedder.dim]).toEqual([null, 3]);
    const clock = new FakeClock();
    await using slow = remote(endpoint, { dim: 0, clock });
    const arrived = Promise.withResolvers<void>();
    endpoint.answer = () => {
      arrived.resolve();
      return new Promise<Response>(() => {});
    };
    const probing = slow.probe(1000);
    await arrived.promise;
    await clock.advance(1000);
    expect([await probing, slow.dim]).toEqual([
      expect.objectContaining({ code: "embedder_unavailable", detail: "no reply within 1 s" }),
      0,
    ]);
  });

  test("refuses vectors that are too long for a frame, and tells their length", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint, { dim: 0 });
    endpoint.answer = () => vectors([Array.from({ length: 1536 }, () => 1)]);
    const error = await refusal(embedder.embed(["a"]));
    expect(error.code).toBe("embedder_invalid");
    expect(error.detail).toContain("1536");
  });

  test("sends the key only if there is one, and shows no secret in an error", async () => {
    using endpoint = new EmbeddingsEndpoint();
    const keys: (string | null)[] = [];
    endpoint.answer = (_, request) => {
      keys.push(request.headers.get("authorization"));
      return new Response("no", { status: 500 });
    };
    const address = endpoint.baseUrl.replace("http://", "http://user:hidden@");
    await using open = remote(endpoint, { baseUrl: address });
    await using keyed = remote(endpoint, { apiKey: "sk-hidden" });
    const errors = [await refusal(open.embed(["a"])), await refusal(keyed.embed(["a"]))];
    expect(keys[1]).toBe("Bearer sk-hidden");
    expect(keys[0]?.startsWith("Bearer ") ?? false).toBe(false);
    for (const error of errors) expect(error.message).not.toContain("hidden");
  });

  test("shows no key that the endpoint repeats, in whatever form", async () => {
    using endpoint = new EmbeddingsEndpoint();
    const apiKey = "KEY-zzzz-yyyy-4711";
    await using embedder = remote(endpoint, { apiKey });
    const forms = [apiKey, btoa(`:${apiKey}`), encodeURIComponent(apiKey), apiKey.slice(0, 12)];
    for (const form of forms) {
      for (const answer of [
        () => Response.json({ error: { message: `bad key ${form}` } }, { status: 401 }),
        () => ({ error: `bad key ${form}` }),
        () => new Response(`bad key ${form}`, { status: 502 }),
        () => new Response(`bad key ${form}`),
      ]) {
        endpoint.answer = answer;
        const { message } = await refusal(embedder.embed(["a"]));
        expect(message).toMatch(/bad key .{0,4}\*\*\*/);
        expect(message).not.toContain(form.slice(0, 8));
      }
    }
  });

  test("reads a reply up to its bound, packed or not", async () => {
    using endpoint = new EmbeddingsEndpoint();
    await using embedder = remote(endpoint, { replyBytesMax: 100_000 });
    const long = `{"data":[${" ".repeat(64 * 1024 * 1024)}]}`;
    const json = { "content-type": "application/json" };
    endpoint.answer = () =>
      new Response(Bun.gzipSync(long), { headers: { ...json, "content-encoding": "gzip" } });
    expect((await refusal(embedder.embed(["a"]))).detail).toContain("larger than 100000 bytes");
    endpoint.answer = () => new Response(long, { headers: json });
    expect((await refusal(embedder.embed(["a"]))).detail).toContain("larger than 100000 bytes");
  });

  test("stops waiting when it is disposed of", async () => {
    const begun = Promise.withResolvers<void>();
    const failure = { kind: "cancelled", detail: "", status: null, retryAfterMs: null, cause: null } as const;
    const endpoint: Endpoint = {
      address: "http://endpoint/v1",
      scrub: (text) => text,
      limit: (ms, signals) => ({ ms, signal: AbortSignal.any([...signals]), [Symbol.dispose]: () => {} }),
      listModels: () => Promise.reject(new Error("not asked for")),
      embed: (_, { signal }) =>
        new Promise((resolve) => {
          signal.addEventListener("abort", () => resolve({ ok: false, failure }));
          begun.resolve();
        }),
    };
    const embedder = new RemoteEmbedder({ endpoint, name: "bge-m3", dim: 3, worker: noWorker });
    const waiting = refusal(embedder.embed(["a"]));
    await begun.promise;
    await embedder[Symbol.asyncDispose]();
    const error = await waiting;
    expect([error.code, error.detail]).toEqual(["embedder_unavailable", "the gateway stops"]);
  }, 20_000);
});
