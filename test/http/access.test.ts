/** Who may call, and whose pages may not. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { hostname } from "node:os";
import { guardOf } from "../../src/http/access.ts";
import { problem, raw, start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("who may call", () => {
  const ask = (port: number, path: string, headers: string) =>
    raw(port, `GET ${path} HTTP/1.1\r\n${headers}\r\n\r\n`);

  test("without a token the Host must be loopback", async () => {
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

  test("without a token a page of another site or origin is refused, whatever it asks for and how", async () => {
    await using http = start();
    const { port } = http.server;
    const foreign = [
      ...["cross-site", "same-site", "SAME-SITE", "", "unheard-of"].map((site) => `Sec-Fetch-Site: ${site}`),
      "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image",
      "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate",
      "Referer: https://evil.example/",
      "Referer: http://localhost:3000/",
      "Referer: http://localhost.evil.example/",
      "Origin: https://evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    const paths = [
      "/health",
      "/ready",
      "/metrics",
      "/api/events",
      "/api/events/1",
      "/api/config",
      "/nothing",
      "/ingest",
    ];
    for (const line of foreign) {
      for (const path of paths) {
        const answer = await ask(port, path, `Host: localhost\r\n${line}`);
        expect([line, path, answer]).toMatchObject([line, path, { status: 403 }]);
      }
      for (const method of ["POST", "PUT", "OPTIONS", "DELETE"]) {
        const head = `${method} /ingest HTTP/1.1\r\nHost: localhost\r\n${line}\r\nContent-Length: 2\r\n\r\n{}`;
        expect([line, method, await raw(port, head)]).toMatchObject([line, method, { status: 403 }]);
      }
    }
    expect(http.journal.kept).toHaveLength(0);
    const own = [
      "Sec-Fetch-Site: none",
      "Sec-Fetch-Site: same-origin",
      `Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost:${port}\r\nReferer: http://localhost:${port}/page`,
      `Referer: http://localhost:${port}/page`,
      `Referer: http://LOCALHOST:${port}`,
    ];
    for (const line of own) {
      const answer = await ask(port, "/health", `Host: localhost:${port}\r\n${line}`);
      expect([line, answer]).toMatchObject([line, { status: 200 }]);
    }
  });

  test("a request without a Host, or with two, is refused from the first one on", async () => {
    for (const head of [
      "",
      "Host:",
      "Host: localhost\r\nHost: evil.example",
      "Host: evil.example\r\nHost: localhost",
    ]) {
      await using http = start();
      for (const method of ["GET", "POST"]) {
        const answer = await raw(
          http.server.port,
          `${method} /ingest HTTP/1.1\r\n${head}\r\nContent-Length: 2\r\n\r\n{}`,
        );
        expect([head, typeof answer === "string" ? answer : answer.status]).not.toEqual([head, 200]);
      }
      expect(http.journal.kept).toHaveLength(0);
    }
  });

  test("every response says that its type is not to be guessed and that it is not to be kept", async () => {
    for (const token of [null, "secret"]) {
      await using http = start({ token });
      const headers = token === null ? {} : { authorization: `Bearer ${token}` };
      const responses = [
        await http.post("{}", { headers }),
        await http.post("{", { headers }),
        ...(await Promise.all(
          [
            "/health",
            "/ready",
            "/metrics",
            "/api/events",
            "/api/frames",
            "/api/schemas",
            "/api/config",
            "/nothing",
          ].flatMap((path) =>
            ["GET", "HEAD", "OPTIONS", "PATCH"].map((method) => fetch(http.url + path, { method, headers })),
          ),
        )),
        await fetch(`${http.url}/api/events`, { headers: { origin: "null" } }),
      ];
      for (const response of responses) {
        const { url, status } = response;
        const shown = [response.headers.get("x-content-type-options"), response.headers.get("cache-control")];
        expect([url, status, shown]).toEqual([url, status, ["nosniff", "no-store"]]);
      }
    }
  });

  test("with --insecure the configured host is allowed, and with a wildcard every address", async () => {
    await using http = start({ host: "0.0.0.0", insecure: true });
    expect(await ask(http.server.port, "/health", "Host: 192.168.1.7:9382")).toMatchObject({ status: 200 });
    expect(await ask(http.server.port, "/health", "Host: rebound.example")).toMatchObject({ status: 403 });
  });

  test("a gateway with a token asks for it everywhere but at /health and /ready, whatever Host and Origin are", async () => {
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
});

describe("the guard", () => {
  const headers = (entries: Record<string, string>): Headers => new Headers(entries);
  const config = { host: "127.0.0.1", token: null, insecure: false };

  test("checks a Host once, and again when another one comes", () => {
    const asked: string[] = [];
    const guard = guardOf({ config, isLoopback: (host) => asked.push(host) > 0 });
    for (const host of ["localhost:1", "localhost:1", "[::1]:1", "LOCALHOST"])
      expect(guard(headers({ host }))).toBeNull();
    expect(asked).toEqual(["localhost", "::1", "localhost"]);
  });

  test("refuses an empty Host before and after a Host that is allowed", () => {
    const guard = guardOf({ config, isLoopback: (host) => host === "localhost" });
    expect(guard(headers({}))).toMatchObject({ code: "forbidden_host" });
    expect(guard(headers({ host: "localhost" }))).toBeNull();
    expect(guard(headers({}))).toMatchObject({ code: "forbidden_host" });
  });

  test("refuses a malformed Host without checking its address", () => {
    const guard = guardOf({ config, isLoopback: () => true });
    for (const host of ["a b", "user@localhost", "localhost:123456", "[::1", "http://localhost"])
      expect(guard(headers({ host }))).toMatchObject({ code: "forbidden_host" });
  });

  test("allows, with --insecure and a wildcard host, every address but no name except the machine's own", () => {
    const open = { ...config, host: "::", insecure: true };
    const guard = guardOf({ config: open, isLoopback: () => false });
    for (const host of ["10.0.0.1", "[fe80::1]", hostname()])
      expect([host, guard(headers({ host }))]).toEqual([host, null]);
    expect(guard(headers({ host: "rebound.example" }))).toMatchObject({ code: "forbidden_host" });
    const closed = guardOf({ config: { ...open, insecure: false }, isLoopback: () => false });
    expect(closed(headers({ host: "10.0.0.1" }))).toMatchObject({ code: "forbidden_host" });
    const named = guardOf({ config: { ...open, host: "Gateway.Lan" }, isLoopback: () => false });
    expect(named(headers({ host: "gateway.lan" }))).toBeNull();
    expect(named(headers({ host: "10.0.0.1" }))).toMatchObject({ code: "forbidden_host" });
  });

  test("ignores Host and Origin if there is a token", () => {
    const guard = guardOf({ config: { ...config, token: "t" }, isLoopback: () => false });
    expect(guard(headers({ authorization: "Bearer t", host: "evil", origin: "http://evil" }))).toBeNull();
    for (const authorization of ["Bearer", "Bearer tt", "Bearer T", "t", "Basic t"])
      expect(guard(headers({ authorization }))).toMatchObject({ code: "unauthorized" });
    expect(guard(headers({}))).toMatchObject({ detail: "the request has no token" });
  });
});
