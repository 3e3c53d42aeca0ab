import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../src/clock.ts";
import { openModel, pullModel } from "../../src/embed/embed.ts";
import type { ModelManifest } from "../../src/embed/models.ts";
import { PARAPHRASES } from "../../src/embed/paraphrases.ts";
import { FIXTURE, PATIENCE_MS, refusal, WORKER } from "./embedders.ts";

setDefaultTimeout(PATIENCE_MS);

/** Does not wait between two tries. */
const IMPATIENT: Clock = { ...systemClock, sleep: () => Promise.resolve() };
const FILES = [
  "config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "1_Pooling/config.json",
  "onnx/model_quantized.onnx",
];
const GRAPH = "onnx/model_quantized.onnx";
const COMMIT = "0123456789abcdef0123456789abcdef01234567";

let folder = "";
let modelsDir = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "gateway-pull-"));
  modelsDir = join(folder, "models");
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function content(path: string): Buffer<ArrayBuffer> {
  return readFileSync(join(FIXTURE, path)) as Buffer<ArrayBuffer>;
}

function sha256(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

function gitSha1(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha1").update(`blob ${bytes.byteLength}\0`).update(bytes).digest("hex");
}

/** The parts of the hub that a pull uses: its API, redirects for large files, and ranges. */
class Hub implements Disposable {
  readonly requests: { path: string; range: string | null; status: number }[] = [];
  readonly files = new Map<string, Buffer<ArrayBuffer>>(FILES.map((path) => [path, content(path)]));
  /** One entry per request: bytes of the graph that are sent before the connection is cut. Later requests get all. */
  readonly cuts: number[] = [];
  hasApi = true;
  sendsLinkedEtag = true;
  /** The hash of the graph that the API and the redirect send. */
  graphSha256 = sha256(content(GRAPH));
  graphEtag = '"graph-1"';
  graphUrl = "/cdn/graph";
  readonly #server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: (request) => this.#answer(request) });

  get endpoint(): string {
    return `http://127.0.0.1:${this.#server.port}`;
  }

  #answer(request: Request): Response {
    const path = new URL(request.url).pathname;
    const response = this.#route(path, request);
    this.requests.push({ path, range: request.headers.get("range"), status: response.status });
    return response;
  }

  #route(path: string, request: Request): Response {
    if (path === "/api/models/acme/tiny/revision/main" && this.hasApi) return Response.json({ sha: COMMIT });
    if (path === `/api/models/acme/tiny/tree/${COMMIT}` && this.hasApi) return Response.json(this.#tree());
    if (path === "/cdn/graph") return this.#graph(request);
    const revision = this.hasApi ? COMMIT : "main";
    const prefix = `/acme/tiny/resolve/${revision}/`;
    const file = this.files.get(path.slice(prefix.length));
    if (!path.startsWith(prefix) || file === undefined)
      return new Response("Entry not found", { status: 404 });
    if (!path.endsWith(GRAPH)) return new Response(file);
    const linked = { "x-linked-etag": `"${this.graphSha256}"` };
    return new Response(null, {
      status: 302,
      headers: { location: this.graphUrl, ...(this.sendsLinkedEtag ? linked : {}) },
    });
  }

  #tree(): unknown[] {
    return [...this.files].map(([path, bytes]) =>
      path === GRAPH
        ? {
            type: "file",
            path,
            oid: "f".repeat(40),
            size: bytes.byteLength,
            lfs: { oid: this.graphSha256, size: bytes.byteLength },
          }
        : { type: "file", path, oid: gitSha1(bytes), size: bytes.byteLength },
    );
  }

  #graph(request: Request): Response {
    const whole = this.files.get(GRAPH) as Buffer<ArrayBuffer>;
    const range = /^bytes=(\d+)-$/.exec(request.headers.get("range") ?? "");
    const from = range !== null && request.headers.get("if-range") === this.graphEtag ? Number(range[1]) : 0;
    const cut = this.cuts.shift();
    const bytes = whole.subarray(from);
    const headers: Record<string, string> = { etag: this.graphEtag };
    if (from > 0) headers["content-range"] = `bytes ${from}-${whole.byteLength - 1}/${whole.byteLength}`;
    if (cut === undefined) return new Response(bytes, { status: from > 0 ? 206 : 200, headers });
    // A body that ends early without an error, as a proxy that gives up sends it.
    return new Response(bytes.subarray(0, cut), { status: from > 0 ? 206 : 200, headers });
  }

  graphRequests() {
    return this.requests
      .filter(({ path }) => path === "/cdn/graph")
      .map(({ range, status }) => [range, status] as const);
  }

  [Symbol.dispose](): void {
    this.#server.stop(true);
  }
}

interface Pulled {
  readonly lines: string[];
  readonly installed: string;
}

async function pull(given: Partial<Parameters<typeof pullModel>[0]>): Promise<Pulled> {
  const lines: string[] = [];
  const installed = await pullModel({
    name: "acme/tiny",
    from: null,
    modelsDir,
    hfEndpoint: null,
    workerUrl: WORKER,
    progress: (line) => lines.push(line),
    clock: IMPATIENT,
    fetch,
    ...given,
  });
  return { lines, installed };
}

function visible(): string[] {
  return existsSync(modelsDir) ? readdirSync(modelsDir).filter((name) => !name.startsWith(".")) : [];
}

describe("pull-model from a hub", () => {
  test("installs a model that can be opened, with a manifest", async () => {
    using hub = new Hub();
    const { lines, installed } = await pull({ hfEndpoint: `${hub.endpoint}/` });
    expect(installed).toBe(join(modelsDir, "tiny"));
    const manifest: ModelManifest = JSON.parse(readFileSync(join(installed, "gateway-model.json"), "utf8"));
    expect(manifest).toMatchObject({
      name: "tiny",
      pooling: "cls",
      precision: "int8",
      dim: 1024,
      max_tokens: 128,
    });
    expect(manifest.source).toBe(`${hub.endpoint}/acme/tiny@${COMMIT}`);
    expect(manifest.files.map((file) => file.path).sort()).toEqual([...FILES].sort());
    for (const file of manifest.files) expect(file.sha256).toBe(sha256(content(file.path)));
    await using embedder = await openModel(installed, WORKER);
    expect([embedder.name, embedder.dim]).toEqual(["tiny@int8+cls", 1024]);
    expect(lines.filter((line) => line.startsWith("paraphrase check"))).toHaveLength(2);
    expect(lines.filter((line) => line.endsWith("hash checked"))).toHaveLength(FILES.length);
    expect(visible()).toEqual(["tiny"]);
    expect(readdirSync(modelsDir)).toEqual(["tiny"]);
  });

  test("continues where a connection broke, however often it breaks", async () => {
    using hub = new Hub();
    const bytes = content(GRAPH).byteLength;
    hub.cuts.push(50_000, 1, 70_000);
    await pull({ hfEndpoint: hub.endpoint });
    expect(hub.graphRequests()).toEqual([
      [null, 200],
      ["bytes=50000-", 206],
      ["bytes=50001-", 206],
      ["bytes=120001-", 206],
    ]);
    expect(readFileSync(join(modelsDir, "tiny", GRAPH)).byteLength).toBe(bytes);
  });

  test("continues after a socket that closed before its content-length", async () => {
    using hub = new Hub();
    const bytes = content(GRAPH);
    let connections = 0;
    // A raw socket, because no server framework drops a connection as abruptly as a network does.
    using cdn = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: {
        async data(socket, request) {
          const from = Number(/range: bytes=(\d+)-/i.exec(request.toString())?.[1] ?? 0);
          const status =
            from > 0
              ? `206 Partial Content\r\ncontent-range: bytes ${from}-${bytes.length - 1}/${bytes.length}`
              : "200 OK";
          socket.write(`HTTP/1.1 ${status}\r\ncontent-length: ${bytes.length - from}\r\netag: "e"\r\n\r\n`);
          connections += 1;
          if (connections > 3) {
            socket.end(bytes.subarray(from));
            return;
          }
          socket.write(bytes.subarray(from, from + 20_000));
          const part = join(modelsDir, ".tiny.partial", `${GRAPH}.part`);
          while (!existsSync(part) || statSync(part).size < from + 20_000) await Bun.sleep(1);
          socket.terminate();
        },
      },
    });
    hub.graphUrl = `http://127.0.0.1:${cdn.port}/graph`;
    const { lines } = await pull({ hfEndpoint: hub.endpoint });
    expect(connections).toBe(4);
    expect(lines.filter((line) => line.includes("continuing at"))).toHaveLength(3);
    expect(visible()).toEqual(["tiny"]);
  });

  test("continues what an earlier call left, and requests no file that is complete", async () => {
    using hub = new Hub();
    hub.cuts.push(100_000, 0, 0, 0, 0, 0, 0, 0);
    const error = await refusal(pull({ hfEndpoint: hub.endpoint }));
    expect([error.code, error.hint?.includes("--from DIR"), visible()]).toEqual([
      "embedder_unavailable",
      true,
      [],
    ]);
    hub.cuts.length = 0;
    hub.requests.length = 0;
    await pull({ hfEndpoint: hub.endpoint });
    expect(hub.graphRequests()).toEqual([["bytes=100000-", 206]]);
    expect(hub.requests.some(({ path }) => path.endsWith("tokenizer.json"))).toBe(false);
  });

  test("starts again if the file changed since", async () => {
    using hub = new Hub();
    hub.cuts.push(100_000, 0, 0, 0, 0, 0, 0, 0);
    await refusal(pull({ hfEndpoint: hub.endpoint }));
    hub.cuts.length = 0;
    hub.requests.length = 0;
    hub.graphEtag = '"graph-2"';
    await pull({ hfEndpoint: hub.endpoint });
    expect(hub.graphRequests()).toEqual([["bytes=100000-", 200]]);
  });

  test("refuses and removes a file with another sha256", async () => {
    using hub = new Hub();
    hub.graphSha256 = "0".repeat(64);
    const error = await refusal(pull({ hfEndpoint: hub.endpoint }));
    expect([error.code, error.detail.includes("0000"), visible()]).toEqual(["model_invalid", true, []]);
    expect(existsSync(join(modelsDir, ".tiny.partial", GRAPH))).toBe(false);
  });

  test("refuses a small file with another git hash", async () => {
    using hub = new Hub();
    const wrong = { hfEndpoint: hub.endpoint, fetch: tamper(hub, "config.json") };
    expect((await refusal(pull(wrong))).code).toBe("model_invalid");
    expect(visible()).toEqual([]);
  });

  test("checks files from a mirror without an API by the hash in the redirect", async () => {
    using hub = new Hub();
    hub.hasApi = false;
    const { lines } = await pull({ hfEndpoint: hub.endpoint });
    expect(lines.find((line) => line.startsWith(`${GRAPH}:`))).toEndWith("hash checked");
    expect(visible()).toEqual(["tiny"]);
  });

  test("says that nothing was checked if the mirror sends no hash", async () => {
    using hub = new Hub();
    hub.hasApi = false;
    hub.sendsLinkedEtag = false;
    const { lines } = await pull({ hfEndpoint: hub.endpoint });
    expect(lines.find((line) => line.startsWith(`${GRAPH}:`))).toEndWith("no hash is known to check it");
  });

  test("names the file that a repository lacks", async () => {
    using hub = new Hub();
    hub.files.delete(GRAPH);
    const listed = await refusal(pull({ hfEndpoint: hub.endpoint }));
    expect([listed.code, listed.detail.includes(GRAPH)]).toEqual(["model_missing", true]);
    hub.hasApi = false;
    const asked = await refusal(pull({ hfEndpoint: hub.endpoint }));
    expect([asked.code, asked.message.includes("404")]).toEqual(["model_missing", true]);
  });

  test("fails at once without a network, and names --from", async () => {
    const error = await refusal(pull({ hfEndpoint: "http://127.0.0.1:1" }));
    expect([error.code, error.hint?.includes("--from DIR")]).toEqual(["embedder_unavailable", true]);
  });

  test("leaves an installed model unchanged", async () => {
    using hub = new Hub();
    await pull({ hfEndpoint: hub.endpoint });
    hub.requests.length = 0;
    const { lines } = await pull({ hfEndpoint: hub.endpoint });
    expect([hub.requests.length, lines[0]?.includes("installed already")]).toEqual([0, true]);
  });

  test("replaces an installed model that is not complete", async () => {
    using hub = new Hub();
    const { installed } = await pull({ hfEndpoint: hub.endpoint });
    truncateSync(join(installed, GRAPH), 10);
    await pull({ hfEndpoint: hub.endpoint });
    expect(sha256(readFileSync(join(installed, GRAPH)))).toBe(sha256(content(GRAPH)));
  });

  test("refuses malformed names and unknown names", async () => {
    for (const name of ["", "../x", "a/b/c", "a b", ".hidden", "https://x"]) {
      expect((await refusal(pull({ name }))).code).toBe("usage");
    }
    expect((await refusal(pull({ name: "no-such-model" }))).code).toBe("model_missing");
    expect(visible()).toEqual([]);
  });
});

/** Changes one byte of a file on its way. */
function tamper(hub: Hub, path: string): typeof fetch {
  return (async (...given: Parameters<typeof fetch>) => {
    const response = await fetch(...given);
    if (!response.url.endsWith(`/${path}`) || !response.url.startsWith(hub.endpoint)) return response;
    const bytes = new Uint8Array(await response.arrayBuffer());
    bytes[0] = 0x20;
    return new Response(bytes);
  }) as typeof fetch;
}

describe("pull-model --from a folder", () => {
  test("installs a copy and checks it", async () => {
    const { lines, installed } = await pull({ name: "bge-m3", from: FIXTURE });
    expect(lines.some((line) => line.includes("bge-m3@int8+cls, 1024 dimensions"))).toBe(true);
    expect(readFileSync(join(installed, GRAPH))).toEqual(content(GRAPH));
    expect(readdirSync(modelsDir)).toEqual(["bge-m3"]);
  });

  test("installs from a flat folder that does not say how to pool", async () => {
    const flat = join(folder, "flat");
    for (const path of FILES)
      if (path !== "1_Pooling/config.json")
        cpSync(join(FIXTURE, path), join(flat, path.replace("onnx/", "")));
    const { lines, installed } = await pull({ name: "some-model", from: flat });
    expect(existsSync(join(installed, GRAPH))).toBe(true);
    expect(lines.some((line) => line.includes("the files of some-model do not say how to pool"))).toBe(true);
    expect(lines.some((line) => line.includes("some-model@int8+mean"))).toBe(true);
  });

  test("refuses a folder that lacks a file, and one that contradicts its manifest", async () => {
    const lacking = join(folder, "lacking");
    cpSync(FIXTURE, lacking, { recursive: true });
    rmSync(join(lacking, "tokenizer.json"));
    const error = await refusal(pull({ name: "x", from: lacking }));
    expect([error.code, error.detail]).toEqual(["model_missing", "tokenizer.json is missing"]);
    const { installed } = await pull({ name: "y", from: FIXTURE });
    const bytes = content("config.json");
    writeFileSync(join(installed, "config.json"), bytes.toString().replace("1024", "1025"));
    expect((await refusal(pull({ name: "z", from: installed }))).code).toBe("model_invalid");
    expect(visible()).toEqual(["y"]);
  });

  test("does not install a model that puts an unrelated sentence nearer than a paraphrase", async () => {
    const paraphrases = PARAPHRASES.map((one) => ({
      ...one,
      paraphrase: one.unrelated,
      unrelated: one.paraphrase,
    }));
    const error = await refusal(pull({ name: "bad", from: FIXTURE, paraphrases }));
    expect([error.code, error.detail.includes("unrelated"), visible()]).toEqual(["model_invalid", true, []]);
    // Nothing hidden stays either.
    expect(readdirSync(modelsDir)).toEqual([]);
  });

  test("does not install a graph that cannot be run", async () => {
    const broken = join(folder, "broken");
    cpSync(FIXTURE, broken, { recursive: true });
    writeFileSync(join(broken, GRAPH), "no graph");
    expect((await refusal(pull({ name: "broken", from: broken }))).code).toBe("model_invalid");
    expect(visible()).toEqual([]);
  });
});
