/** Runs the fault-injecting endpoint in its own process and prints its base URL: `bun llm-endpoint.ts MODE`. */
import { LlmStub, type Mode } from "../../test/e2e/llm-stub.ts";

const stub = await LlmStub.start();
stub.mode = (process.argv[2] ?? "well") as Mode;
stub.keep = false;
console.log(stub.baseUrl);
