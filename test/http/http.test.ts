/** The server as a whole: it refuses, drains, stops, and dispatches. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import { failure, feed, get, lines, problem, raw, start, until } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("an event that cannot be accepted", () => {
  test("a refusal of the pipeline is a 503 with its Retry-After", async () => {
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

  test("a stream that is refused in the middle says what was accepted", async () => {
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

  test("a drain ends the wait for an enrichment", async () => {
    await using http = start();
    http.pipeline.silent = true;
    const answer = http.post("{}", { path: "/ingest?wait=enriched" });
    await until("it is kept", () => http.journal.kept.length === 1);
    await Bun.sleep(5);
    http.server.drain();
    expect(await (await answer).json()).toMatchObject({ seq: 1, enrichment: null });
  });

  test("a stop lets requests under way finish, and then nothing listens", async () => {
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

  test("a port in use is a start error of its own", async () => {
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

describe("requests", () => {
  test("a response has the request's id if that is harmless, else a new one", async () => {
    await using http = start();
    const idOf = async (id: string) =>
      (await fetch(`${http.url}/health`, { headers: { "x-request-id": id } })).headers.get("x-request-id");
    expect(await idOf("abc-123")).toBe("abc-123");
    expect(await idOf("x".repeat(129))).toMatch(/^[0-9a-f]{8}-/);
    expect(await idOf("two words")).toMatch(/^[0-9a-f]{8}-/);
    const ids = await Promise.all([http.post("{}"), http.post("{}"), http.post("{")]);
    expect(new Set(ids.map((answer) => answer.headers.get("x-request-id"))).size).toBe(3);
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

  test("a refused body does not disturb the connection's next request", async () => {
    await using http = start();
    const refused = `POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 300000\r\n\r\n${"x".repeat(300_000)}`;
    const next = "POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}";
    await raw(http.server.port, refused + next);
    await until("the next one is kept", () => http.journal.kept.length === 1);
  });
});
