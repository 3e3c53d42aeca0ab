/** Imported for its effect, before the package: libduckdb is in the process when this has been evaluated. */
import { preloadDuckdb } from "./libraries.ts";

await preloadDuckdb();
