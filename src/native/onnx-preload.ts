/** Imported for its effect, before the packages: libonnxruntime is in the process when this has been evaluated. */
import { preloadOnnx } from "./libraries.ts";

await preloadOnnx();
