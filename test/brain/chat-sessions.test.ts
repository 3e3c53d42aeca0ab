import { describe, expect, test } from "bun:test";
import { type ChatMessage, ChatSessions, newestMessages } from "../../src/brain/chat-sessions.ts";

function open() {
  const time = { ms: 1000 };
  let ids = 0;
  const sessions = new ChatSessions({ nowMs: () => time.ms, newSessionId: () => `new-${++ids}` });
  /** Runs one complete turn. */
  const talk = (id: string | null): string => {
    const session = sessions.begin(id);
    session.history = [{ role: "user", content: "Oi" }];
    sessions.end(session);
    return session.id;
  };
  return { sessions, time, talk };
}

const MINUTE_MS = 60_000;

describe("sessions", () => {
  test("get an id of their own if none is given, and are remembered under it", () => {
    const { sessions, talk } = open();
    expect([talk(null), talk(null), talk("mine")]).toEqual(["new-1", "new-2", "mine"]);
    expect(sessions.begin("new-1").history).toHaveLength(1);
    expect(sessions.count).toBe(3);
  });

  test("are forgotten 30 minutes after their last turn, and a turn gives them 30 more", () => {
    const { sessions, time, talk } = open();
    talk("old");
    talk("used");
    time.ms += 29 * MINUTE_MS;
    talk("used");
    time.ms += MINUTE_MS;
    talk("other");
    expect(sessions.count).toBe(2);
    expect(sessions.begin("used").history).toHaveLength(1);
    expect(sessions.begin("old").history).toEqual([]);
  });

  test("are not forgotten in the middle of a turn, however long it takes", () => {
    const { sessions, time, talk } = open();
    talk("busy");
    const busy = sessions.begin("busy");
    time.ms += 60 * MINUTE_MS;
    talk("other");
    sessions.end(busy);
    expect(sessions.begin("busy")).toBe(busy);
  });

  test("leave nothing behind if no turn was completed", () => {
    const { sessions } = open();
    sessions.end(sessions.begin("silent"));
    expect([sessions.count, sessions.busy]).toEqual([0, 0]);
  });

  test("are at most 1,000: a new one replaces the idle one that was used longest ago", () => {
    const { sessions, talk } = open();
    sessions.begin("busy");
    for (let n = 1; n < 1000; n++) talk(`s${n}`);
    talk("s1");
    talk("one more");
    expect([sessions.count, sessions.forgotten]).toEqual([1000, 1]);
    expect(sessions.begin("s1").history).toHaveLength(1);
    expect(sessions.begin("s3").history).toHaveLength(1);
    expect(sessions.begin("s2").history).toEqual([]);
    expect(() => sessions.begin("busy")).toThrow("this session");
  });

  test("take one turn at a time, and 32 turns together", () => {
    const { sessions } = open();
    const first = sessions.begin("s0");
    expect(() => sessions.begin("s0")).toThrow("this session");
    for (let n = 1; n < 32; n++) sessions.begin(`s${n}`);
    expect(() => sessions.begin("s32")).toThrow(expect.objectContaining({ code: "overloaded" }));
    expect([sessions.count, sessions.busy]).toEqual([32, 32]);
    sessions.end(first);
    expect(sessions.begin("s32").busy).toBe(true);
  });
});

describe("the messages that the model is shown again", () => {
  const messages = (count: number, chars: number): ChatMessage[] =>
    Array.from({ length: count }, (_, n) => ({
      role: n % 2 === 0 ? "user" : "assistant",
      content: "x".repeat(chars),
    }));

  test("are the newest 12, within 6,000 characters", () => {
    const all = messages(20, 10);
    expect(newestMessages(all)).toEqual(all.slice(8));
    expect(newestMessages(messages(12, 1000))).toHaveLength(6);
    expect(newestMessages(messages(2, 7000))).toEqual([]);
  });

  test("begin with the person", () => {
    expect(newestMessages(messages(19, 10))).toHaveLength(11);
    expect(newestMessages(messages(12, 1200)).map(({ role }) => role)).toEqual([
      ...["user", "assistant", "user", "assistant"],
    ] as ChatMessage["role"][]);
  });
});
