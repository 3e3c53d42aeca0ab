import { describe, expect, test } from "bun:test";
import type { ChatPart } from "../../src/brain/brain.ts";
import { type Chat, ChatTurns } from "../../src/dashboard/chat.ts";
import { settle } from "./fixtures.ts";

function open(chat: Chat | null) {
  const seen = { changes: 0 };
  const turns = new ChatTurns({ chat: () => chat, chatAdvice: () => "start one" }, () => {
    seen.changes += 1;
  });
  return { turns, newest: () => turns.view().turns.at(-1), seen };
}

const state = {
  ...{ session_id: "s", intent: "compra", slots: { dia: "hoje" }, missing: ["canal"], complete: false },
};
const text = (piece: string): ChatPart => ({ kind: "text", text: piece });

describe("chat", () => {
  test("a reply streams in with what was understood; one question at a time", async () => {
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const asked: string[] = [];
    const { turns, newest, seen } = open(async function* (message) {
      asked.push(message);
      await gates[0]?.promise;
      yield { kind: "state", state };
      yield text("Cla");
      yield text("ro");
      await gates[1]?.promise;
      yield text("!");
    });
    const replied = turns.ask("Oi");
    await turns.ask("E aí?");
    expect(asked).toEqual(["Oi"]);
    expect(turns.view()).toMatchObject({ available: true, answering: true });
    expect(newest()).toMatchObject({ from: "brain", text: "", state: "streaming", intent: null });
    gates[0]?.resolve();
    await settle();
    expect(newest()).toMatchObject({
      text: "Claro",
      state: "streaming",
      intent: "compra",
      slots: { dia: "hoje" },
    });
    gates[1]?.resolve();
    await replied;
    expect(turns.view().answering).toBe(false);
    expect(turns.view().turns).toMatchObject([
      { from: "you", text: "Oi", state: "done" },
      { from: "brain", text: "Claro!", state: "done", intent: "compra", missing: ["canal"] },
    ]);
    // Each part, the end, and that another question may come.
    expect(seen.changes).toBe(6);
  });

  const halting: Chat = async function* (message, signal) {
    yield text("Come");
    if (message === "fail") throw new Error("the endpoint is away");
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
  };

  test("a reply that fails says so and keeps what came", async () => {
    const { turns, newest } = open(halting);
    await turns.ask("fail");
    expect(newest()).toMatchObject({ text: "Come\n(the endpoint is away)", state: "failed" });
  });

  test.each(["stop", "dispose"] as const)(
    "%s ends the reply that is coming and keeps what came",
    async (how) => {
      const { turns, newest } = open(halting);
      turns.stop();
      const replied = turns.ask("stop");
      await settle();
      expect(newest()?.text).toBe("Come");
      if (how === "stop") turns.stop();
      else turns[Symbol.dispose]();
      await replied;
      expect(newest()).toMatchObject({ text: "Come\n(stopped)", state: "failed" });
    },
  );

  test("a question that no model takes is answered by what to start", async () => {
    const { turns } = open(null);
    await turns.ask("Oi");
    expect(turns.view()).toMatchObject({ available: false, advice: "start one", answering: false });
    expect(turns.view().turns).toMatchObject([
      { from: "you", text: "Oi" },
      { from: "brain", text: "start one", state: "failed" },
    ]);
  });

  test("turns and their texts are bounded", async () => {
    const { turns, newest } = open(async function* () {
      yield text("x".repeat(70_000));
    });
    for (let turn = 0; turn < 120; turn++) await turns.ask(`${turn}`);
    expect(turns.view().turns.length).toBe(200);
    expect(turns.view().turns.at(-2)?.text).toBe("119");
    expect(newest()?.text.length).toBe(64_000);
  });
});
