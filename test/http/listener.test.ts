/** What happens when connections have taken all file descriptors. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import { Descriptors } from "../../src/http/descriptors.ts";
import { Listener } from "../../src/http/listener.ts";
import { FakeClock } from "../fake-clock.ts";
import { until } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

/** Descriptors of a process that has `free` of them. */
function around(free: number) {
  const state = { free, opened: 0 };
  const descriptors = new Descriptors({
    open: () => {
      if (state.free === 0) throw Object.assign(new Error("too many open files"), { code: "EMFILE" });
      state.free--;
      return ++state.opened;
    },
    close: () => {
      state.free++;
    },
  });
  return { state, descriptors };
}

function listening(free: number) {
  const { state, descriptors } = around(free);
  const clock = new FakeClock();
  const logged: string[] = [];
  const seen = { exhausted: 0 };
  const { promise: slow, resolve: answerSlow } = Promise.withResolvers<void>();
  const listener = new Listener({
    serve: {
      ...{ hostname: "127.0.0.1", port: 0, development: false, reusePort: false, idleTimeout: 255 },
      fetch: async (req: Request) => {
        if (req.url.endsWith("/slow")) await slow;
        return new Response("here");
      },
    },
    ...{ descriptors, clock },
    log: (level, message) => logged.push(`${level} ${message}`),
    onExhausted: () => {
      seen.exhausted++;
    },
  });
  const url = `http://127.0.0.1:${listener.port}`;
  return { state, clock, logged, seen, listener, url, answerSlow };
}

/** A connection that had a response and then sends `rest`. */
async function idle(port: number, rest: string): Promise<{ closed: boolean }> {
  const seen = { closed: false };
  await new Promise<void>((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () =>
      socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    );
    socket.on("error", reject);
    socket.on("data", () => {
      socket.write(rest);
      resolve();
    });
    socket.on("close", () => {
      seen.closed = true;
    });
  });
  return seen;
}

test("a few descriptors are reserved while it listens, and left to files when there are no others", () => {
  const { state, descriptors } = around(20);
  expect([descriptors.reserve(), state.free, descriptors.areLeft]).toEqual([true, 4, true]);
  expect(descriptors.reserve()).toBeTrue();
  state.free = 0;
  expect(descriptors.areLeft).toBeFalse();
  descriptors.release();
  expect(state.free).toBe(16);
  state.free = 15;
  expect([descriptors.reserve(), state.free]).toEqual([false, 15]);
});

test("idle connections are closed, and it listens again when descriptors are left", async () => {
  const { state, clock, logged, seen, listener, url } = listening(30);
  const connections = [await idle(listener.port, ""), await idle(listener.port, "GET /half HTTP/1.1\r\nHo")];
  await clock.advance(2000);
  expect([seen.exhausted, connections]).toEqual([0, [{ closed: false }, { closed: false }]]);
  state.free = 0;
  await clock.advance(500);
  expect([seen.exhausted, logged]).toEqual([1, [expect.stringContaining("raise the limit")]]);
  await until("idle connections are closed", () => connections.every(({ closed }) => closed));
  // Only the reserved ones are free now, so it does not listen yet.
  await expect(fetch(url)).rejects.toThrow();
  await clock.advance(5000);
  await expect(fetch(url)).rejects.toThrow();
  state.free += 5;
  await clock.advance(500);
  expect(await (await fetch(url)).text()).toBe("here");
  state.free = 0;
  await clock.advance(500);
  state.free += 5;
  await clock.advance(500);
  expect([seen.exhausted, logged.length]).toEqual([2, 1]);
  await listener.cut();
  expect(clock.pending).toBe(0);
});

test("a request under way is answered although its server does not listen any more", async () => {
  const { state, clock, listener, url, answerSlow } = listening(30);
  const slow = fetch(`${url}/slow`);
  await until("the request is there", () => listener.pendingRequests === 1);
  state.free = 0;
  await clock.advance(500);
  state.free += 5;
  await clock.advance(500);
  expect(await (await fetch(url)).text()).toBe("here");
  expect(listener.pendingRequests).toBe(1);
  answerSlow();
  expect(await (await slow).text()).toBe("here");
  await until("nothing is under way", () => listener.pendingRequests === 0);
  await listener.cut();
});

test("it tries again if another program has taken the port meanwhile", async () => {
  const { state, clock, logged, listener, url } = listening(30);
  state.free = 0;
  await clock.advance(500);
  const other = Bun.serve({
    ...{ hostname: "127.0.0.1", port: listener.port },
    fetch: () => new Response("other"),
  });
  state.free += 5;
  await clock.advance(500);
  expect(logged.at(-1)).toContain("another program already listens there");
  await other.stop(true);
  await clock.advance(500);
  expect(await (await fetch(url)).text()).toBe("here");
  await listener.cut();
});
