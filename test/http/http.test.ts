import { describe, expect, test } from "bun:test";
import { connect } from "node:net";
import fc from "fast-check";
import { GatewayError } from "../../src/errors.ts";
import { encodeFrame, encodePhysics, FRAME_BYTES, FRAME_FIELDS, type Physics } from "../../src/frame.ts";
import { LatencyHistogram } from "../../src/http/metrics.ts";
import { failure, type Harness, raw, StubStore, start, until } from "./stubs.ts";

const MIB = 1024 * 1024;

/** The problem of an answer; every refusal has to look like this. */
async function problem(answer: Response, status: number, code: string): Promise<Record<string, unknown>> {
  const text = await answer.text();
  expect(`${answer.status} ${text}`).toStartWith(`${status} {`);
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  expect(answer.headers.get("x-request-id")).toMatch(/^[\x21-\x7e]{1,128}$/);
  const body = JSON.parse(text);
  expect(body).toMatchObject({ status, code, type: `urn:one-file-gateway:problem:${code}` });
  for (const member of ["title", "detail"]) expect(body[member]).toBeString();
  expect(body).toHaveProperty("hint");
  if (status === 503) expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
  return body;
}

const lines = (count: number, make = (n: number) => `{"message":"m${n}"}`): string =>
  Array.from({ length: count }, (_, n) => `${make(n)}\n`).join("");

/** A body whose chunks the test sends one by one. */
function feed(): { body: ReadableStream<Uint8Array>; send(text: string): void; end(): void } {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  const body = new ReadableStream<Uint8Array>({
    start(given) {
      controller = given;
    },
  });
  return {
    body,
    send: (text) => controller?.enqueue(new TextEncoder().encode(text)),
    end: () => controller?.close(),
  };
}

describe("one event", () => {
  test("is answered as documented, byte for byte", async () => {
    await using http = start();
    const first = await http.post('{"type":"UserMessage","id":"a\\"b","message":"Olá"}');
    expect(first.status).toBe(200);
    expect(first.headers.get("content-type")).toBe("application/json");
    expect(await first.text()).toBe(
      '{"status":"received","event_type":"UserMessage","seq":1,"id":"a\\"b","duplicate":false}',
    );
    const unknown = await http.post(' {"n":18446744073709551615} ');
    expect(await unknown.text()).toBe(
      '{"status":"received","event_type":"UnknownEvent","seq":2,"id":"made-2","duplicate":false}',
    );
    expect(http.journal.kept[1]?.body).toBe('{"n":18446744073709551615}');
    const repeat = await http.post('{"type":"UserMessage","id":"a\\"b"}');
    expect(await repeat.json()).toMatchObject({ seq: 1, duplicate: true });
  });

  test("gets the type of ?type= where it brings none", async () => {
    await using http = start();
    const typed = await http.post("{}", { path: "/ingest?type=Pedido%20novo&other=1" });
    expect(await typed.json()).toMatchObject({ event_type: "Pedido novo" });
    const own = await http.post('{"type":"Own"}', { path: "/ingest?type=Pedido" });
    expect(await own.json()).toMatchObject({ event_type: "Own" });
    await problem(await http.post("{}", { path: `/ingest?type=${"x".repeat(2000)}` }), 400, "bad_parameter");
  });

  test("takes webhook-id before Idempotency-Key, and its own key before both", async () => {
    await using http = start();
    const headers = { "idempotency-key": "one", "webhook-id": "hook" };
    await http.post("{}", { headers });
    await http.post("{}", { headers: { "idempotency-key": "one" } });
    await http.post('{"id":7}', { headers });
    expect(http.journal.kept.map(({ key }) => key)).toEqual([
      "webhook-id:hook",
      "idempotency-key:one",
      "id:7",
    ]);
    expect(await (await http.post("{}", { headers })).json()).toMatchObject({ seq: 1, duplicate: true });
    await problem(
      await http.post("{}", { headers: { "webhook-id": "k".repeat(1025) } }),
      400,
      "bad_parameter",
    );
  });

  test("waits for its enrichment when asked to, and is answered with the brain's type", async () => {
    await using http = start();
    const provenance = { embedder: "hashing-1024-v1" };
    const enrichment = { frame_id: 9, intent: null, sentiment: -0.5, confidence: null, provenance };
    http.pipeline.enrichment = { ...enrichment, event_type: "Complaint" };
    const answer = await http.post("{}", { path: "/ingest?wait=enriched" });
    expect(await answer.json()).toEqual({
      status: "received",
      event_type: "Complaint",
      seq: 1,
      id: "made-1",
      duplicate: false,
      enrichment,
    });
    http.pipeline.enrichment = null;
    const unknown = await http.post("{}", { path: "/ingest?wait=enriched" });
    expect(await unknown.json()).toMatchObject({ event_type: "UnknownEvent", enrichment: null });
    await problem(await http.post("{}", { path: "/ingest?wait=forever" }), 400, "bad_parameter");
    expect(http.journal.kept).toHaveLength(2);
  });

  test("may come chunked, without Content-Type, or as application/*+json", async () => {
    await using http = start();
    const chunked = feed();
    const answer = http.post(chunked.body);
    chunked.send('{"message":');
    chunked.send('"in two"}');
    chunked.end();
    expect((await answer).status).toBe(200);
    const types = [
      "application/vnd.x+json",
      "Application/JSON; charset=UTF-8",
      'application/json; charset="utf-8"',
    ];
    for (const type of types)
      expect((await http.post("{}", { headers: { "content-type": type } })).status).toBe(200);
    const bare = await raw(
      http.server.port,
      "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
    );
    expect(bare).toMatchObject({ status: 200 });
    expect(http.journal.kept[0]?.body).toBe('{"message":"in two"}');
  });
});

describe("a batch", () => {
  test("is answered as documented, with each refused element named", async () => {
    await using http = start();
    await http.post('{"id":"known"}');
    const answer = await http.post('[{"a":1},{"id":"known"},5,{"a":1e400},{"__proto__":{"x":1}}]');
    expect(answer.status).toBe(200);
    expect(await answer.json()).toEqual({
      status: "received",
      accepted: 3,
      duplicates: 1,
      rejected: 1,
      first_seq: 2,
      last_seq: 4,
      errors: [{ index: 2, code: "not_an_event", detail: "an event is a JSON object" }],
    });
    expect(http.journal.kept.map(({ body }) => body)).toEqual([
      '{"id":"known"}',
      '{"a":1}',
      '{"a":1e400}',
      '{"__proto__":{"x":1}}',
    ]);
  });

  test("of which nothing is an event is 422, an empty one too", async () => {
    await using http = start();
    const body = await problem(await http.post("[1,2]"), 422, "not_an_event");
    expect(body).toMatchObject({ accepted: 0, rejected: 2, first_seq: null });
    await problem(await http.post("[]"), 422, "not_an_event");
    await problem(await http.postLines("\n\n"), 422, "not_an_event");
    expect(http.journal.kept).toHaveLength(0);
  });

  test("of which all are repeats is 200", async () => {
    await using http = start();
    const headers = { "idempotency-key": "k" };
    expect(await (await http.post("[{},{}]", { headers })).json()).toMatchObject({
      accepted: 2,
      duplicates: 0,
    });
    const repeat = await http.post("[{},{}]", { headers });
    expect(repeat.status).toBe(200);
    expect(await repeat.json()).toMatchObject({
      accepted: 0,
      duplicates: 2,
      first_seq: null,
      last_seq: null,
    });
    expect(http.journal.kept.map(({ key }) => key)).toEqual(["idempotency-key[0]:k", "idempotency-key[1]:k"]);
  });

  test("names at most 100 errors and counts all", async () => {
    await using http = start();
    const answer = await http.post(`[{},${Array(250).fill("0").join(",")}]`);
    const body = (await answer.json()) as { rejected: number; errors: { index: number }[] };
    expect(body.rejected).toBe(250);
    expect(body.errors.map(({ index }) => index)).toEqual(Array.from({ length: 100 }, (_, n) => n + 1));
  });

  test("is appended in groups of at most 1,024, in its order", async () => {
    await using http = start();
    const array = `[${Array.from({ length: 5000 }, (_, n) => `{"n":${n}}`).join(",")}]`;
    expect(await (await http.post(array)).json()).toMatchObject({
      accepted: 5000,
      first_seq: 1,
      last_seq: 5000,
    });
    expect(await (await http.postLines(lines(5000))).json()).toMatchObject({
      accepted: 5000,
      first_seq: 5001,
    });
    expect(Math.max(...http.journal.appends)).toBeLessThanOrEqual(1024);
    expect(http.journal.kept[4999]?.body).toBe('{"n":4999}');
    expect(http.journal.kept[9999]?.body).toBe('{"message":"m4999"}');
  });
});

describe("NDJSON", () => {
  test("with one bad line of 1,000 keeps the 999 others and names the bad one", async () => {
    await using http = start();
    const answer = await http.postLines(lines(1000, (n) => (n === 17 ? '{"broken' : `{"n":${n}}`)));
    expect(answer.status).toBe(200);
    const body = (await answer.json()) as { errors: unknown[] };
    expect(body).toMatchObject({ accepted: 999, rejected: 1, first_seq: 1, last_seq: 999 });
    expect(body.errors).toEqual([
      { index: 17, code: "malformed", detail: expect.stringMatching(/^line 18: byte \d+/) },
    ]);
  });

  test("arrives whole however it is cut into chunks (chunked transfer)", async () => {
    await using http = start();
    const sent = lines(50, (n) => `{"message":"olá ${n} 🎉"}`);
    const bytes = Buffer.from(sent);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: bytes.length - 1 }), { maxLength: 8 }),
        async (cuts) => {
          http.journal.kept = [];
          const edges = [0, ...new Set(cuts.sort((a, b) => a - b)), bytes.length];
          const body = new ReadableStream<Uint8Array>({
            async pull(controller) {
              const from = edges.shift() ?? 0;
              if (edges.length === 0) return controller.close();
              controller.enqueue(bytes.subarray(from, edges[0]));
              await new Promise((turn) => setImmediate(turn));
            },
          });
          const answer = await http.postLines(body);
          expect(await answer.json()).toMatchObject({ accepted: 50, rejected: 0 });
          expect(http.journal.kept.map((row) => `${row.body}\n`).join("")).toBe(sent);
        },
      ),
      { numRuns: 20, verbose: 1 },
    );
  });

  test("is taken while it comes, not at its end", async () => {
    await using http = start();
    const stream = feed();
    const answer = http.postLines(stream.body);
    stream.send(lines(3));
    await until("the first lines are kept", () => http.journal.kept.length === 3);
    stream.send('{"message":"without newline"}');
    stream.end();
    expect(await (await answer).json()).toMatchObject({ accepted: 4 });
  });

  test("stops at --max-body and says how many were accepted", async () => {
    await using http = start({ maxBodyBytes: 10_000 });
    const line = `{"message":"${"x".repeat(84)}"}`;
    expect(line).toHaveLength(98);
    const stream = feed();
    const answer = http.postLines(stream.body);
    stream.send(lines(200, () => line));
    const body = await problem(await answer, 413, "too_large");
    expect(body).toMatchObject({ accepted: 101, first_seq: 1, last_seq: 101 });
    expect(body.detail).toEndWith("101 events were accepted before");
    const early = await problem(await http.postLines(lines(200, () => line)), 413, "too_large");
    expect(early).toMatchObject({ accepted: 0 });
    expect((await http.postLines(lines(101, () => line))).status).toBe(200);
  });

  test("of a client that goes away is kept up to its last whole line", async () => {
    await using http = start();
    const socket = connect(http.server.port, "127.0.0.1");
    const head =
      "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 900\r\n\r\n";
    socket.write(`${head}${lines(5)}{"message":"half`);
    await until("the whole lines are kept", () => http.journal.kept.length === 5);
    socket.write(' of it"}\n{"message":"ha');
    await until("the next line is kept", () => http.journal.kept.length === 6);
    socket.destroy();
    await until("the server noticed", () => http.server.metrics.aborted === 1);
    expect(http.journal.kept.at(-1)?.body).toBe('{"message":"half of it"}');
    expect(http.logged).toEqual([]);
  });

  test("is read no faster than it is committed", async () => {
    await using http = start();
    let release = (): void => undefined;
    http.journal.hold = new Promise((done) => {
      release = done;
    });
    http.journal.keepBodies = false;
    let sentBytes = 0;
    const chunk = Buffer.from(lines(600, () => `{"message":"${"x".repeat(100)}"}`));
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sentBytes += chunk.byteLength;
        if (sentBytes > 60 * MIB) controller.close();
        else controller.enqueue(chunk);
      },
    });
    const answer = http.postLines(body);
    await until("appends wait", () => http.journal.appends.length > 1);
    let before = -1;
    while (before !== sentBytes) {
      before = sentBytes;
      await Bun.sleep(100);
    }
    expect(http.journal.appends.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(2048);
    expect(sentBytes).toBeLessThan(30 * MIB);
    http.journal.hold = null;
    release();
    expect((await answer).status).toBe(200);
  });
});

describe("bad input", () => {
  const deep = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`;
  const cases: [name: string, body: string | Uint8Array<ArrayBuffer>, status: number, code: string][] = [
    ["invalid JSON", '{"a":', 400, "malformed"],
    ["two values", "{} {}", 400, "malformed"],
    ["100,000 levels of objects", deep, 422, "too_deep"],
    ["100,000 unclosed brackets", "[".repeat(100_000), 400, "malformed"],
    ["invalid UTF-8", Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d), 400, "malformed"],
    ["an empty body", "", 400, "malformed"],
    ["white space", " \n ", 400, "malformed"],
    ["a string", '"text"', 422, "not_an_event"],
    ["a number", "12", 422, "not_an_event"],
    ["null", "null", 422, "not_an_event"],
    ["an event of 9 MiB", `{"message":"${"x".repeat(9 * MIB)}"}`, 413, "too_large"],
  ];
  for (const [name, body, status, code] of cases) {
    test(`${name} is ${status} ${code}`, async () => {
      await using http = start();
      await problem(await http.post(body), status, code);
      expect(http.journal.kept).toHaveLength(0);
    });
  }

  test("lone surrogates, __proto__, 1e400 and 64-bit numbers are kept exactly", async () => {
    await using http = start();
    const bodies = [
      '{"message":"\\ud800 alone"}',
      '{"__proto__":{"polluted":true},"constructor":1}',
      '{"n":1e400,"m":-1E999}',
      '{"id":9223372036854775807,"z":1,"a":2}',
    ];
    for (const body of bodies) expect((await http.post(body)).status).toBe(200);
    expect(http.journal.kept.map(({ body }) => body)).toEqual(bodies);
    expect(http.journal.kept[3]?.id).toBe("9223372036854775807");
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
  });

  test("an empty NDJSON body is 400", async () => {
    await using http = start();
    await problem(await http.postLines(""), 400, "malformed");
    const chunked = feed();
    chunked.end();
    await problem(await http.postLines(chunked.body), 400, "malformed");
  });

  test("a Content-Type, charset or Content-Encoding that is not taken is 415", async () => {
    await using http = start();
    const types = [
      "text/plain",
      "application/x-www-form-urlencoded",
      "application/json; charset=latin1",
      "application/xml",
    ];
    for (const type of types) {
      await problem(
        await http.post("{}", { headers: { "content-type": type } }),
        415,
        "unsupported_media_type",
      );
    }
    await problem(
      await http.post("{}", { headers: { "content-encoding": "gzip" } }),
      415,
      "unsupported_media_type",
    );
    expect((await http.post("{}", { headers: { "content-encoding": "identity" } })).status).toBe(200);
  });

  test("an array of more than 64 MiB is 413, whether its size is told or not", async () => {
    await using http = start();
    const told = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 67108865\r\n\r\n[";
    expect(await raw(http.server.port, told)).toMatchObject({ status: 413 });
    let sent = 0;
    const chunk = new Uint8Array(MIB).fill(0x20);
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (++sent > 70) controller.close();
        else controller.enqueue(chunk);
      },
    });
    await problem(await http.post(body), 413, "too_large");
  });

  test("an array of 60 MiB is taken, and another connection does not notice", async () => {
    await using http = start();
    http.journal.keepBodies = false;
    const element = `{"type":"UserMessage","message":"${"olá, bom dia ".repeat(20)}","n":[1,2,{"x":null}]}`;
    const count = Math.floor((60 * MIB) / (Buffer.byteLength(element) + 1));
    const body = Buffer.from(`[${Array(count).fill(element).join(",")}]`);
    let stallMs = 0;
    let pings = 0;
    let running = true;
    const ping = (async () => {
      while (running) {
        const startMs = performance.now();
        await (await fetch(`${http.url}/health`)).text();
        stallMs = Math.max(stallMs, performance.now() - startMs);
        pings++;
        await Bun.sleep(1);
      }
    })();
    // From another process: the client's own work must not be taken for the server's.
    await Bun.sleep(20);
    stallMs = 0;
    const script = `const [url, size, element] = process.argv.slice(1);
      const body = Buffer.from("[" + Array(Number(size)).fill(element).join(",") + "]");
      const answer = await fetch(url, { method: "POST", body, headers: { "content-type": "application/json" } });
      console.log(answer.status, await answer.text());`;
    const child = Bun.spawn([process.execPath, "-e", script, `${http.url}/ingest`, String(count), element]);
    const printed = await new Response(child.stdout).text();
    running = false;
    await ping;
    expect(printed).toStartWith(`200 {"status":"received","accepted":${count},"duplicates":0,"rejected":0`);
    console.log(
      `60 MiB array of ${count} events (${body.length} bytes): max stall ${stallMs.toFixed(1)} ms of ${pings} pings`,
    );
    // 50 ms is the promise, which bench/stall.ts measures alone on a machine; here other suites run beside.
    expect(stallMs).toBeLessThan(1500);
  }, 30_000);

  test("large bodies that together do not fit are told to come later", async () => {
    await using http = start();
    const sockets = [64, 31].map((mib) => {
      const socket = connect(http.server.port, "127.0.0.1");
      socket.write(`POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${mib * MIB}\r\n\r\n[`);
      return socket;
    });
    const inFlight = async (): Promise<number> => {
      const answer = await fetch(`${http.url}/metrics`, { headers: { accept: "application/json" } });
      return (
        ((await answer.json()) as { gauges: Record<string, number> }).gauges.http_bodies_in_flight_bytes ?? 0
      );
    };
    while ((await inFlight()) < 95 * MIB) await Bun.sleep(5);
    await problem(await http.post(`[${" ".repeat(2 * MIB)}{}]`), 503, "overloaded");
    expect((await http.post("{}")).status).toBe(200);
    for (const socket of sockets) socket.destroy();
    while ((await inFlight()) > 0) await Bun.sleep(5);
  });
});

describe("who may ask", () => {
  const ask = (port: number, path: string, headers: string) =>
    raw(port, `GET ${path} HTTP/1.1\r\n${headers}\r\n\r\n`);

  test("without a token the Host has to be loopback", async () => {
    await using http = start();
    const { port } = http.server;
    for (const host of ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:9382"]) {
      expect(await ask(port, "/health", `Host: ${host}`)).toMatchObject({ status: 200 });
    }
    const foreign = [
      "evil.example",
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "",
      "localhost, evil",
      "user@localhost",
      "10.0.0.1",
    ];
    for (const host of foreign) {
      const answer = await ask(port, "/api/config", `Host: ${host}`);
      expect(answer).toMatchObject({ status: 403, body: expect.stringContaining('"code":"forbidden_host"') });
    }
    expect(await ask(port, "/health", "Host: evil.example")).toMatchObject({ status: 403 });
    expect(await raw(port, "GET /health HTTP/1.0\r\n\r\n")).toMatchObject({ status: 403 });
    const post = "POST /ingest HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}";
    expect(await raw(port, post)).toMatchObject({ status: 403 });
    expect(http.journal.kept).toHaveLength(0);
  });

  test("without a token a foreign Origin is refused, the gateway's own is not", async () => {
    await using http = start();
    for (const origin of [
      "https://evil.example",
      "null",
      "http://localhost:3000",
      `https://127.0.0.1:${http.server.port}`,
    ]) {
      await problem(await http.post("{}", { headers: { origin } }), 403, "forbidden_origin");
      await problem(await fetch(`${http.url}/api/events`, { headers: { origin } }), 403, "forbidden_origin");
    }
    expect((await http.post("{}", { headers: { origin: http.url } })).status).toBe(200);
    expect(http.journal.kept).toHaveLength(1);
  });

  test("with --insecure the host that is listened on is allowed, and addresses where it is all of them", async () => {
    await using http = start({ host: "0.0.0.0", insecure: true });
    expect(await ask(http.server.port, "/health", "Host: 192.168.1.7:9382")).toMatchObject({ status: 200 });
    expect(await ask(http.server.port, "/health", "Host: rebound.example")).toMatchObject({ status: 403 });
  });

  test("with a token everything but /health and /ready needs it, whatever Host and Origin say", async () => {
    await using http = start({ token: "sesame-ção" });
    const bearer = { authorization: `bearer ${Buffer.from("sesame-ção").toString("latin1")}` };
    for (const path of [
      "/api/events",
      "/api/events/1",
      "/api/frames",
      "/api/labels",
      "/api/config",
      "/metrics",
      "/nothing",
    ]) {
      const answer = await fetch(http.url + path);
      expect(answer.headers.get("www-authenticate")).toStartWith("Bearer");
      await problem(answer, 401, "unauthorized");
    }
    const wrong = [
      "Bearer",
      "Bearer ",
      "Bearer sesame",
      "Basic c2VzYW1l",
      "sesame",
      `${bearer.authorization}x`,
    ];
    for (const authorization of wrong) {
      await problem(await http.post("{}", { headers: { authorization } }), 401, "unauthorized");
    }
    expect(http.journal.kept).toHaveLength(0);
    const headers = { ...bearer, origin: "https://app.example" };
    const taken = await http.post("{}", { headers });
    expect(taken.status).toBe(200);
    expect([...taken.headers.keys()].filter((name) => name.startsWith("access-control"))).toEqual([]);
    expect((await fetch(`${http.url}/api/config`, { headers })).status).toBe(200);
    for (const path of ["/health", "/ready"]) {
      expect(await ask(http.server.port, path, "Host: probe.example")).toMatchObject({ status: 200 });
    }
  });

  test("a request's id is given back where it is sane, else made", async () => {
    await using http = start();
    const idOf = async (id: string) =>
      (await fetch(`${http.url}/health`, { headers: { "x-request-id": id } })).headers.get("x-request-id");
    expect(await idOf("abc-123")).toBe("abc-123");
    expect(await idOf("x".repeat(129))).toMatch(/^[0-9a-f]{8}-/);
    expect(await idOf("two words")).toMatch(/^[0-9a-f]{8}-/);
    const ids = await Promise.all([http.post("{}"), http.post("{}"), http.post("{")]);
    expect(new Set(ids.map((answer) => answer.headers.get("x-request-id"))).size).toBe(3);
  });
});

describe("when it cannot be taken", () => {
  test("the pipeline's refusal is a 503 that says when to come again", async () => {
    await using http = start();
    http.pipeline.refusal = { code: "overloaded", detail: "too many wait", retryAfterSeconds: 7 };
    const answer = await http.post("{}");
    expect(answer.headers.get("retry-after")).toBe("7");
    await problem(answer, 503, "overloaded");
    const ready = await fetch(`${http.url}/ready`);
    expect(ready.status).toBe(503);
    expect(await ready.json()).toMatchObject({
      status: "not ready",
      code: "overloaded",
      parts: { journal: { state: "ok" } },
    });
    http.pipeline.refusal = null;
    expect((await http.post("{}")).status).toBe(200);
  });

  test("a full disk or a failing journal is a 503, never a 4xx", async () => {
    await using http = start();
    for (const code of ["disk_full", "journal_failed"] as const) {
      http.journal.failWith = failure(code, "no room");
      await problem(await http.post("{}"), 503, code);
      expect(await problem(await http.post("[{},{}]"), 503, code)).toMatchObject({ accepted: 0 });
      expect(await problem(await http.postLines(lines(3)), 503, code)).toMatchObject({ accepted: 0 });
    }
    expect(http.logged).toHaveLength(2);
    http.journal.failWith = new Error("a bug with a secret in it");
    for (const body of ["{}", "[{}]"]) {
      const told = await problem(await http.post(body), 500, "internal");
      expect(JSON.stringify(told)).not.toContain("secret");
    }
    expect(http.logged.filter((line) => line.startsWith("error") && line.includes("secret"))).toHaveLength(2);
  });

  test("a stream that is stopped in its middle says what was accepted", async () => {
    await using http = start();
    const stream = feed();
    const answer = http.postLines(stream.body);
    stream.send(lines(10));
    await until("ten are kept", () => http.journal.kept.length === 10);
    http.pipeline.refusal = { code: "disk_full", detail: "the disk is full", retryAfterSeconds: 3 };
    stream.send(lines(10));
    const body = await problem(await answer, 503, "disk_full");
    expect(body).toMatchObject({ accepted: 10, first_seq: 1, last_seq: 10 });
    expect(http.journal.kept).toHaveLength(10);
  });

  test("a drain turns readiness red, refuses new events, and ends streams after their last whole line", async () => {
    await using http = start();
    const stream = feed();
    const answer = http.postLines(stream.body);
    stream.send(`${lines(4)}{"message":"never`);
    await until("the lines are kept", () => http.journal.kept.length === 4);
    http.server.drain();
    expect(await problem(await answer, 503, "draining")).toMatchObject({ accepted: 4 });
    await problem(await http.post("{}"), 503, "draining");
    expect((await fetch(`${http.url}/ready`)).status).toBe(503);
    expect((await fetch(`${http.url}/health`)).status).toBe(200);
  });

  test("a drain answers who waits for an enrichment", async () => {
    await using http = start();
    http.pipeline.silent = true;
    const answer = http.post("{}", { path: "/ingest?wait=enriched" });
    await until("it is kept", () => http.journal.kept.length === 1);
    await Bun.sleep(5);
    http.server.drain();
    expect(await (await answer).json()).toMatchObject({ seq: 1, enrichment: null });
  });

  test("a stop lets what is running finish, and then nobody listens", async () => {
    const http = start();
    let release = (): void => undefined;
    http.journal.hold = new Promise((done) => {
      release = done;
    });
    const running = http.post('{"message":"last"}');
    await until("it is on its way", () => http.journal.appends.length === 1);
    const stopped = http.server.stop();
    release();
    expect((await running).status).toBe(200);
    await stopped;
    expect(http.journal.kept).toHaveLength(1);
    expect(fetch(`${http.url}/health`)).rejects.toThrow();
  });

  test("a port in use is told as such", async () => {
    await using http = start();
    const port = http.server.port;
    expect(() => start({ port })).toThrow(GatewayError);
    try {
      start({ port });
    } catch (thrown) {
      expect(thrown).toMatchObject({ code: "address_in_use", object: `127.0.0.1:${port}` });
    }
    expect(() => start({ host: "no-such-host.invalid" })).toThrow(GatewayError);
  });
});

describe("reads", () => {
  const get = (url: string, headers: Record<string, string> = {}) => fetch(url, { headers });

  test("/api/events hands its filters to the store and tells its lag", async () => {
    await using http = start();
    const store = http.store as StubStore;
    store.lag = 3;
    const all = "limit=7&type=T&intent=I&conversation_id=c%2F1&q=ol%C3%A1&before=9";
    const answer = await get(`${http.url}/api/events?${all}`);
    expect(await answer.text()).toBe('{"events":[],"next":null}');
    expect(answer.headers.get("x-store-lag")).toBe("3");
    store.lag = 0;
    const plain = await get(`${http.url}/api/events?limit=&type=&intent=&conversation_id=&q=`);
    expect(plain.headers.has("x-store-lag")).toBeFalse();
    expect(store.queries).toEqual([
      { limit: 7, type: "T", intent: "I", conversationId: "c/1", q: "olá", before: 9 },
      { limit: 50 },
    ]);
  });

  test("a parameter that is wrong, unknown or given twice is 400 and named", async () => {
    await using http = start();
    const wrong: [path: string, name: string][] = [
      ["/api/events?limit=0", "limit"],
      ["/api/events?limit=1001", "limit"],
      ["/api/events?limit=ten", "limit"],
      ["/api/events?limit=1e2", "limit"],
      ["/api/events?limit=5&limit=6", "limit"],
      ["/api/events?before=-1", "before"],
      ["/api/events?after=1.5", "after"],
      ["/api/events?after=9999999999999999", "after"],
      ["/api/events?before=5&after=1", "before"],
      ["/api/events?colour=red", "colour"],
      [`/api/events?q=${"x".repeat(1025)}`, "q"],
      ["/api/events/1?x=1", "x"],
      ["/api/frames?limit=1001", "limit"],
      ["/api/frames?after=x", "after"],
      ["/api/frames?before=1", "before"],
    ];
    for (const [path, name] of wrong) {
      const body = await problem(await get(http.url + path), 400, "bad_parameter");
      expect(body.detail).toContain(name);
    }
    expect((http.store as StubStore).queries).toHaveLength(0);
  });

  test("one event is found, missing, or not there yet", async () => {
    await using http = start();
    await http.post("[{},{}]");
    const found = await get(`${http.url}/api/events/1`);
    expect(`${found.status} ${await found.text()}`).toBe('200 {"seq":1}');
    await problem(await get(`${http.url}/api/events/2`), 404, "not_found");
    for (const seq of ["3", "0", "x", "01", "1/2", ""]) {
      await problem(await get(`${http.url}/api/events/${seq}`), 404, "not_found");
    }
    (http.store as StubStore).lag = 1;
    await problem(await get(`${http.url}/api/events/2`), 503, "store_unavailable");
  });

  test("a store that is not open yet is waited for, then 503", async () => {
    await using http = start();
    http.store = null;
    await problem(await get(`${http.url}/api/events`), 503, "store_unavailable");
    const answer = get(`${http.url}/api/events`);
    await Bun.sleep(30);
    http.store = new StubStore();
    expect((await answer).status).toBe(200);
    http.store.failWith = failure("store_failed", "gone");
    await problem(await get(`${http.url}/api/events`), 503, "store_failed");
  });

  test("frames come as JSON with every field, or raw as they are in the ring", async () => {
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
    // biome-ignore lint/suspicious/noExplicitAny: each member that matters is looked at below.
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

  test("many frames come in pieces that are cut nowhere, few with their length", async () => {
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

  test("an empty answer says, in both forms, how far the frames go and whose they are", async () => {
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

  test("labels are what stands beside the ring, for who has the token", async () => {
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

  test("health, readiness and configuration", async () => {
    await using http = start();
    expect(await (await get(`${http.url}/health`)).text()).toBe('{"status":"ok"}');
    const ready = await get(`${http.url}/ready`);
    expect(ready.status).toBe(200);
    expect(await ready.json()).toMatchObject({ status: "ready", parts: { store: { state: "starting" } } });
    expect(await (await get(`${http.url}/api/config`)).json()).toEqual({ port: 1, token: "set" });
  });

  test("metrics are Prometheus text whose every name has HELP and TYPE, or JSON", async () => {
    await using http = start();
    await http.post('{"message":5}');
    await http.post("{");
    const answer = await get(`${http.url}/metrics`);
    expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const text = await answer.text();
    expect(text).toEndWith("\n");
    const typed = new Map(
      [...text.matchAll(/^# TYPE (\S+) (counter|gauge|histogram)$/gm)].map(([, name, type]) => [name, type]),
    );
    for (const [, name] of text.matchAll(/^([a-z_]+)(?:\{[^}]*\})? -?[\d.e+-]+$/gm)) {
      const family = (name as string).replace(/_(bucket|sum|count)$/, "");
      expect(typed.has(name as string) || typed.get(family) === "histogram").toBeTrue();
      expect(text).toContain(`# HELP ${typed.has(name as string) ? name : family} `);
    }
    const rest = text
      .split("\n")
      .filter((line) => line !== "" && !/^(# |[a-z_]+(\{[^}]*\})? -?[\d.e+-]+$)/.test(line));
    expect(rest).toEqual([]);
    expect(text).toContain('gateway_http_requests_total{route="/ingest",status="2xx"} 1\n');
    expect(text).toContain('gateway_http_requests_total{route="/ingest",status="4xx"} 1\n');
    expect(text).toContain('gateway_refusals_total{code="malformed"} 1\n');
    expect(text).toContain("gateway_accepted_events_total 1\n");
    expect(text).toContain("gateway_ignored_fields_total 1\n");
    expect(text).toContain('gateway_ack_seconds_bucket{le="+Inf"} 1\n');
    const json = await (await get(`${http.url}/metrics`, { accept: "application/json" })).json();
    expect(json).toMatchObject({
      counters: { frames_total: 7, accepted_events_total: 1 },
      http: { ack_ms: { count: 1 } },
    });
  });

  test("unknown paths are 404, other methods 405 with Allow; HEAD and OPTIONS are answered", async () => {
    await using http = start();
    for (const path of ["/", "/nothing", "/ingest/", "/api"]) {
      await problem(await get(http.url + path), 404, "not_found");
    }
    const wrong: [method: string, path: string, allow: string][] = [
      ["GET", "/ingest", "POST, OPTIONS"],
      ["PUT", "/ingest", "POST, OPTIONS"],
      ["POST", "/api/events", "GET, HEAD, OPTIONS"],
      ["DELETE", "/api/events/1", "GET, HEAD, OPTIONS"],
    ];
    for (const [method, path, allow] of wrong) {
      const answer = await fetch(http.url + path, { method });
      expect(answer.headers.get("allow")).toBe(allow);
      await problem(answer, 405, "method_not_allowed");
    }
    for (const path of ["/api/events", "/api/frames", "/api/labels", "/api/config", "/ready", "/metrics"]) {
      const answer = await fetch(http.url + path, { method: "HEAD" });
      expect(`${answer.status}${await answer.text()}`).toBe("200");
    }
    const head = await fetch(`${http.url}/health`, { method: "HEAD" });
    expect(`${head.status}${await head.text()}`).toBe("200");
    expect(head.headers.get("content-length")).toBe("15");
    const options = await fetch(`${http.url}/ingest`, { method: "OPTIONS" });
    expect(options.status).toBe(204);
    expect(options.headers.get("allow")).toBe("POST, OPTIONS");
    const odd = "POST /ingest#x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    expect(await raw(http.server.port, odd)).toHaveProperty("status", 404);
  });

  test("a refused body is not in the way of the connection's next request", async () => {
    await using http = start();
    const refused = `POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 300000\r\n\r\n${"x".repeat(300_000)}`;
    const next = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    await raw(http.server.port, refused + next);
    await until("the next one is kept", () => http.journal.kept.length === 1);
  });
});

test("the histogram puts a duration into the first bucket whose bound it does not reach", () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e6, noNaN: true }), (elapsedMs) => {
      const histogram = new LatencyHistogram();
      histogram.observe(elapsedMs);
      const first = histogram.lines("x").find((line) => line.endsWith(" 1")) as string;
      const bound = Number(/le="([^"]+)"/.exec(first)?.[1]?.replace("+Inf", "Infinity")) * 1000;
      expect(elapsedMs).toBeLessThan(bound);
      if (bound < 25_000) expect(elapsedMs).toBeGreaterThanOrEqual(bound === 0.1 ? 0 : bound / 2 - 1e-9);
    }),
  );
});

describe("/api/intents", () => {
  const json = { "content-type": "application/json" };
  const put = (http: Harness, label: string, body: unknown, headers: Record<string, string> = json) =>
    fetch(`${http.url}/api/intents/${label}`, {
      method: "PUT",
      headers,
      body: typeof body === "string" ? body : JSON.stringify(body),
    });

  test("keeps examples under any label, lists them, and lets them go", async () => {
    await using http = start();
    const label = "Plano / cancelar ção";
    const path = encodeURIComponent(label);
    const kept = await put(http, path, { examples: ["a", "b"] });
    expect([kept.status, await kept.json()]).toEqual([
      200,
      { label, examples: 2, in_force: true, threshold: 0.4 },
    ]);
    const listed = await (await fetch(`${http.url}/api/intents`)).json();
    expect(listed).toEqual({
      intents: [{ label, examples: ["a", "b"] }],
      state: "ready",
      detail: "",
      threshold: 0.4,
      accuracy: 0.9,
      answered: 0.8,
      examples_without_vector: 0,
    });
    const one = await fetch(`${http.url}/api/intents/${path}`);
    expect(await one.json()).toEqual({ label, examples: ["a", "b"] });
    const gone = await fetch(`${http.url}/api/intents/${path}`, { method: "DELETE" });
    expect([gone.status, await gone.json()]).toEqual([
      200,
      { label, examples: 0, in_force: true, threshold: 0.4 },
    ]);
    const missing = await fetch(`${http.url}/api/intents/${path}`, { method: "DELETE" });
    await problem(missing, 404, "not_found");
    expect(http.server.metrics.requests()).toContainEqual({
      route: "/api/intents/LABEL",
      status: "2xx",
      count: 3,
    });
  });

  test("says 202 where a change is kept and not in force yet", async () => {
    await using http = start();
    http.intents.inForce = false;
    const kept = await put(http, "a", { examples: ["x"] });
    expect([kept.status, ((await kept.json()) as { in_force: boolean }).in_force]).toEqual([202, false]);
  });

  test("refuses with a reason what it cannot take, and keeps nothing of it", async () => {
    await using http = start();
    const cases: [label: string, body: unknown, status: number, code: string, detail: RegExp][] = [
      ["a", "{", 400, "malformed", /no JSON/],
      ["a", [], 422, "invalid_body", /examples/],
      ["a", {}, 422, "invalid_body", /examples/],
      ["a", { examples: "x" }, 422, "invalid_body", /no list/],
      ["a", { examples: [] }, 422, "invalid_body", /no examples/],
      ["a", { examples: ["x", 1] }, 422, "invalid_body", /examples\.1: .*no string/],
      ["a", { examples: [" "] }, 422, "invalid_body", /empty/],
      ["a", '{"examples":["\\ud800"]}', 422, "invalid_body", /half/],
      ["a", { examples: ["x".repeat(201)] }, 422, "invalid_body", /more than 200 characters/],
      ["a", { examples: Array(21).fill("x") }, 422, "invalid_body", /more than 20 examples/],
      ["a", { examples: ["x"], other: 1 }, 422, "invalid_body", /other|object/],
      ["a", `{"examples":["${"x".repeat(1_100_000)}"]}`, 413, "too_large", /1048576 bytes/],
      ["", { examples: ["x"] }, 400, "bad_parameter", /label/],
      ["%ff", { examples: ["x"] }, 400, "bad_parameter", /percent-encoded/],
      ["%20a", { examples: ["x"] }, 400, "bad_parameter", /cannot be/],
      ["a%0Ab", { examples: ["x"] }, 400, "bad_parameter", /cannot be/],
      ["x".repeat(129), { examples: ["x"] }, 400, "bad_parameter", /cannot be/],
      ["a?b=c", { examples: ["x"] }, 400, "bad_parameter", /no parameter/],
    ];
    for (const [label, body, status, code, detail] of cases) {
      const refused = await put(http, label, body);
      const said = await problem(refused, status, code);
      expect(said.detail).toMatch(detail);
    }
    const text = await put(http, "a", { examples: ["x"] }, { "content-type": "text/plain" });
    await problem(text, 415, "unsupported_media_type");
    const packed = await put(http, "a", { examples: ["x"] }, { "content-encoding": "gzip" });
    await problem(packed, 415, "unsupported_media_type");
    http.intents.refusal = "too many";
    const refused = await put(http, "a", { examples: ["x"] });
    expect((await problem(refused, 422, "invalid_body")).detail).toBe("too many");
    const method = await fetch(`${http.url}/api/intents/a`, { method: "POST" });
    expect([method.status, method.headers.get("allow")]).toEqual([405, "GET, HEAD, PUT, DELETE, OPTIONS"]);
    expect(http.intents.kept.size).toBe(0);
  });

  test("changes nothing while the gateway takes nothing, or the journal fails", async () => {
    await using http = start();
    http.pipeline.refusal = { code: "disk_full", detail: "no room", retryAfterSeconds: 5 };
    const refused = await put(http, "a", { examples: ["x"] });
    await problem(refused, 503, "disk_full");
    http.pipeline.refusal = null;
    http.intents.failWith = failure("journal_failed", "broken");
    const failed = await put(http, "a", { examples: ["x"] });
    await problem(failed, 503, "journal_failed");
    expect((await fetch(`${http.url}/api/intents`)).status).toBe(200);
  });
});
