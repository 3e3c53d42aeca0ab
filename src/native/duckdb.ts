/** DuckDB with its native library. No other module imports the package, and only the store's Worker and the self-test import this one. */
import "./duckdb-preload.ts";

export * from "@duckdb/node-api";
