import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { type GuardedFetchOptions, guardedFetch } from "../../src/llm/guarded-fetch.ts";

setDefaultTimeout(60_000);

const servers: ReturnType<typeof Bun.serve>[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop(true);
});

/** A server that answers with its name. */
function serving(name: string, answer: (request: Request) => Response = () => new Response(name)) {
  const seen: string[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request) => {
      seen.push(request.url);
      return answer(request);
    },
  });
  servers.push(server);
  return { seen, port: server.port, url: `http://127.0.0.1:${server.port}` };
}

function opened(given: Partial<GuardedFetchOptions> = {}): typeof fetch {
  const lookup = async (): Promise<string[]> => {
    throw new Error("no such name");
  };
  return guardedFetch({ fetch, env: {}, lookup, ownAddresses: () => [], ...given });
}

test("a request to this machine is never sent to a proxy, and one to another host is", async () => {
  const proxy = serving("proxy");
  const here = serving("here");
  // Bun reads these on its own; the variables of the process must not matter.
  const before = process.env.HTTP_PROXY;
  process.env.HTTP_PROXY = proxy.url;
  try {
    for (const env of [{ HTTP_PROXY: proxy.url }, { http_proxy: proxy.url }, { ALL_PROXY: proxy.url }, {}]) {
      const guarded = opened({ env });
      for (const host of ["127.0.0.1", "localhost", "127.0.0.2", "0.0.0.0"]) {
        const reply = await guarded(`http://${host}:${here.port}/x`).catch((error: Error) => error);
        // On some systems the server does not listen on every address of the loopback.
        if (reply instanceof Response) expect(await reply.text()).toBe("here");
      }
    }
    expect(proxy.seen).toEqual([]);
    const guarded = opened({ env: { HTTP_PROXY: proxy.url, NO_PROXY: "10.0.0.0/8" } });
    expect(await (await guarded("http://model.invalid/x")).text()).toBe("proxy");
  } finally {
    if (before === undefined) delete process.env.HTTP_PROXY;
    else process.env.HTTP_PROXY = before;
  }
});

test("a name that resolves to this machine is this machine, and is looked up once", async () => {
  const proxies: unknown[] = [];
  const base = (async (_: unknown, init: { proxy?: unknown }) => {
    proxies.push(init.proxy);
    return new Response();
  }) as unknown as typeof fetch;
  const looked: string[] = [];
  const addresses: Record<string, string[]> = {
    alias: ["127.0.1.1"],
    lan: ["192.168.1.7"],
    other: ["192.168.1.8"],
  };
  const guarded = opened({
    fetch: base,
    env: { HTTP_PROXY: "http://proxy:1" },
    lookup: async (host) => {
      looked.push(host);
      return addresses[host] ?? [];
    },
    ownAddresses: () => ["192.168.1.7"],
  });
  for (const host of ["alias", "alias", "lan", "192.168.1.7", "other", "unknown"])
    await guarded(`http://${host}/`);
  expect(proxies).toEqual([false, false, false, false, "http://proxy:1", "http://proxy:1"]);
  expect(looked).toEqual(["alias", "lan", "other", "unknown"]);
});

test("no redirect is followed, and its target is named without its secrets", async () => {
  const other = serving("other");
  for (const status of [301, 302, 303, 307, 308]) {
    const from = serving("from", () => {
      return new Response(null, { status, headers: { location: `${other.url}/v2?key=hidden` } });
    });
    const error = await opened()(`${from.url}/v1`, { method: "POST", body: "an event" }).catch(
      (thrown) => thrown,
    );
    expect(String(error)).toContain(`it redirects to ${other.url}/v2, which is not followed`);
  }
  for (const location of ["file:///etc/passwd", "data:text/plain,x", "not a url", "/loop"]) {
    const from = serving("from", () => new Response(null, { status: 307, headers: { location } }));
    await expect(opened()(from.url)).rejects.toThrow("it redirects to");
  }
  expect(other.seen).toEqual([]);
});

test("a caller that handles redirects sees them", async () => {
  const from = serving("from", () => new Response(null, { status: 302, headers: { location: "/next" } }));
  expect((await opened()(from.url, { redirect: "manual" })).status).toBe(302);
});
