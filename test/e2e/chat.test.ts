/** Chat in the executable, with an OpenAI-compatible endpoint whose model thinks aloud. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Gateway, TempFolder, until } from "./gateway.ts";

setDefaultTimeout(300_000);

interface Completion {
  messages: { role: string; content: string }[];
  stream?: boolean;
  response_format?: {
    type: string;
    json_schema?: { schema: { properties: { intent: { enum: unknown[] } } } };
  };
}

/** Replies to the chat's questions with thoughts around the reply, and records the questions. */
function endpoint() {
  const asked: Completion[] = [];
  const state = {
    understood: {} as unknown,
    pieces: ["<thi", "nk>The person said </b>", "</think>", "De que ", "<b>ano</b> é?"],
  };
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (req) => {
      if (new URL(req.url).pathname.endsWith("/models"))
        return Response.json({ object: "list", data: [{ id: "stub-chat", object: "model" }] });
      const body = (await req.json()) as Completion;
      asked.push(body);
      if (body.stream === true) {
        const lines = state.pieces.map(
          (content) =>
            `data: ${JSON.stringify({ id: "x", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content } }] })}\n\n`,
        );
        return new Response(`${lines.join("")}data: [DONE]\n\n`, {
          headers: { "content-type": "text/event-stream" },
        });
      }
      const content = `<think>{"intent":"Wrong"}</think>\n\`\`\`json\n${JSON.stringify(state.understood)}\n\`\`\``;
      return Response.json({
        id: "x",
        object: "chat.completion",
        choices: [{ index: 0, finish_reason: "stop", message: { role: "assistant", content } }],
      });
    },
  });
  return {
    url: `http://127.0.0.1:${server.port}/v1`,
    asked,
    state,
    stop: () => server.stop(true),
  };
}

describe("chat in the executable", () => {
  test("understands a request, asks for missing slots, and streams no thoughts and no HTML", async () => {
    using folder = new TempFolder();
    const model = endpoint();
    try {
      await using gateway = await Gateway.start(folder, { args: ["--llm-base-url", model.url] });
      const event = { type: "CarInsuranceRequest", car: { model: "Gol", year: 2019 } };
      await gateway.postLines(`${Array(3).fill(JSON.stringify(event)).join("\n")}\n`);
      await until("the schema is learned", async () => (await gateway.metrics()).gateway_schema_types === 1);
      await until("the model is found", async () =>
        (await (await gateway.fetch("/metrics")).text()).includes('part="llm",state="ok"'),
      );
      const chat = (body: object, accept = "application/json"): Promise<Response> =>
        gateway.fetch("/api/chat", {
          method: "POST",
          headers: { "content-type": "application/json", accept },
          body: JSON.stringify(body),
        });
      model.state.understood = {
        intent: "CarInsuranceRequest",
        slots: [
          { name: "car.model", value: "Uno" },
          { name: "car.year", value: 1999 },
        ],
      };
      const first = await chat({ msg: "Quero um seguro pro meu Uno" });
      expect(await first.json()).toEqual({
        role: "assistant",
        content: "De que ano é?",
        session_id: expect.any(String),
        intent: "CarInsuranceRequest",
        slots: { "car.model": "Uno" },
        missing: ["car.year"],
        complete: false,
      });
      const question = model.asked.find(({ stream }) => stream !== true);
      expect(question?.response_format?.json_schema?.schema.properties.intent.enum).toEqual([
        "CarInsuranceRequest",
        null,
      ]);
      model.state.understood = { intent: null, slots: { "car.year": "2015" } };
      const text = await (await chat({ msg: "2015", session_id: "b" }, "text/event-stream")).text();
      expect(text).toContain('event: text\ndata: {"content":"ano é?"}');
      expect(text).toContain("event: done\n");
      expect(text).not.toContain("think");
      // Whatever a model puts around its thoughts, and even if only their end is marked.
      for (const [begin, end] of [
        ["", "</think>"],
        ["[THINK]", "[/THINK]"],
        ["<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"],
        ["analysis", "assistantfinal"],
        ["<wuzzle>", "</wuzzle>"],
      ]) {
        model.state.pieces = [...`${begin}SECRET thought${end}Bom dia!`];
        const reply = (await (await chat({ msg: "Oi" })).json()) as { content: string };
        expect([begin, reply.content]).toEqual([begin, "Bom dia!"]);
      }
      await model.stop();
      const away = await chat({ msg: "Oi", session_id: "c" });
      expect(away.status).toBe(503);
      expect(await away.json()).toMatchObject({ code: "llm_unavailable", hint: expect.any(String) });
    } finally {
      await model.stop();
    }
  });
});
