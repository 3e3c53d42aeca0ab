/** Imported for its effect, before the packages: loads libonnxruntime into the process. */
import { preloadOnnx } from "./libraries.ts";

await preloadOnnx();
