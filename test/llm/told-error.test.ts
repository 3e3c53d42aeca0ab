import { expect, test } from "bun:test";
import { toldError } from "../../src/llm/told-error.ts";

const MESSAGE = { role: "assistant", content: "" };

test.each([
  [
    "LM Studio's answer to a wrong path",
    { error: "Unexpected endpoint or method. (POST /x)" },
    404,
    "Unexpected endpoint or method. (POST /x)",
  ],
  [
    "OpenRouter's limit",
    { error: { message: "Rate limit exceeded", code: 429 } },
    429,
    "Rate limit exceeded",
  ],
  [
    "OpenRouter's upstream",
    { error: { message: "Provider returned error", code: "502" } },
    502,
    "Provider returned error",
  ],
  [
    "an error of a choice",
    { choices: [{ error: { message: "disconnected", code: 502 }, message: MESSAGE }] },
    502,
    "disconnected",
  ],
  ["an error beside null", { choices: null, error: { message: "top up", code: 402 } }, 402, "top up"],
  [
    "a choice that ends with an error",
    { choices: [{ finish_reason: "error", message: MESSAGE }] },
    null,
    "the model ended with an error",
  ],
  ["vLLM's object", { object: "error", message: "no such thing", code: 400 }, 400, "no such thing"],
  ["FastAPI's detail", { detail: "Not Found" }, 404, "Not Found"],
  ["a list of details", { detail: [{ msg: "field required" }] }, null, '[{"msg":"field required"}]'],
  ["a server that loads", { status: "loading model" }, 503, "loading model"],
  ["llama.cpp while it loads", { error: { code: 503, message: "Loading model" } }, 503, "Loading model"],
  ["an error within an error", { error: { error: { message: "deep" } } }, null, "deep"],
  ["an object without words", { error: { reason: 7 } }, null, '{"reason":7}'],
  ["a code that is no status", { error: { message: "odd", code: "invalid_api_key" } }, null, "odd"],
])("%s is an error, whatever the status says", (_, reply, status, words) => {
  expect(toldError(reply)).toEqual({ status, words });
});

test.each([
  ["a completion", { choices: [{ message: MESSAGE, finish_reason: "stop" }], error: null }],
  ["a chunk of usage", { choices: [], usage: {} }],
  ["a list of models", { data: [{ id: "m" }], object: "list" }],
  ["an empty list", { data: [] }],
  ["a result with a message", { data: [], message: "ok" }],
  ["an empty error", { choices: [], error: "" }],
  ["no object", "Welcome"],
  ["nothing", null],
  ["an object that says nothing", {}],
])("%s is none", (_, reply) => {
  expect(toldError(reply)).toBeNull();
});
