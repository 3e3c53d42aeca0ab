/** The table of routes and what is derived from it. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { OTHER_INDEX, ROUTE_NAMES, ROUTES, type Route, routesAt, targetOf } from "../../src/http/routes.ts";
import { start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

const rows: readonly Route[] = ROUTES;

describe("the table of routes", () => {
  test("has each method of a path once, and all rows of a path agree on the token", () => {
    const keys = rows.map(({ method, path }) => `${method} ${path}`);
    expect(new Set(keys).size).toBe(keys.length);
    for (const { path, token } of rows) expect(routesAt(path)?.routes.token).toBe(token);
    for (const { summary } of rows) expect(summary).toEndWith(".");
  });

  test("asks for a token everywhere but at /health and /ready", () => {
    expect(rows.filter(({ token }) => !token).map(({ path }) => path)).toEqual(["/health", "/ready"]);
  });

  test("gives /metrics the names of its routes in a fixed order", () => {
    expect(ROUTE_NAMES).toEqual([
      "/ingest",
      "/api/events",
      "/api/events/SEQ",
      "/api/frames",
      "/api/labels",
      "/api/schemas",
      "/api/schemas/NAME",
      "/api/chat",
      "/api/config",
      "/api/intents",
      "/api/intents/LABEL",
      "/health",
      "/ready",
      "/metrics",
      "other",
    ]);
    expect(ROUTE_NAMES[OTHER_INDEX]).toBe("other");
  });

  test("gives the Allow header of a path: its methods in their order, HEAD beside GET, OPTIONS last", () => {
    const allow = (path: string): string | undefined => routesAt(path)?.routes.allow;
    expect(allow("/ingest")).toBe("POST, OPTIONS");
    expect(allow("/metrics")).toBe("GET, HEAD, OPTIONS");
    expect(allow("/api/intents/x")).toBe("GET, HEAD, PUT, DELETE, OPTIONS");
  });

  test("is in the README, row by row", () => {
    const readme = readFileSync(join(import.meta.dir, "../../README.md"), "utf8");
    const table = readme.slice(readme.indexOf("\n## HTTP"), readme.indexOf("\n## The frame"));
    // A cell lists several methods of one path as "`GET`, `PUT /path`".
    const missing = rows.filter(
      ({ method, path }) => !new RegExp(`\`${method}(\`, .*)? ?${path}\``).test(table),
    );
    expect(missing.map(({ method, path }) => `${method} ${path}`)).toEqual([]);
  });

  test("decides which requests need the token of a gateway that has one", async () => {
    await using http = start({ token: "secret" });
    for (const { method, path, token } of rows) {
      const response = await fetch(http.url + path, { method });
      expect(`${method} ${path} ${response.status === 401}`).toBe(`${method} ${path} ${token}`);
    }
  });

  test("decides which methods a path takes", async () => {
    await using http = start();
    for (const path of new Set(rows.map((row) => row.path))) {
      for (const method of ["GET", "POST", "PUT", "DELETE", "PATCH"]) {
        const response = await fetch(http.url + path, { method });
        const known = rows.some((row) => row.path === path && row.method === method);
        expect(`${method} ${path} ${response.status === 405}`).toBe(`${method} ${path} ${!known}`);
      }
    }
  });
});

describe("the lookup of a path", () => {
  test("takes an exact path before one with a parameter", () => {
    expect(routesAt("/api/events")).toMatchObject({ parameter: "", routes: { index: 1 } });
    expect(routesAt("/api/events/12")).toMatchObject({ parameter: "12", routes: { index: 2 } });
  });

  test("gives a parameter the rest of the path, with its slashes, as it was sent", () => {
    expect(routesAt("/api/schemas/a/b%2Fc")?.parameter).toBe("a/b%2Fc");
    expect(routesAt("/api/intents/")?.parameter).toBe("");
  });

  test("finds nothing at a path that is not a route", () => {
    for (const path of ["/", "/ingest/", "/api", "/api/eventsx", "/health/", "/metrics/x"])
      expect(routesAt(path)).toBeNull();
  });
});

test("the target of a request is its path and query, without host and fragment", () => {
  const cases: [url: string, path: string, query: string][] = [
    ["http://localhost:1/api/events?limit=1&q=a?b", "/api/events", "limit=1&q=a?b"],
    ["http://localhost:1", "/", ""],
    ["http://localhost:1/x#y?z", "/x", ""],
    ["/api/frames?after=1", "/api/frames", "after=1"],
    ["/", "/", ""],
  ];
  for (const [url, path, query] of cases) expect(targetOf(url)).toEqual({ path, query });
});
