/** Loads libonnxruntime into the process. Import it before the packages, which then find the library. */
import { preloadOnnx } from "./libraries.ts";

await preloadOnnx();
