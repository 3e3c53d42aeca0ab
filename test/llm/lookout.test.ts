import { expect, test } from "bun:test";
import { Lookout } from "../../src/llm/lookout.ts";
import { FakeClock } from "../fake-clock.ts";
import { type SentRequest, scripted } from "./scripted.ts";

type Answer = (request: SentRequest) => Response | Promise<Response>;

const list = (...ids: string[]): Response => Response.json({ data: ids.map((id) => ({ id })) });

function lookoutAt(first: Answer, model: string | null = null) {
  const clock = new FakeClock();
  const script = { answer: first };
  const { endpoint, sent } = scripted((request) => script.answer(request), { clock });
  const lines: string[] = [];
  let looks = 0;
  const lookout = new Lookout({
    ...{ endpoint, model, clock },
    log: (level, line) => lines.push(`${level} ${line}`),
    onLooked: () => {
      looks++;
    },
  });
  return { clock, script, sent, lines, lookout, looks: () => looks };
}

test("the first chat model in the list becomes the model", async () => {
  const { lookout, lines } = lookoutAt(() => list("bge-m3", "qwen3-4b", "other"));
  expect([lookout.looked, lookout.model]).toEqual([false, null]);
  await lookout.look();
  expect([lookout.looked, lookout.away, lookout.model]).toEqual([true, null, "qwen3-4b"]);
  expect(lines).toEqual(["info llm: qwen3-4b at http://endpoint:1234/v1"]);
});

test("a model with the name of an embedding model is asked as a chat model if it cannot embed", async () => {
  const answer =
    (status: number): Answer =>
    ({ path }) =>
      path.endsWith("/models")
        ? list("/models/bge-chat.gguf", "nomic-embed-text")
        : new Response("no", { status });
  for (const status of [404, 405, 501]) {
    const { lookout, sent } = lookoutAt(answer(status));
    await lookout.look();
    expect([lookout.away, lookout.model, sent.length]).toEqual([null, "/models/bge-chat.gguf", 2]);
  }
  // One that embeds, or is away, is none.
  for (const status of [200, 400, 500, 503]) {
    const { lookout } = lookoutAt(answer(status));
    await lookout.look();
    expect([status, lookout.model]).toEqual([status, null]);
    lookout[Symbol.dispose]();
  }
});

test("an endpoint that is loading is looked for, and its own words are the reason", async () => {
  const { clock, script, lookout } = lookoutAt(() =>
    Response.json({ error: { code: 503, message: "Loading model" } }, { status: 503 }),
  );
  await lookout.look();
  expect(lookout.away).toMatch(/^http:.*: the endpoint responded 503 Loading model; /);
  script.answer = () => Response.json({ status: "loading model" });
  await clock.advance(5000);
  expect(lookout.away).toContain("loading model");
  script.answer = () => list("qwen3-4b");
  await clock.advance(5000);
  expect([lookout.away, lookout.model]).toEqual([null, "qwen3-4b"]);
});

test("a named model stays, even if the endpoint lists others, lists none, or refuses to list", async () => {
  for (const answer of [
    () => list("other"),
    () => new Response("[]"),
    () => new Response("no", { status: 404 }),
  ]) {
    const { lookout } = lookoutAt(answer, "mine");
    await lookout.look();
    expect([lookout.away, lookout.model]).toEqual([null, "mine"]);
  }
});

test("the reason why no model can be asked names the address and what to do", async () => {
  const faults: [Answer, string | null, RegExp][] = [
    [
      () => Promise.reject(new TypeError("refused")),
      null,
      /no reply from http:.*: refused; .*--llm-base-url/,
    ],
    [() => new Response("no", { status: 404 }), null, /404/],
    [() => new Response("no", { status: 500 }), "mine", /500/],
    [() => new Response("no", { status: 401 }), "mine", /401.*--llm-api-key/],
    [() => new Response("[]"), null, /lists no models; .*--llm-base-url/],
    [() => list("bge-m3"), null, /lists no chat model; .*--llm-model/],
  ];
  for (const [answer, model, why] of faults) {
    const { lookout } = lookoutAt(answer, model);
    await lookout.look();
    expect(lookout.away).toMatch(why);
    lookout[Symbol.dispose]();
  }
});

test("the lookout looks for an endpoint that is away every 5 s, and logs a change once", async () => {
  const { clock, script, sent, lines, lookout, looks } = lookoutAt(() =>
    Promise.reject(new Error("refused")),
  );
  await lookout.look();
  await clock.advance(4999);
  expect(sent.length).toBe(1);
  await clock.advance(5001);
  expect([sent.length, looks()]).toEqual([3, 3]);
  script.answer = () => list("qwen3-4b");
  await clock.advance(5000);
  expect([sent.length, lookout.away]).toEqual([4, null]);
  await clock.advance(60_000);
  expect(sent.length).toBe(4);
  expect(lines.map((line) => line.split(" ")[0])).toEqual(["info", "info"]);
});

test("a look ends after 3 s, whatever the endpoint does", async () => {
  const { clock, lookout } = lookoutAt(() => new Promise<Response>(() => {}));
  const looking = lookout.look();
  await clock.advance(3000);
  await looking;
  expect(lookout.away).toContain("no reply within 3 s");
});

test("a second plan does not replace the first", async () => {
  const { clock, sent, lookout } = lookoutAt(() => list("qwen3-4b"));
  lookout.lookIn(100);
  lookout.lookIn(1);
  await clock.advance(99);
  expect(sent.length).toBe(0);
  await clock.advance(1);
  expect([sent.length, clock.pending]).toEqual([1, 0]);
});

test("after its disposal the lookout looks no more, and callers stop waiting for the first look", async () => {
  const { clock, sent, lookout, looks, lines } = lookoutAt(() => new Promise<Response>(() => {}));
  const looking = lookout.look();
  await clock.settle();
  lookout[Symbol.dispose]();
  await Promise.all([looking, lookout.firstLook]);
  lookout.lookIn(1);
  await clock.advance(60_000);
  expect([sent.length, looks(), lines, clock.pending]).toEqual([1, 0, [], 0]);
});
