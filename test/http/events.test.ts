/** GET /api/events and GET /api/events/SEQ. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { RouteRequest } from "../../src/http/contract.ts";
import { EventReads } from "../../src/http/events.ts";
import { FakeClock } from "../fake-clock.ts";
import { failure, get, problem, StubStore, start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("reads of events", () => {
  test("/api/events passes its filters to the store and reports the store's lag", async () => {
    await using http = start();
    const store = http.store as StubStore;
    store.lag = 3;
    const all = "limit=7&type=T&intent=I&conversation_id=c%2F1&q=ol%C3%A1&before=9";
    const answer = await get(`${http.url}/api/events?${all}`);
    expect(await answer.text()).toBe('{"events":[],"next":null}');
    expect(answer.headers.get("x-store-lag")).toBe("3");
    store.lag = 0;
    const plain = await get(`${http.url}/api/events?limit=&type=&intent=&conversation_id=&q=`);
    expect(plain.headers.has("x-store-lag")).toBeFalse();
    expect(store.queries).toEqual([
      {
        limit: 7,
        type: "T",
        intent: "I",
        conversationId: "c/1",
        q: "olá",
        before: 9,
        bodyBytesMax: 1024 * 1024,
      },
      { limit: 50, bodyBytesMax: 1024 * 1024 },
    ]);
  });

  test("a page of large events is the same text, read from the store in parts of 1 MiB", async () => {
    await using http = start();
    const store = http.store as StubStore;
    store.kept = Array.from({ length: 9 }, (_, n) => `{"seq":${n + 1},"payload":"${"ã".repeat(400_000)}"}`);
    const page = async (query: string): Promise<{ events: { seq: number }[]; next: number | null }> => {
      const response = await get(`${http.url}/api/events?${query}`);
      expect(response.status).toBe(200);
      return (await response.json()) as { events: { seq: number }[]; next: number | null };
    };
    const seqs = ({ events }: { events: { seq: number }[] }): number[] => events.map(({ seq }) => seq);
    const newest = await page("limit=1000");
    expect([seqs(newest), newest.next]).toEqual([[9, 8, 7, 6, 5, 4, 3, 2, 1], null]);
    expect(store.queries.map(({ before, limit }) => [before, limit])).toEqual([
      [undefined, 1000],
      [8, 998],
      [6, 996],
      [4, 994],
      [2, 992],
    ]);
    const some = await page("limit=5");
    expect([seqs(some), some.next]).toEqual([[9, 8, 7, 6, 5], 5]);
    const upwards = await page("after=3&limit=4");
    expect([seqs(upwards), upwards.next]).toEqual([[4, 5, 6, 7], 7]);
    const last = await page("after=3&limit=6");
    expect([seqs(last), last.next]).toEqual([[4, 5, 6, 7, 8, 9], null]);
  });

  test("a page ends at 32 MiB and leads to the next page", async () => {
    await using http = start();
    const store = http.store as StubStore;
    store.kept = Array.from(
      { length: 6 },
      (_, n) => `{"seq":${n + 1},"payload":"${"x".repeat(8 * 1024 * 1024)}"}`,
    );
    const text = await (await get(`${http.url}/api/events?limit=1000`)).text();
    expect(text.endsWith('"}],"next":3}')).toBeTrue();
    expect((JSON.parse(text) as { events: object[] }).events).toHaveLength(4);
  });

  test("a parameter that is invalid, unknown or repeated is 400 and named", async () => {
    await using http = start();
    const wrong: [path: string, name: string][] = [
      ["/api/events?limit=0", "limit"],
      ["/api/events?limit=1001", "limit"],
      ["/api/events?limit=ten", "limit"],
      ["/api/events?limit=1e2", "limit"],
      ["/api/events?limit=5&limit=6", "limit"],
      ["/api/events?before=-1", "before"],
      ["/api/events?after=1.5", "after"],
      ["/api/events?after=9999999999999999", "after"],
      ["/api/events?before=5&after=1", "before"],
      ["/api/events?colour=red", "colour"],
      [`/api/events?q=${"x".repeat(1025)}`, "q"],
      ["/api/events/1?x=1", "x"],
      ["/api/frames?limit=1001", "limit"],
      ["/api/frames?after=x", "after"],
      ["/api/frames?before=1", "before"],
    ];
    for (const [path, name] of wrong) {
      const body = await problem(await get(http.url + path), 400, "bad_parameter");
      expect(body.detail).toContain(name);
    }
    expect((http.store as StubStore).queries).toHaveLength(0);
  });

  test("one event is found, missing, or not there yet", async () => {
    await using http = start();
    await http.post("[{},{}]");
    const found = await get(`${http.url}/api/events/1`);
    expect(`${found.status} ${await found.text()}`).toBe('200 {"seq":1}');
    await problem(await get(`${http.url}/api/events/2`), 404, "not_found");
    for (const seq of ["3", "0", "x", "01", "1/2", ""]) {
      await problem(await get(`${http.url}/api/events/${seq}`), 404, "not_found");
    }
    (http.store as StubStore).lag = 1;
    await problem(await get(`${http.url}/api/events/2`), 503, "store_unavailable");
  });

  test("a store that has failed is 503", async () => {
    await using http = start();
    (http.store as StubStore).failWith = failure("store_failed", "gone");
    await problem(await get(`${http.url}/api/events`), 503, "store_failed");
  });
});

describe("a store that is not open yet", () => {
  const request: RouteRequest = {
    ...{ req: new Request("http://localhost/api/events"), parameter: "", query: "", accept: "" },
    keepOpen: () => {},
    hold: () => true,
  };

  function reads() {
    const clock = new FakeClock();
    const state = { store: null as StubStore | null, stopping: false };
    const events = new EventReads({
      store: () => state.store,
      headSeq: () => 0,
      stopping: () => state.stopping,
      clock,
    });
    return { clock, state, events };
  }

  test("is waited for, and then read", async () => {
    const { clock, state, events } = reads();
    const page = events.page(request);
    await clock.advance(1900);
    state.store = new StubStore();
    await clock.advance(100);
    expect(await page).toMatchObject({ body: '{"events":[],"next":null}' });
  });

  test("is not waited for beyond 2 s", async () => {
    const { clock, events } = reads();
    const page = events.page(request);
    await clock.advance(2000);
    expect(await page).toMatchObject({ code: "store_unavailable", hint: "see /ready" });
  });

  test("is not waited for if the gateway is stopping", async () => {
    const { clock, state, events } = reads();
    const page = events.page(request);
    state.stopping = true;
    await clock.advance(10);
    expect(await page).toMatchObject({ code: "store_unavailable" });
  });
});
