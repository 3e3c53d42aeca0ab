import { describe, expect, test } from "bun:test";
import { Contexts, complaintOf } from "../../src/llm/contexts.ts";

const at = (detail: string, status = 400) => complaintOf({ status, detail }, 2048);

describe("a refusal for too many tokens", () => {
  test.each([
    [
      "This model's maximum context length is 2048 tokens. However, you requested 2700 tokens (652 in the messages, 2048 in the completion). Please reduce the length of the messages or completion.",
      { contextTokens: 2048, promptTokens: 652, replyTokens: null },
    ],
    [
      "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is 2048 tokens and your request has 652 input tokens (2048 > 2048 - 652).",
      { contextTokens: 2048, promptTokens: 652, replyTokens: null },
    ],
    [
      "This model's maximum context length is 8,192 tokens, however you requested 9,000 tokens",
      { contextTokens: 8192, promptTokens: 9000 - 2048, replyTokens: null },
    ],
    [
      "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.",
      { contextTokens: 4096, promptTokens: 5000, replyTokens: null },
    ],
    [
      "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
      { contextTokens: 4096, promptTokens: 5000, replyTokens: null },
    ],
    [
      "the request exceeds the available context size. try increasing the context size or enable context shift",
      { contextTokens: null, promptTokens: null, replyTokens: null },
    ],
    [
      "Trying to keep the first 6000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens",
      { contextTokens: 4096, promptTokens: null, replyTokens: null },
    ],
    [
      "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1000 `inputs` tokens and 2048 `max_new_tokens`",
      { contextTokens: 2048, promptTokens: 1000, replyTokens: null },
    ],
    [
      "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
      { contextTokens: 32_768, promptTokens: 40_000, replyTokens: null },
    ],
    [
      "`max_tokens` must be less than or equal to `1024`, the maximum value for `max_tokens` is less than the `context_window` for this model",
      { contextTokens: null, promptTokens: null, replyTokens: 1024 },
    ],
    [
      "Invalid max_tokens value, the valid range of max_tokens is [1, 1024]",
      { contextTokens: null, promptTokens: null, replyTokens: 1024 },
    ],
    [
      "max_tokens: 2048 > 1024, which is the maximum allowed number of output tokens",
      { contextTokens: null, promptTokens: null, replyTokens: 1024 },
    ],
    [
      "max_tokens is too large: 2048. This model supports at most 1024 completion tokens, whereas you provided 2048.",
      { contextTokens: null, promptTokens: null, replyTokens: 1024 },
    ],
  ])("%s", (detail, complaint) => {
    expect(at(`the endpoint responded 400 ${detail}`)).toEqual(complaint);
  });

  test.each([
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "Invalid value for response_format",
    "grammar: too many rules",
    "this model has no system role",
    "bad request",
  ])("is not %p", (detail) => {
    expect(at(detail)).toBeNull();
  });

  test("has a status that says so", () => {
    expect(at("maximum context length is 2048 tokens", 429)).toBeNull();
    expect(complaintOf({ status: null, detail: "context length" }, 1)).toBeNull();
  });
});

test("what is known of a context leaves room for the prompt, and is none without", () => {
  const contexts = new Contexts();
  expect(contexts.tokensFor("m", 2048, 100_000)).toBe(2048);
  contexts.learn("m", { contextTokens: 2048, promptTokens: 500 }, 2000);
  expect(contexts.tokensFor("m", 2048, 2000)).toBe(2048 - 500 - 16);
  expect(contexts.tokensFor("m", 300, 2000)).toBe(300);
  expect(contexts.tokensFor("m", 2048, 8000)).toBeNull();
  // A short reply needs little room.
  expect(contexts.tokensFor("m", 16, 2000 * 4 - 200)).toBe(16);
  expect(contexts.tokensFor("other", 2048, 8000)).toBe(2048);
});
