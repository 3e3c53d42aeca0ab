/** Labelled examples in the executable: they survive a restart, take effect again, and are bounded. */
import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { Gateway, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

let folder = new TempFolder();
afterEach(() => {
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

interface Listed {
  intents: { label: string; examples: string[] }[];
  state: string;
  threshold: number | null;
  accuracy: number | null;
}

const EXAMPLES: Record<string, string[]> = {
  "Cancelar plano": ["quero cancelar meu plano", "cancelar plano agora", "como cancelo o plano?"],
  CardArrival: ["meu cartão não chegou", "onde está meu cartão", "o cartão ainda não chegou"],
};

async function list(gateway: Gateway): Promise<Listed> {
  return (await (await gateway.fetch("/api/intents")).json()) as Listed;
}

test("examples are learned before the response, and again after SIGKILL", async () => {
  const args = ["--db-path", folder.file("events.duckdb"), "--embedder", "hashing"];
  const first = await Gateway.start(folder, { args });
  expect(await list(first)).toMatchObject({ intents: [], threshold: null });
  await until("the embedder is chosen", async () => (await list(first)).state === "ready");
  for (const [label, examples] of Object.entries(EXAMPLES)) {
    const kept = await first.fetch(`/api/intents/${encodeURIComponent(label)}`, {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ examples }),
    });
    expect([kept.status, await kept.json()]).toMatchObject([200, { label, examples: 3, in_force: true }]);
  }
  const before = await list(first);
  expect(before.threshold).toBeGreaterThan(0);
  expect(before.accuracy).toBe(1);
  first.process.kill("SIGKILL");
  await first.process.exited;
  const second = await Gateway.start(folder, { args });
  await until("the examples are learned again", async () => (await list(second)).threshold !== null);
  expect(await list(second)).toEqual(before);
  expect((await second.post({ message: "quero cancelar o plano" })).status).toBe(200);
  const gone = await second.fetch("/api/intents/CardArrival", { method: "DELETE" });
  expect(gone.status).toBe(200);
  expect((await list(second)).intents.map(({ label }) => label)).toEqual(["Cancelar plano"]);
  const metrics = await (await second.fetch("/metrics")).text();
  expect(metrics).toContain("gateway_intent_examples 3");
  await second.stop();
});
