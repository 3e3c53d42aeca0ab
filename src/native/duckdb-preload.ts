/** Loads libduckdb into the process as soon as it is imported. So it must be imported before the package, which needs the library. */
import { preloadDuckdb } from "./libraries.ts";

await preloadDuckdb();
