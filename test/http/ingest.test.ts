/** POST /ingest as its senders see it. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import fc from "fast-check";
import { feed, lines, problem, raw, start, until } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

const MIB = 1024 * 1024;

describe("one event", () => {
  test("has the documented response, byte for byte", async () => {
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
    const repeat = await http.post('{"type":"UserMessage","id":"a\\"b","message":"Olá"}');
    expect(await repeat.json()).toMatchObject({ seq: 1, duplicate: true });
  });

  test("gets the type of ?type= if it has none", async () => {
    await using http = start();
    const typed = await http.post("{}", { path: "/ingest?type=Pedido%20novo&other=1" });
    expect(await typed.json()).toMatchObject({ event_type: "Pedido novo" });
    const own = await http.post('{"type":"Own"}', { path: "/ingest?type=Pedido" });
    expect(await own.json()).toMatchObject({ event_type: "Own" });
    await problem(await http.post("{}", { path: `/ingest?type=${"x".repeat(2000)}` }), 400, "bad_parameter");
  });

  test("takes its own key before webhook-id before Idempotency-Key, and a plain id after all", async () => {
    await using http = start();
    const headers = { "idempotency-key": "one", "webhook-id": "hook" };
    await http.post("{}", { headers });
    await http.post("{}", { headers: { "idempotency-key": "one" } });
    await http.post('{"id":7,"idempotency_key":"own"}', { headers });
    expect(http.journal.kept.map(({ key }) => key)).toEqual([
      "webhook-id:hook",
      "idempotency-key:one",
      "idempotency_key:own",
    ]);
    expect(await (await http.post('{"id":7}', { headers })).json()).toMatchObject({ duplicate: true });
    expect(await (await http.post("{}", { headers })).json()).toMatchObject({ seq: 1, duplicate: true });
    await problem(
      await http.post("{}", { headers: { "webhook-id": "k".repeat(1025) } }),
      400,
      "bad_parameter",
    );
  });

  test("with a plain id is a repeat only if its bytes are the same, and never with ?dedup=none", async () => {
    await using http = start();
    const post = async (body: string, query = ""): Promise<unknown> =>
      (await http.post(body, { path: `/ingest${query}` })).json();
    const created = '{"id":1,"event":"order/created"}';
    expect(await post(created)).toMatchObject({ seq: 1, id: "1", duplicate: false });
    expect(await post('{"id":1,"event":"order/paid"}')).toMatchObject({ seq: 2, duplicate: false });
    expect(await post(` ${created}\n`)).toMatchObject({ seq: 1, id: "1", duplicate: true });
    expect(await post(created, "?dedup=none")).toMatchObject({ seq: 3, duplicate: false });
    expect(await post('{"idempotency_key":"1"}', "?dedup=none")).toMatchObject({ seq: 4 });
    expect(await post('{"idempotency_key":"1"}', "?dedup=none")).toMatchObject({ seq: 4, duplicate: true });
    const lines = await http.postLines(`${created}\n{"id":1,"event":"order/packed"}\n${created}\n`);
    expect(await lines.json()).toMatchObject({ accepted: 1, duplicates: 2, first_seq: 5, last_seq: 5 });
    await problem(await http.post("{}", { path: "/ingest?dedup=all" }), 400, "bad_parameter");
  });

  test("waits for its enrichment with ?wait=enriched, and then has the brain's type", async () => {
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
  test("has the documented response, which names each refused element", async () => {
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

  test("without any event is 422, and so is an empty one", async () => {
    await using http = start();
    const body = await problem(await http.post("[1,2]"), 422, "not_an_event");
    expect(body).toMatchObject({ accepted: 0, rejected: 2, first_seq: null });
    await problem(await http.post("[]"), 422, "not_an_event");
    await problem(await http.postLines("\n\n"), 422, "not_an_event");
    expect(http.journal.kept).toHaveLength(0);
  });

  test("that consists of repeats is 200", async () => {
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

  test("names at most 100 errors and counts all of them", async () => {
    await using http = start();
    const answer = await http.post(`[{},${Array(250).fill("0").join(",")}]`);
    const body = (await answer.json()) as { rejected: number; errors: { index: number }[] };
    expect(body.rejected).toBe(250);
    expect(body.errors.map(({ index }) => index)).toEqual(Array.from({ length: 100 }, (_, n) => n + 1));
  });

  test("is appended in its order, in groups of at most 1,024 events", async () => {
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
  test("with one bad line in 1,000 keeps the 999 others and names the bad one", async () => {
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

  test("is accepted while it arrives, not at its end", async () => {
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

  test("is kept up to its last whole line if the client closes the connection", async () => {
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

  test("a Content-Type, charset or Content-Encoding that is not supported is 415", async () => {
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

  test("an array of more than 64 MiB is 413, with or without a Content-Length", async () => {
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

  test("an array of 60 MiB is accepted while another connection is being answered", async () => {
    await using http = start();
    http.journal.keepBodies = false;
    const element = `{"type":"UserMessage","message":"${"olá, bom dia ".repeat(20)}","n":[1,2,{"x":null}]}`;
    const count = Math.floor((60 * MIB) / (Buffer.byteLength(element) + 1));
    // The client is another process, so that its own work does not hold up the server's thread.
    const script = `const [url, size, element] = process.argv.slice(1);
      const body = Buffer.from("[" + Array(Number(size)).fill(element).join(",") + "]");
      const answer = await fetch(url, { method: "POST", body, headers: { "content-type": "application/json" } });
      console.log(answer.status, await answer.text());`;
    const child = Bun.spawn([process.execPath, "-e", script, `${http.url}/ingest`, String(count), element]);
    const groups = count / 1024;
    /** How many groups had been appended when each ping was answered. */
    const pings: number[] = [];
    while (http.journal.appends.length < groups) {
      await (await fetch(`${http.url}/health`)).text();
      pings.push(http.journal.appends.length);
    }
    const printed = await new Response(child.stdout).text();
    expect(printed).toStartWith(`200 {"status":"received","accepted":${count},"duplicates":0,"rejected":0`);
    // bench/stall.ts measures how long pings wait. This test only shows that they are answered in between.
    const meanwhile = new Set(pings.filter((appended) => appended > 0 && appended < groups));
    expect(meanwhile.size).toBeGreaterThan(10);
  });

  test("an array without any event does not keep other connections waiting either", async () => {
    await using http = start();
    const count = 1_500_000;
    const answer = http.post(`[${"0,".repeat(count - 1)}0]`);
    const pings: number[] = [];
    while (http.server.metrics.rejectedEvents < count) {
      await (await fetch(`${http.url}/health`)).text();
      pings.push(http.server.metrics.rejectedEvents);
    }
    expect((await answer).status).toBe(422);
    const meanwhile = new Set(pings.filter((rejected) => rejected > 0 && rejected < count));
    expect(meanwhile.size).toBeGreaterThan(3);
  });

  test("a large body waits for room while others are read, unread itself, and small events are taken", async () => {
    await using http = start();
    const sockets = [64, 64, 31].map((mib) => {
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
    while ((await inFlight()) < 159 * MIB) await Bun.sleep(5);
    let status = 0;
    const large = http.post(`[${" ".repeat(2 * MIB)}{}]`).then((response) => {
      status = response.status;
    });
    const line = `{"message":"${"x".repeat(2 * MIB)}"}`;
    const long = http.postLines(`{}\n${line}\n`);
    expect((await http.post("{}")).status).toBe(200);
    expect(await inFlight()).toBeLessThanOrEqual(160 * MIB);
    expect(status).toBe(0);
    for (const socket of sockets) socket.destroy();
    await large;
    expect(status).toBe(200);
    expect(await (await long).json()).toMatchObject({ accepted: 2 });
    while ((await inFlight()) > 0) await Bun.sleep(5);
  });

  test("many NDJSON bodies with long lines are taken within the bound, one after the other if need be", async () => {
    await using http = start();
    http.journal.keepBodies = false;
    const line = `{"message":"${"x".repeat(7 * MIB)}"}\n`;
    const responses = await Promise.all(Array.from({ length: 24 }, () => http.postLines(line + line)));
    for (const response of responses) expect(await response.json()).toMatchObject({ accepted: 2 });
    expect(http.journal.kept).toHaveLength(48);
  });
});
