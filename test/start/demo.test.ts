import { expect, setDefaultTimeout, test } from "bun:test";
import { playDemo } from "../../src/start/demo.ts";

setDefaultTimeout(60_000);

/** Plays against responses in order, the last one again and again, until it ends or `responses` were used so often. */
async function played(...responses: (() => Response)[]) {
  const lines: string[] = [];
  const sent: { url: string; authorization: string | null }[] = [];
  let stopping = false;
  const fetching = (async (url: URL, init: RequestInit) => {
    sent.push({ url: url.href, authorization: new Headers(init.headers).get("authorization") });
    if (sent.length > 40) stopping = true;
    return (responses.length > 1 ? responses.shift() : responses[0])?.();
  }) as unknown as typeof fetch;
  await playDemo({
    url: "http://127.0.0.1:9/",
    token: "sesame",
    log: (level, line) => lines.push(`${level} ${line}`),
    fetch: fetching,
    clock: { sleep: async () => {} },
    isStopping: () => stopping,
  });
  return { lines, sent };
}

const received = (): Response => Response.json({ status: "received", seq: 1 });

test("the demo logs an event only if the gateway has received it", async () => {
  const page = (): Response => new Response("<html>Squid: access denied</html>", { status: 403 });
  const { lines } = await played(received, page);
  expect(lines).toHaveLength(2);
  expect(lines[0]).toMatch(/^info demo \w+: /);
  expect(lines[1]).toMatch(
    /^error demo: send an event to http:\/\/127.0.0.1:9\/: the response is 403: not one of/,
  );
});

test("a page that says 200 is no receipt", async () => {
  const { lines } = await played(() => new Response("<html>Welcome</html>"));
  expect(lines.join()).toMatch(/^error .*the response is 200: not one of the gateway; the demo has ended/);
});

test("the demo sends the token, and shows why the gateway refuses its events", async () => {
  const refused = (): Response =>
    Response.json({ code: "unauthorized", detail: "the token is wrong" }, { status: 401 });
  const { lines, sent } = await played(refused);
  expect(sent).toEqual([{ url: "http://127.0.0.1:9/ingest", authorization: "Bearer sesame" }]);
  expect(lines.join()).toContain("401: the token is wrong");
});

test("the demo goes on after refusals that pass, and ends after twenty in a row", async () => {
  const busy = (): Response => Response.json({ detail: "too many wait" }, { status: 503 });
  const broken = (): Response => {
    throw new TypeError("connection refused");
  };
  const passing = await played(busy, broken, received, busy);
  expect(passing.lines.map((line) => line.split(" ")[0])).toEqual(["warn", "info", "warn", "error"]);
  expect(passing.sent).toHaveLength(3 + 20);
});

test("the demo ends silently when the gateway stops", async () => {
  let calls = 0;
  const { lines } = await played(() => {
    calls++;
    return calls > 40 ? new Response("", { status: 503 }) : received();
  });
  expect(lines.every((line) => line.startsWith("info"))).toBe(true);
});
