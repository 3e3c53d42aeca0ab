/** The routes of labelled examples. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { failure, type Harness, problem, start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("/api/intents", () => {
  const json = { "content-type": "application/json" };
  const put = (http: Harness, label: string, body: unknown, headers: Record<string, string> = json) =>
    fetch(`${http.url}/api/intents/${label}`, {
      method: "PUT",
      headers,
      body: typeof body === "string" ? body : JSON.stringify(body),
    });

  test("keeps examples under any label, lists them and deletes them", async () => {
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

  test("responds with 202 if a change is kept but not yet in force", async () => {
    await using http = start();
    http.intents.inForce = false;
    const kept = await put(http, "a", { examples: ["x"] });
    expect([kept.status, ((await kept.json()) as { in_force: boolean }).in_force]).toEqual([202, false]);
  });

  test("refuses what it cannot accept with a reason, and keeps nothing of it", async () => {
    await using http = start();
    const cases: [label: string, body: unknown, status: number, code: string, detail: RegExp][] = [
      ["a", "{", 400, "malformed", /not JSON/],
      ["a", [], 422, "invalid_body", /examples/],
      ["a", {}, 422, "invalid_body", /examples/],
      ["a", { examples: "x" }, 422, "invalid_body", /not a list/],
      ["a", { examples: [] }, 422, "invalid_body", /no examples/],
      ["a", { examples: ["x", 1] }, 422, "invalid_body", /examples\.1: .*not a string/],
      ["a", { examples: [" "] }, 422, "invalid_body", /empty/],
      ["a", '{"examples":["\\ud800"]}', 422, "invalid_body", /half/],
      ["a", { examples: ["x".repeat(201)] }, 422, "invalid_body", /more than 200 characters/],
      ["a", { examples: Array(21).fill("x") }, 422, "invalid_body", /more than 20 examples/],
      ["a", { examples: ["x"], other: 1 }, 422, "invalid_body", /other|object/],
      ["a", `{"examples":["${"x".repeat(1_100_000)}"]}`, 413, "too_large", /1048576 bytes/],
      ["", { examples: ["x"] }, 400, "bad_parameter", /label/],
      ["%ff", { examples: ["x"] }, 400, "bad_parameter", /percent-encoded/],
      ["%20a", { examples: ["x"] }, 400, "bad_parameter", /not allowed/],
      ["a%0Ab", { examples: ["x"] }, 400, "bad_parameter", /not allowed/],
      ["x".repeat(129), { examples: ["x"] }, 400, "bad_parameter", /not allowed/],
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

  test("changes nothing while the gateway accepts nothing or the journal fails", async () => {
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
