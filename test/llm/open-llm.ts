/** Opens the client of the language model at the stub endpoint, on a clock that the test moves. */
import { MESSAGE_QUESTION } from "../../src/brain/prompts.ts";
import type { LlmClient, LlmOptions } from "../../src/llm/contract.ts";
import { openLlm } from "../../src/llm/llm.ts";
import { LlmStub, type Mode } from "../e2e/llm-stub.ts";
import { FakeClock } from "../fake-clock.ts";

/** Longer than any test takes, even on a machine whose cores are all busy. */
export const PATIENCE_MS = 60_000;

export interface Kept {
  text: string | null;
}

/** Closes everything that a test has opened, in reverse order. */
export class Opened {
  readonly #things: AsyncDisposable[] = [];

  add<T extends AsyncDisposable>(thing: T): T {
    this.#things.push(thing);
    return thing;
  }

  async close(): Promise<void> {
    for (const thing of this.#things.splice(0).reverse()) await thing[Symbol.asyncDispose]();
  }

  async stubIn(mode: Mode, port = 0): Promise<LlmStub> {
    const stub = this.add(await LlmStub.start(port));
    stub.mode = mode;
    return stub;
  }

  /** Time stands still for the client unless the test moves `clock`: no deadline passes and no breaker closes by itself. */
  llmAt(baseUrl: string | null, options: Partial<LlmOptions> = {}, kept: Kept = { text: null }): LlmClient {
    const llm = this.add(
      openLlm({
        baseUrl,
        apiKey: null,
        model: null,
        budgetCalls: null,
        trial: MESSAGE_QUESTION,
        kept: {
          read: () => kept.text,
          write: (text) => {
            kept.text = text;
          },
        },
        log: () => {},
        clock: new FakeClock(),
        ...options,
      }),
    );
    llm.start();
    return llm;
  }
}

export function ask(llm: LlmClient, data: string, deadlineMs = 5000) {
  return llm.ask({ ...MESSAGE_QUESTION, data, maxTokens: 512, deadlineMs });
}

export async function until(what: string, condition: () => boolean): Promise<void> {
  const untilMs = performance.now() + PATIENCE_MS;
  while (!condition()) {
    if (performance.now() > untilMs) throw new Error(`waited in vain until ${what}`);
    await Bun.sleep(2);
  }
}

export const CAR = "Quero fazer um seguro pro meu carro";
export const CAR_ANSWER = { intent: "CarInsuranceRequest", sentiment: 0.25, confidence: 0.9 };
