import { describe, expect, test } from "bun:test";
import { pieces, StreamError } from "../../src/llm/stream.ts";
import { askingOf } from "./scripted.ts";

describe("pieces", () => {
  const sse = (...contents: string[]): Response => {
    const events = contents.map(
      (content) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`,
    );
    return new Response(events.join(""), { headers: { "content-type": "text/event-stream" } });
  };
  const request = {
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hi" },
    ],
    maxTokens: 9,
    deadlineMs: 1000,
  } as const;

  test("come without thoughts, and are asked for in the form that the model accepts", async () => {
    const { context, limit, bodies } = askingOf([sse("<think>hm</th", "ink>Hel", "lo <b")]);
    context.forms.learn("m", ["system", "max_tokens"]);
    context.forms.noteThoughts("m", { orphan: false });
    const shown: string[] = [];
    for await (const piece of pieces(context, request, limit)) shown.push(piece);
    expect(shown).toEqual(["Hel", "lo ", "<b"]);
    expect(bodies()).toEqual([
      {
        model: "m",
        messages: [{ role: "user", content: "Be brief.\n\nHi" }],
        max_completion_tokens: 9,
        stream: true,
      },
    ]);
  });

  test("come at the end until the model has sent a text, and for good if a thought of it had no beginning", async () => {
    const plain = ["Hel", "lo"];
    const orphan = ["The per", "son</think>", "Hel", "lo"];
    const { context, limit } = askingOf(
      [plain, plain, plain, orphan, plain, orphan].map((parts) => sse(...parts)),
    );
    const read = async (whole = false): Promise<string[]> => {
      const shown: string[] = [];
      for await (const piece of pieces(context, { ...request, whole }, limit)) shown.push(piece);
      return shown;
    };
    expect(await read()).toEqual(["Hello"]);
    expect(await read()).toEqual(["Hel", "lo"]);
    expect(await read(true)).toEqual(["Hello"]);
    expect(await read(true)).toEqual(["Hello"]);
    expect(await read()).toEqual(["Hello"]);
    expect(await read()).toEqual(["Hello"]);
  });

  test("hide what an unknown mark began, if the reply is cut off at its limit of tokens", async () => {
    const end = (finish_reason: string) =>
      `data: ${JSON.stringify({ choices: [{ delta: {}, finish_reason }] })}\n\n`;
    const reply = (finish: string): Response =>
      new Response(`data: {"choices":[{"delta":{"content":"[NOTE] Hello"}}]}\n\n${end(finish)}`, {
        headers: { "content-type": "text/event-stream" },
      });
    const { context, limit } = askingOf([reply("stop"), reply("length")]);
    expect(await Array.fromAsync(pieces(context, request, limit))).toEqual(["[NOTE] Hello"]);
    expect(await Array.fromAsync(pieces(context, request, limit))).toEqual([]);
  });

  test.each([
    ["a reply without chunks", Response.json({}), null, "no_completion"],
    ["an error status", 500, null, "server_error"],
    ["an empty budget", sse("Hello"), 0, "budget"],
  ] as const)("end with a StreamError after %s", async (_, answer, callsMax, reason) => {
    const { context, limit } = askingOf([answer], callsMax);
    const read = async (): Promise<void> => {
      for await (const _piece of pieces(context, request, limit));
    };
    const error = await read().then(
      () => null,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(StreamError);
    expect((error as StreamError).failure.reason).toBe(reason);
  });
});
