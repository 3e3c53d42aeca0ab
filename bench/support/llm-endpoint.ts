/** The fault-injecting endpoint in a process of its own: `bun llm-endpoint.ts MODE`; prints its base URL. */
import { LlmStub, type Mode } from "../../test/e2e/llm-stub.ts";

const stub = await LlmStub.start();
stub.mode = (process.argv[2] ?? "well") as Mode;
stub.keep = false;
console.log(stub.baseUrl);
