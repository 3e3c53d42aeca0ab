import { expect, setDefaultTimeout, test } from "bun:test";
import { join, resolve } from "node:path";
import { Gateway, ringHead, TempFolder, until } from "./gateway.ts";
import { LlmStub } from "./llm-stub.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "../..");

test("demo sends Portuguese conversations at once, a follower shows them, and SIGINT ends it with 0", async () => {
  using folder = new TempFolder();
  await using gateway = await Gateway.start(folder, { args: ["demo"] });
  await until("the ring exists", () => ringHead(folder.ring) !== null);
  const follower = Bun.spawn([join(ROOT, ".venv/bin/python"), join(ROOT, "consumer.py"), "--follow"], {
    env: { CS_PHYSICS_PATH: folder.ring, PYTHONDONTWRITEBYTECODE: "1", PYTHONUNBUFFERED: "1" },
    stdout: "pipe",
  });
  let shown = "";
  const reading = (async () => {
    for await (const chunk of follower.stdout) shown += new TextDecoder().decode(chunk);
  })();
  await until("three frames are shown", () => (shown.match(/\n/g)?.length ?? 0) >= 3);
  expect(shown).toMatch(/UserMessage|AgentReply/);
  const page = await gateway.json<{ events: { message: string; enrichment: unknown }[] }>(
    "/api/events?limit=1000",
  );
  expect(page.events.map((event) => event.message).join(" ")).toMatch(/fatura|seguro|cart[aã]o|plano/i);
  follower.kill("SIGINT");
  expect(await follower.exited).toBe(0);
  await reading;
  gateway.process.kill("SIGINT");
  expect(await gateway.exited()).toBe(0);
});

test("demo and the endpoint on this machine are reached although the environment names a proxy", async () => {
  const proxied: string[] = [];
  await using proxy = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: (request) => {
      proxied.push(request.url);
      return new Response("<html>access denied</html>", { status: 403 });
    },
  });
  await using endpoint = await LlmStub.start();
  using folder = new TempFolder();
  const url = `http://127.0.0.1:${proxy.port}`;
  await using gateway = await Gateway.start(folder, {
    args: ["demo", "--llm-base-url", endpoint.baseUrl],
    env: { HTTP_PROXY: url, http_proxy: url, ALL_PROXY: url },
  });
  await until("an event is there", async () => {
    const page = await gateway.json<{ events: unknown[] }>("/api/events?limit=5");
    return page.events.length > 0;
  });
  await until("the endpoint is found", () => endpoint.looks > 0);
  expect(proxied).toEqual([]);
});
