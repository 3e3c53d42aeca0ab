/** Refusals and failures as responses. */
import { expect, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import type { Refused } from "../../src/http/contract.ts";
import { HttpMetrics } from "../../src/http/metrics.ts";
import { Problems, problemText } from "../../src/http/problems.ts";
import { FakeClock } from "../fake-clock.ts";

function setUp() {
  const logged: string[] = [];
  const metrics = new HttpMetrics(["/a", "other"]);
  const clock = new FakeClock();
  const problems = new Problems({
    metrics,
    clock,
    log: (level, message) => logged.push(`${level} ${message}`),
  });
  return { logged, metrics, clock, problems };
}

test("a refusal has its code's status, its text, and the headers that belong to the status", async () => {
  const { problems } = setUp();
  const cases: [refused: Refused, status: number, headers: Record<string, string>][] = [
    [{ code: "unauthorized", detail: "x" }, 401, { "www-authenticate": 'Bearer realm="one_file_gateway"' }],
    [{ code: "method_not_allowed", detail: "x" }, 405, { allow: "GET" }],
    [{ code: "overloaded", detail: "x" }, 503, { "retry-after": "2" }],
    [{ code: "overloaded", detail: "x", retryAfterSeconds: 9 }, 503, { "retry-after": "9" }],
    [{ code: "locked", detail: "x" }, 500, {}],
  ];
  const telling = ["www-authenticate", "allow", "retry-after"];
  for (const [refused, status, headers] of cases) {
    const response = problems.refuse(0, refused, "id-1", "GET");
    expect(response.status).toBe(status);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(response.headers.get("x-request-id")).toBe("id-1");
    const sent = telling.flatMap((name) => {
      const value = response.headers.get(name);
      return value === null ? [] : [[name, value]];
    });
    expect(Object.fromEntries(sent)).toEqual(headers);
    expect(await response.text()).toBe(problemText(refused));
  }
});

test("the text of a problem has the members of RFC 9457, followed by those of its refusal", () => {
  expect(problemText({ code: "not_found", detail: "no x", members: { accepted: 0 } })).toBe(
    '{"type":"urn:one-file-gateway:problem:not_found","title":"There is nothing here","status":404,' +
      '"code":"not_found","detail":"no x","hint":"the README lists the routes under \\"HTTP\\"","accepted":0}',
  );
});

test("every refusal of a request says what to do next, by its own hint or that of its code", () => {
  const codes: Refused["code"][] = [
    "malformed",
    "not_an_event",
    "too_deep",
    "too_large",
    "bad_parameter",
    "draining",
  ];
  for (const code of [...codes, "method_not_allowed", "not_found"] as const)
    expect(JSON.parse(problemText({ code, detail: "no" })).hint).toEqual(expect.stringMatching(/.{20}/));
  expect(JSON.parse(problemText({ code: "malformed", detail: "no", hint: "its own" })).hint).toBe("its own");
});

test("a refusal is counted by its route and by its code", () => {
  const { problems, metrics } = setUp();
  problems.refuse(1, { code: "not_found", detail: "x" }, "id");
  expect(metrics.requests()).toEqual([{ route: "other", status: "4xx", count: 1 }]);
  expect(metrics.refusals()).toEqual([{ code: "not_found", count: 1 }]);
});

test("each code of a 503 is logged once a second at most, and 4xx never", async () => {
  const { problems, logged, clock } = setUp();
  const refuse = (code: Refused["code"]) => problems.refuse(0, { code, detail: "why" }, "id");
  refuse("overloaded");
  refuse("overloaded");
  refuse("disk_full");
  refuse("not_found");
  expect(logged.map((line) => line.split(":")[1])).toEqual([
    " refused with overloaded",
    " refused with disk_full",
  ]);
  await clock.advance(999);
  refuse("overloaded");
  expect(logged).toHaveLength(2);
  await clock.advance(1);
  refuse("overloaded");
  expect(logged).toHaveLength(3);
});

test("a GatewayError gives its detail and hint, an unexpected failure only the request's id", async () => {
  const { problems, logged, metrics } = setUp();
  const known = new GatewayError({
    ...{ code: "journal_failed", operation: "journal: append", object: "/secret/path" },
    ...{ detail: "no room", hint: "make some" },
  });
  const told = await problems.failed(0, known, "id-1").text();
  expect(JSON.parse(told)).toMatchObject({ status: 503, detail: "no room", hint: "make some" });
  expect(told).not.toContain("/secret/path");
  const bug = await problems.failed(0, new TypeError("a secret"), "id-2").text();
  expect(JSON.parse(bug)).toMatchObject({ status: 500, code: "internal" });
  expect(bug).toContain("id-2");
  expect(bug).not.toContain("a secret");
  expect(logged.some((line) => line.startsWith("error") && line.includes("a secret"))).toBeTrue();
  expect(metrics.aborted).toBe(0);
});

test("a request whose client closed the connection is counted as aborted and nothing else", () => {
  const { problems, logged, metrics } = setUp();
  const response = problems.failed(0, new DOMException("gone", "AbortError"), "id");
  expect(response.status).toBe(400);
  expect([metrics.aborted, metrics.refusals().length, logged.length]).toEqual([1, 0, 0]);
});
